"""Deadlines: answers without a worker are found and ended, others are left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.streams import deadlines, jobs, keys, presence
from gateway.streams.liveness import RELEASED_MS
from gateway.streams.log_entries import End
from tests.gateway.streams.steps import COMPLETE, LEASE, Conversation, FastRoundTrips
from tests.gateway.streams.test_presence import WORKER

if TYPE_CHECKING:
    from gateway.streams.store.store import Store

LONG_S = 600.0


@pytest.fixture
async def conversation(store: Store) -> Conversation:
    return Conversation(store)


async def ended(conversation: Conversation, deadline_s: float, **of_models: float) -> list[str]:
    """Look for overdue responses and end them; return them."""
    found = await deadlines.look(conversation.store, conversation.partition, deadline_s, LONG_S, of_models)
    return [response for _, response in await deadlines.end(conversation.store, found.ended)]


async def silent(conversation: Conversation, deadline_s: float, silent_s: float) -> list[str]:
    found = await deadlines.look(conversation.store, conversation.partition, deadline_s, silent_s)
    return [response for _, response in found.silent]


async def set_idle(conversation: Conversation, seconds: float) -> None:
    """Make every job that is delivered idle for so long."""
    for job, holder in (await conversation.pending()).items():
        idle = int(seconds * 1000)
        await conversation.redis.xclaim(
            keys.jobs(conversation.partition), keys.GROUP, holder, 0, [job], idle=idle, justid=True
        )


async def error_of(conversation: Conversation, response: str) -> tuple[str, str | None, bool | None]:
    settled = await conversation.settled(response)
    return settled.reason, settled.error.code if settled.error else None, settled.retryable


@pytest.mark.parametrize("listed", ["not delivered", "waiting", "released", "held"])
async def test_models_may_have_deadlines_of_their_own(conversation: Conversation, listed: str) -> None:
    await conversation.prepare()
    accepted = await conversation.ask(model="slow")
    if listed == "waiting":
        assert await conversation.takes("w1", room=0) == []
    elif listed != "not delivered":
        job = await conversation.take("w1")
        await (jobs.release(conversation.store, job, "w1") if listed == "released" else set_idle(conversation, 100.0))
    assert await ended(conversation, 0.0, slow=LONG_S) == []
    assert await ended(conversation, LONG_S, another=0.0) == []
    assert await ended(conversation, LONG_S, another=LONG_S, slow=0.0) == [accepted.response]
    assert await error_of(conversation, accepted.response) == ("failed", "no_worker", True)


async def test_jobs_with_a_long_deadline_hide_none_with_a_short_one(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "MAX_OVERDUE", 2)
    await conversation.prepare()
    asked = 0
    while asked < 5:
        other = Conversation(conversation.store)
        if other.partition == conversation.partition:
            await other.ask(model="slow")
            asked += 1
    accepted = await conversation.ask(model="fast")
    assert await ended(conversation, LONG_S, fast=0.0) == [accepted.response]


@pytest.mark.parametrize("listed", ["no group", "not delivered", "waiting"])
async def test_message_that_no_worker_takes_ends(conversation: Conversation, listed: str) -> None:
    if listed != "no group":
        await conversation.prepare()
    accepted = await conversation.ask()
    if listed == "waiting":
        # A worker of another model looked at it.
        assert (
            await jobs.acquire(
                conversation.store, "w1", [conversation.partition], 1, FastRoundTrips(LEASE), ["another"]
            )
            == []
        )
    assert await ended(conversation, LONG_S) == []
    assert await ended(conversation, 0.0) == [accepted.response]
    assert await error_of(conversation, accepted.response) == ("failed", "no_worker", True)
    assert await ended(conversation, 0.0) == []
    assert await conversation.open() == await conversation.jobs() == {}


async def test_answer_of_a_dead_worker_ends_with_its_text(conversation: Conversation) -> None:
    await conversation.prepare()
    accepted = await conversation.ask()
    writer = await conversation.begin("w1")
    await writer.write("Bec")
    await set_idle(conversation, 100.0)
    assert await ended(conversation, 200.0) == []
    assert await ended(conversation, 100.0) == [accepted.response]
    assert await error_of(conversation, accepted.response) == ("failed", "no_worker", True)
    assert await conversation.settled_text(accepted.response) == "Bec"
    assert not await writer.write("ause"), "the worker is fenced"


async def test_answer_of_a_live_worker_is_left_alone(conversation: Conversation) -> None:
    await conversation.prepare()
    await conversation.ask()
    writer = await conversation.begin("w1")
    await set_idle(conversation, 100.0)
    assert await jobs.renew(conversation.store, writer.job, "w1") == "held"
    assert await ended(conversation, 50.0) == []
    assert await silent(conversation, LONG_S, 50.0) == []


async def test_released_job_waits_since_its_release(conversation: Conversation) -> None:
    await conversation.prepare()
    accepted = await conversation.ask()
    job = await conversation.take("w1")
    await jobs.release(conversation.store, job, "w1")
    assert await ended(conversation, LONG_S) == []
    await set_idle(conversation, RELEASED_MS / 1000 + 100.0)
    assert await ended(conversation, 200.0) == []
    assert await ended(conversation, 100.0) == [accepted.response]


async def test_job_that_an_older_worker_released_waits_since_then(conversation: Conversation) -> None:
    await conversation.prepare()
    accepted = await conversation.ask()
    await conversation.take("w1")
    await set_idle(conversation, RELEASED_MS / 1000 + 100.0)
    assert await ended(conversation, 200.0) == []
    assert await silent(conversation, 200.0, 50.0) == []
    assert await ended(conversation, 100.0) == [accepted.response]


async def test_silent_worker_is_reported_before_the_deadline(conversation: Conversation) -> None:
    await conversation.prepare()
    accepted = await conversation.ask()
    await conversation.begin("w1")
    await set_idle(conversation, 100.0)
    assert await silent(conversation, LONG_S, 90.0) == [accepted.response]
    assert await silent(conversation, LONG_S, 200.0) == []
    assert await silent(conversation, 90.0, 50.0) == [], "it is overdue"


async def test_without_a_worker_the_messages_behind_end_too(conversation: Conversation) -> None:
    asked = [(await conversation.ask()).response for _ in range(3)]
    assert sorted(await ended(conversation, 0.0)) == sorted(asked)
    assert await conversation.open() == await conversation.jobs() == {}


async def test_with_a_worker_the_message_behind_gets_its_own_time(conversation: Conversation) -> None:
    await presence.report(conversation.store, WORKER)
    first, second = [(await conversation.ask()).response for _ in range(2)]
    assert await ended(conversation, 0.0) == [first]
    assert set(await conversation.jobs()) == {second}


async def test_released_jobs_hide_no_overdue_one(conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "MAX_OVERDUE", 2)
    await conversation.prepare()
    store = conversation.store
    others: list[Conversation] = []
    while len(others) < 5:
        other = Conversation(store)
        if other.partition == conversation.partition:
            others.append(other)
            await other.ask()
    for job in await conversation.takes("w1"):
        await jobs.release(store, job, "w1")
    accepted = await conversation.ask()
    assert await conversation.takes("w2", room=0) == []
    assert await ended(conversation, 0.0) != []
    for _ in range(5):
        await ended(conversation, 0.0)
    assert await conversation.open() == {}
    assert await error_of(conversation, accepted.response) == ("failed", "no_worker", True)


async def test_lost_job_is_queued_again_and_a_lost_log_ends(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await conversation.redis.delete(keys.jobs(conversation.partition))
    await deadlines.requeue(conversation.store, conversation.partition, LEASE)
    assert set(await conversation.jobs()) == {accepted.response}
    await conversation.redis.delete(keys.log(accepted.response), keys.requeue_lock(conversation.partition))
    await deadlines.requeue(conversation.store, conversation.partition, LEASE)
    assert await error_of(conversation, accepted.response) == ("failed", "expired", True)


async def test_foreign_entries_are_no_overdue_answers(conversation: Conversation) -> None:
    await conversation.prepare()
    await conversation.redis.xadd(keys.jobs(conversation.partition), {"foo": b"\xff"})
    assert await ended(conversation, 0.0) == []


async def test_end_of_a_worker_wins_when_it_is_first(conversation: Conversation) -> None:
    await conversation.prepare()
    accepted = await conversation.ask()
    writer = await conversation.begin("w1")
    await set_idle(conversation, 100.0)
    found = await deadlines.look(conversation.store, conversation.partition, 100.0, 50.0)
    await writer.end(COMPLETE)
    assert await deadlines.end(conversation.store, found.ended) == []
    assert await conversation.stop(accepted.response, End("failed"))
    assert await error_of(conversation, accepted.response) == ("complete", None, None)
