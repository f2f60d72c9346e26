"""Claim, append and end: one writer at a time, no duplicates, no gaps, one final end."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest

from gateway.streams import history_log, jobs, keys, log_entries, response_log
from gateway.streams.log_entries import NONCES, End, LogId, Opened, Problem, Settled, Start, UserMessage
from gateway.streams.response_log import MAX_PUBLISHED, Claimed, Ended, TailMismatch
from gateway.streams.store.errors import StoreUnavailableError
from gateway.streams.store.store import MAX_LONG_ENDS, Lifetimes, Store
from tests.gateway.streams.steps import (
    COMPLETE,
    LEASE,
    START,
    STOPPED,
    Conversation,
    Writer,
    claim,
    fold,
    lines,
    lose_tail,
    nothing_changes,
    receiving,
    text,
)
from tests.stores import Stores, with_lost_replies

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.streams.history_log import Accepted
    from gateway.streams.queued_jobs import Job


@pytest.fixture
async def conversation(store: Store) -> Conversation:
    conversation = Conversation(store)
    await conversation.prepare()
    return conversation


async def claim_as(store: Store, job: Job, worker: str, *, keep_text: bool = False, most: int = 3) -> object:
    return await response_log.claim(store, job, worker, START, keep_text=keep_text, max_attempts=most)


async def tail(store: Store, response: str) -> LogId:
    return (await response_log.read(store, response))[-1][0]


# Claim


async def test_claim_writes_and_publishes_a_start(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    job = await conversation.take()
    async with receiving(conversation) as receiver:
        claimed = await claim_as(conversation.store, job, "w1")
        assert isinstance(claimed, Claimed)
        (queued_id, _), (start_id, start) = await response_log.read(conversation.store, accepted.response)
        assert claimed == Claimed(before=queued_id, start=start_id)
        assert (start_id.number, start_id.seq) == (1, 2)
        assert start == log_entries.encode(log_entries.START, START)
        assert await receiver.received() == [("feed", lines(f"@{accepted.response} {start_id} {queued_id}", start))]


async def test_claim_that_keeps_the_text_writes_a_continue(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await claim_as(conversation.store, await conversation.take(), "w1", keep_text=True)
    assert (await response_log.read(conversation.store, accepted.response))[-1][1] == log_entries.encode(
        log_entries.CONTINUE, START
    )


async def test_repeated_claim_returns_its_own_start(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    claimed = await claim_as(with_lost_replies(conversation.store), await conversation.take(), "w1")
    assert isinstance(claimed, Claimed)
    assert [entry for entry, _ in await response_log.read(conversation.store, accepted.response)] == [
        claimed.before,
        claimed.start,
    ]


async def test_seq_continues_across_attempts_with_new_nonces(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    for _ in range(3):
        assert await (await conversation.begin(lease=0)).write("a", "b")
    ids = [entry for entry, _ in await response_log.read(conversation.store, accepted.response)]
    assert [entry.seq for entry in ids] == list(range(1, 11))
    assert [entry.number for entry in ids] == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len({entry.attempt % NONCES for entry in ids}) == 4
    assert ids == sorted(ids)


@pytest.mark.parametrize("nonce", [0, 1, NONCES - 1])
async def test_ids_are_exact_for_every_nonce(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch, nonce: int
) -> None:
    monkeypatch.setattr(history_log, "nonce", lambda: nonce)
    monkeypatch.setattr(response_log, "nonce", lambda: nonce)
    accepted = await conversation.ask()
    for _ in range(3):
        writer = await conversation.begin(lease=0)
        await writer.write("a")
    await conversation.stop(accepted.response)
    ids = [entry for entry, _ in await response_log.read(conversation.store, accepted.response)]
    assert [entry.attempt for entry in ids] == [number * NONCES + nonce for number in (0, 1, 1, 2, 2, 3, 3, 4)]


async def test_ids_are_exact_for_many_attempts(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    job = await conversation.take()
    # The largest cursor has 16 digits.
    far = LogId(999_999 * NONCES + 123_456_789, 2)
    await conversation.redis.xadd(keys.log(accepted.response), {log_entries.FIELD: b"Ta"}, id=str(far))
    claimed = await claim_as(conversation.store, job, "w1", most=10**9)
    assert isinstance(claimed, Claimed)
    assert claimed.before == far
    assert (claimed.start.number, claimed.start.seq) == (1_000_000, 3)
    attempt = claimed.start.attempt
    first = LogId(attempt, 4)
    assert await append(conversation, accepted, claimed.start, first, "b", "c") == "appended"
    assert await tail(conversation.store, accepted.response) == LogId(attempt, 5)
    ended = await conversation.stop(accepted.response)
    assert isinstance(ended, Ended)
    assert ended.cursor is not None
    assert (ended.cursor.number, ended.cursor.seq) == (1_000_001, 6)


async def test_attempts_are_limited_and_the_last_text_is_kept(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    for _ in range(2):
        await (await conversation.begin(lease=0)).write("Bec", "ause")
    job = await conversation.take("w3", lease=0)
    async with nothing_changes(conversation.store):
        assert await claim_as(conversation.store, job, "w3", most=2) == "exhausted"
    await conversation.stop(accepted.response, End("failed"))
    assert await conversation.settled_text(accepted.response) == "Because"


async def test_claim_of_an_ended_response_deletes_its_job(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await conversation.stop(accepted.response)
    # A possible state after a failover: an end, and a job.
    fields = {"response": accepted.response, "conversation": conversation.name}
    await conversation.redis.xadd(keys.jobs(conversation.partition), fields)
    job = await conversation.take()
    entries = await response_log.read(conversation.store, accepted.response)
    assert await claim_as(conversation.store, job, "w1") == "ended"
    assert await conversation.jobs() == await conversation.pending() == {}
    assert await response_log.read(conversation.store, accepted.response) == entries
    assert await claim_as(conversation.store, job, "w1") == "lost"


@pytest.mark.parametrize("how", ["expired", "trimmed"])
async def test_claim_without_a_log_is_expired(conversation: Conversation, how: str) -> None:
    accepted = await conversation.ask()
    job = await conversation.take()
    if how == "expired":
        await conversation.redis.delete(keys.log(accepted.response))
    else:
        await conversation.redis.xtrim(keys.log(accepted.response), maxlen=0, approximate=False)
    async with nothing_changes(conversation.store):
        assert await claim_as(conversation.store, job, "w1") == "expired"


async def test_only_the_holder_of_a_job_can_claim(conversation: Conversation) -> None:
    await conversation.ask()
    job = await conversation.take("w1")
    async with nothing_changes(conversation.store):
        assert await claim_as(conversation.store, job, "w2") == "lost"
    assert (await conversation.take("w2", lease=0)) == job
    async with nothing_changes(conversation.store):
        assert await claim_as(conversation.store, job, "w1") == "lost"
    assert isinstance(await claim_as(conversation.store, job, "w2"), Claimed)


async def test_claim_without_a_job_stream_is_lost(conversation: Conversation) -> None:
    await conversation.ask()
    job = await conversation.take()
    await conversation.redis.delete(keys.jobs(conversation.partition))
    async with nothing_changes(conversation.store):
        assert await claim_as(conversation.store, job, "w1") == "lost"


# Append


async def append(
    conversation: Conversation, accepted: Accepted, expected: LogId, first: LogId, *pieces: str
) -> LogId | Literal["appended"] | None:
    return await response_log.append(
        conversation.store, conversation.name, accepted.response, expected, first, text(*pieces), timeout_s=10.0
    )


async def test_append_is_written_and_published_exactly(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    texts = ['Be"cause\n', "\\ \u2028", "😀", "", "@c 1-1"]
    async with receiving(conversation) as receiver:
        assert await writer.write(*texts)
        assert await receiver.received() == [
            ("feed", lines(f"@{accepted.response} {writer.start.attempt}-3 {writer.start}", *text(*texts)))
        ]
    entries = await response_log.read(conversation.store, accepted.response)
    assert [value for _, value in entries[2:]] == text(*texts)
    assert fold(entries) == "".join(texts)


async def test_published_append_equals_the_log(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    async with receiving(conversation) as receiver:
        await writer.write("a", "b\n", "c")
        (message,) = await receiver.feed()
    (published,) = log_entries.parse_published(message)
    entries = await response_log.read(conversation.store, accepted.response)
    _, start, first, *_ = (str(entry).encode() for entry, _ in entries)
    assert published == log_entries.Published(accepted.response, first, start, [value for _, value in entries[2:]])


@pytest.mark.parametrize("beyond", [0, 1])
async def test_large_append_is_published_without_entries(conversation: Conversation, beyond: int) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    async with receiving(conversation) as receiver:
        await writer.write("a" * 1000, "b" * (MAX_PUBLISHED - 1002 + beyond))
        (message,) = await receiver.feed()
    (published,) = log_entries.parse_published(message)
    assert published.first == f"{writer.start.attempt}-3".encode()
    assert [len(value) for value in published.values] == ([] if beyond else [1001, MAX_PUBLISHED - 1001])
    assert len(fold(await response_log.read(conversation.store, accepted.response))) == MAX_PUBLISHED - 2 + beyond


async def test_append_with_an_unexpected_tail_changes_nothing(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("a", "b")
    attempt, last = writer.start.attempt, await tail(conversation.store, accepted.response)
    async with receiving(conversation) as receiver, nothing_changes(conversation.store):
        for expected in (writer.start, LogId(attempt, 3), LogId(attempt, 9), LogId(attempt - 1, 4), LogId(0, 1)):
            first = LogId(attempt, expected.seq + 1)
            assert await append(conversation, accepted, expected, first, "c") == last
        assert await receiver.received() == []


async def test_repeated_append_is_written_once(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    writer.store = with_lost_replies(conversation.store)
    async with receiving(conversation) as receiver:
        for piece in "Because":
            assert await writer.write(piece)
        assert len(await receiver.feed()) == len("Because")
    assert fold(await response_log.read(conversation.store, accepted.response)) == "Because"
    assert isinstance(await writer.end(), Ended)


async def test_append_does_not_recreate_an_expired_log(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("a")
    await conversation.redis.delete(keys.log(accepted.response))
    async with nothing_changes(conversation.store):
        assert await append(conversation, accepted, writer.attempt.tail, LogId(writer.start.attempt, 4), "b") is None
        assert not await writer.write("b")


async def test_append_after_the_end_is_refused(conversation: Conversation) -> None:
    await conversation.ask()
    writer = await conversation.begin()
    await writer.write("a")
    await writer.end()
    async with nothing_changes(conversation.store):
        assert not await writer.write("b")


@pytest.mark.parametrize("lost", [1, 2, 4, 5, 6])
async def test_lost_tail_is_rewritten_with_the_same_ids(conversation: Conversation, lost: int) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    for piece in ("Be", "cau", "se", " air", "😀"):
        await writer.write(piece)
    before = await response_log.read(conversation.store, accepted.response)
    # Up to all five pieces, and the start of the attempt.
    await lose_tail(conversation.store, accepted.response, lost)
    assert await writer.write(" scatters")
    after = await response_log.read(conversation.store, accepted.response)
    assert after[: len(before)] == before
    assert fold(after) == "Because air😀 scatters"
    assert [entry.seq for entry, _ in after] == list(range(1, len(before) + 2))


async def test_lost_tail_is_rewritten_before_the_end(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Be", "cause")
    await lose_tail(conversation.store, accepted.response, 2)
    assert isinstance(await writer.end(), Ended)
    assert fold(await response_log.read(conversation.store, accepted.response)) == "Because"
    assert await conversation.settled_text(accepted.response) == "Because"


async def test_log_restored_from_an_old_dump_is_completed(stores: Stores) -> None:
    if stores.kind == "memory":
        pytest.skip("fakeredis has no DUMP of a stream")
    conversation = Conversation(await stores.open())
    await conversation.prepare()
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Be", "cau")
    copy = await conversation.redis.dump(keys.log(accepted.response))
    assert copy is not None
    for piece in ("se", " air", " scatters"):
        await writer.write(piece)
    before = await response_log.read(conversation.store, accepted.response)
    await conversation.redis.restore(keys.log(accepted.response), 60_000, copy, replace=True)
    assert await writer.write("!")
    after = await response_log.read(conversation.store, accepted.response)
    assert after[:-1] == before
    assert fold(after) == "Because air scatters!"


async def test_reissued_attempt_number_has_another_nonce(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    first = await conversation.begin("w1")
    await first.write("lost")
    await lose_tail(conversation.store, accepted.response, 2)
    second = await conversation.begin("w2", lease=0)
    assert (second.start.number, second.start.seq) == (first.start.number, first.start.seq)
    assert second.start != first.start
    async with nothing_changes(conversation.store):
        assert not await first.write("more")
        assert await first.end() == "fenced"


# Fence


async def test_fenced_worker_changes_nothing(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    old = await conversation.begin("w1")
    await old.write("Bec")
    new = await conversation.begin("w2", lease=0)
    store, job = conversation.store, old.job
    for step in ("claimed", "written", "ended"):
        if step == "written":
            await new.write("Be", "cause")
        if step == "ended":
            await new.end()
        async with receiving(conversation) as receiver, nothing_changes(store):
            assert await jobs.renew(store, job, "w1") == "lost"
            assert await claim_as(store, job, "w1") == "lost"
            # With any expected id: its own ids sort before the tail.
            for expected in (old.attempt.tail, new.start, await tail(store, accepted.response)):
                first = LogId(old.start.attempt, expected.seq + 1)
                if expected.attempt == old.start.attempt:
                    assert await append(conversation, accepted, expected, first, "!") != "appended"
            assert not await old.write("ause")
            ended = await old.end()
            assert ended == "fenced"
            await jobs.release(store, job, "w1")
            assert await receiver.received() == []
    assert await conversation.settled_text(accepted.response) == "Because"


async def test_redis_rejects_ids_of_an_older_attempt(conversation: Conversation) -> None:
    """Even with the correct expected id a fenced worker cannot write: all ids of its attempt are smaller."""
    accepted = await conversation.ask()
    old = await conversation.begin("w1")
    new = await conversation.begin("w2", lease=0)
    async with nothing_changes(conversation.store):
        with pytest.raises(Exception, match="equal or smaller"):
            await append(conversation, accepted, new.start, LogId(old.start.attempt, 4), "!")


async def test_one_of_two_racing_workers_claims_the_attempt(stores: Stores) -> None:
    first, second = await stores.open(), await stores.open()
    await jobs.prepare(first)
    for _ in range(10):
        conversation, other = Conversation(first), Conversation(second)
        other.name = conversation.name
        accepted = await conversation.ask()
        found = await asyncio.gather(*(each.takes(f"w{each is conversation}") for each in (conversation, other)))
        assert sorted(map(len, found)) == [0, 1]
        # Both acquire at the same time, and both claim.
        (job,) = found[0] or found[1]
        await asyncio.gather(*(each.takes(f"w{each is conversation}", lease=0) for each in (conversation, other)))
        outcomes = await asyncio.gather(
            *(claim_as(each.store, job, f"w{each is conversation}") for each in (conversation, other))
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Claimed", "str"]
        assert "lost" in outcomes
        assert len(await response_log.read(first, accepted.response)) == 2
        await conversation.stop(accepted.response)


# End


async def test_attempt_ends_its_response(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Be", "cause")
    ended = await writer.end(COMPLETE)
    entries = await response_log.read(conversation.store, accepted.response)
    assert ended == Ended(now=True, cursor=entries[-1][0])
    assert entries[-1] == (LogId(writer.start.attempt, 5), log_entries.encode(log_entries.END, COMPLETE))
    assert await conversation.history() == [
        Opened(accepted.response, accepted.message, "default"),
        UserMessage(accepted.message, "Why?"),
        Settled(
            accepted.response,
            keys.answer_id(accepted.response),
            "complete",
            msgspec.Raw(b'"Because"'),
            {"input_tokens": 3, "output_tokens": 5},
        ),
    ]
    assert await conversation.jobs() == await conversation.pending() == await conversation.open() == {}
    assert await conversation.queue() == []


async def test_end_stores_all_its_fields(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    how = End("failed", {"output_tokens": 1}, Problem("provider_down", 'It said "no"\n.'), retryable=True)
    await conversation.stop(accepted.response, how)
    settled = await conversation.settled(accepted.response)
    assert (settled.reason, settled.usage, settled.error, settled.retryable) == (
        how.reason,
        how.usage,
        how.error,
        how.retryable,
    )
    assert (
        log_entries.decode_response_entry((await response_log.read(conversation.store, accepted.response))[-1][1])
        == how
    )


async def test_end_is_published_with_its_text_and_the_next_job(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await conversation.ask("And then?")
    writer = await conversation.begin()
    await writer.write("Because")
    async with receiving(conversation) as receiver:
        await writer.end()
        messages = await receiver.received()
    (text_id, _), (end_id, end) = (await response_log.read(conversation.store, accepted.response))[-2:]
    (before, _), (history_id, settled) = (await history_log.read(conversation.store, conversation.name))[-2:]
    assert messages == [
        ("control", b"job"),
        ("feed", lines(f"@{accepted.response} {end_id} {text_id}", end, f"@c {history_id} {before}", settled)),
        ("control", f"end {accepted.response}".encode()),
    ]


async def test_end_with_an_unexpected_tail_changes_nothing(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("a")
    async with receiving(conversation) as receiver, nothing_changes(conversation.store):
        result = await response_log.end(
            conversation.store, conversation.name, accepted.response, COMPLETE, expected=writer.start
        )
        assert result == TailMismatch(await tail(conversation.store, accepted.response))
        assert await receiver.received() == []


async def test_attempt_without_a_log_settles_no_empty_text(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Because")
    await conversation.redis.delete(keys.log(accepted.response))
    async with nothing_changes(conversation.store):
        assert await writer.end(COMPLETE) == "fenced"
    assert await claim_as(conversation.store, writer.job, "w1") == "expired"


@pytest.mark.parametrize("state", ["queued", "waiting", "taken", "claimed", "streaming", "recovering", "released"])
async def test_stop_ends_a_response_in_every_state(conversation: Conversation, state: str) -> None:
    if state == "waiting":
        await conversation.ask("An earlier question")
    accepted = await conversation.ask()
    writer: Writer | None = None
    if state == "taken":
        await conversation.take()
    if state in ("claimed", "streaming", "recovering", "released"):
        writer = await conversation.begin()
    if state in ("streaming", "recovering", "released"):
        assert writer is not None
        await writer.write("Be", "cau")
    if state == "recovering":
        await conversation.take("w2", lease=0)
    if state == "released":
        assert writer is not None
        await jobs.release(conversation.store, writer.job, "w1")
    last = await tail(conversation.store, accepted.response)

    ended = await conversation.stop(accepted.response)
    assert isinstance(ended, Ended)
    assert ended.now
    assert ended.cursor is not None
    assert (ended.cursor.number, ended.cursor.seq) == (last.number + 1, last.seq + 1)
    assert await tail(conversation.store, accepted.response) == ended.cursor
    assert await conversation.settled_text(accepted.response) == ("Becau" if writer and last.seq > 2 else "")
    assert accepted.response not in await conversation.open()
    assert accepted.response not in await conversation.jobs()
    assert accepted.response not in await conversation.queue()
    assert await conversation.pending() == {}
    if writer is not None:
        async with nothing_changes(conversation.store):
            assert not await writer.write("se")
            assert await writer.end() == "fenced"


async def test_response_ends_once(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("a")
    first = await writer.end()
    assert isinstance(first, Ended)
    async with receiving(conversation) as receiver, nothing_changes(conversation.store):
        assert await conversation.stop(accepted.response) == Ended(now=False, cursor=first.cursor)
        assert await writer.end(End("failed")) == Ended(now=False, cursor=first.cursor)
        assert await receiver.received() == []


@pytest.mark.parametrize("ended_by", ["attempt", "stop"])
async def test_repeated_end_is_written_once(conversation: Conversation, ended_by: str) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("a")
    async with receiving(conversation) as receiver:
        writer.store = with_lost_replies(conversation.store)
        ended = (
            await writer.end()
            if ended_by == "attempt"
            else await response_log.end(writer.store, conversation.name, accepted.response, STOPPED)
        )
        assert len(await receiver.feed()) == 1
    assert ended == Ended(now=False, cursor=await tail(conversation.store, accepted.response))
    assert await conversation.settled_text(accepted.response) == "a"


async def test_stop_racing_an_end_leaves_one_end(stores: Stores) -> None:
    worker, gateway = await stores.open(), await stores.open()
    await jobs.prepare(worker)
    for each in range(20):
        conversation = Conversation(worker)
        accepted = await conversation.ask()
        writer = await conversation.begin()
        await writer.write("Be")
        own_end = writer.end()
        stop = response_log.end(gateway, conversation.name, accepted.response, STOPPED)
        calls = (own_end, stop) if each % 2 else (stop, own_end)
        outcomes = await asyncio.gather(*calls)
        assert sum(isinstance(outcome, Ended) and outcome.now for outcome in outcomes) == 1
        entries = await response_log.read(worker, accepted.response)
        assert [value[:1] for _, value in entries].count(log_entries.END) == 1
        assert entries[-1][1][:1] == log_entries.END
        assert await conversation.settled_text(accepted.response) == "Be"
        assert await conversation.jobs() == await conversation.open() == {}


async def test_settled_text_begins_at_the_last_start(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await (await conversation.begin()).write("Never ", "mind")
    writer = await conversation.begin("w2", lease=0)
    await writer.write('Be"cause\n', "😀")
    await writer.end()
    assert await conversation.settled_text(accepted.response) == 'Be"cause\n😀'
    assert fold(await response_log.read(conversation.store, accepted.response)) == 'Be"cause\n😀'


async def test_settled_text_includes_continued_text(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await (await conversation.begin()).write("Never ")
    await (await conversation.begin("w2", lease=0)).write("Be", "cau")
    writer = await conversation.begin("w3", lease=0, keep_text=True)
    await writer.write("se")
    await writer.end()
    assert await conversation.settled_text(accepted.response) == "Because"
    assert fold(await response_log.read(conversation.store, accepted.response)) == "Because"


async def test_reasoning_is_in_the_log_but_not_in_the_text(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    writer.attempt.add(
        [
            log_entries.REASONING + b"Hm.",
            *text("Because"),
            log_entries.encode(log_entries.WAITING, log_entries.Waiting(1)),
        ]
    )
    await writer.end()
    assert await conversation.settled_text(accepted.response) == "Because"


async def test_response_without_a_log_is_settled_in_the_history(conversation: Conversation) -> None:
    accepted, following = await conversation.ask(), await conversation.ask()
    await conversation.redis.delete(keys.log(accepted.response))
    async with receiving(conversation) as receiver:
        assert await conversation.stop(accepted.response, End("failed")) == Ended(now=True, cursor=None)
        feed = await receiver.feed()
    (before, _), (history_id, settled) = (await history_log.read(conversation.store, conversation.name))[-2:]
    assert feed == [lines(f"@c {history_id} {before}", settled)]
    assert (await conversation.settled(accepted.response)).reason == "failed"
    assert await conversation.settled_text(accepted.response) == ""
    assert (
        list(await conversation.jobs())
        == list(await conversation.open())
        == await conversation.queue()
        == [following.response]
    )
    async with nothing_changes(conversation.store):
        assert await conversation.stop(accepted.response) is None


async def test_unknown_response_has_no_end(conversation: Conversation) -> None:
    async with nothing_changes(conversation.store):
        assert await conversation.stop(keys.response_id(conversation.name, "0" * 16)) is None
    assert await response_log.request(conversation.store, keys.response_id(conversation.name, "0" * 16)) is None


async def test_next_response_gets_its_job_when_the_head_ends(conversation: Conversation) -> None:
    asked = [(await conversation.ask()).response for _ in range(4)]
    await conversation.stop(asked[1])
    assert list(await conversation.jobs()) == [asked[0]], "the head is still open"
    await conversation.stop(asked[0])
    assert list(await conversation.jobs()) == [asked[2]]
    assert await conversation.queue() == [asked[2], asked[3]]
    assert await conversation.open() == {asked[2]: (await conversation.jobs())[asked[2]], asked[3]: ""}


async def test_end_is_settled_in_a_trimmed_history(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await conversation.redis.xtrim(keys.history(conversation.name), maxlen=0, approximate=False)
    await conversation.stop(accepted.response)
    assert [type(entry) for entry in await conversation.history()] == [Settled]


async def test_read_starts_at_the_cursor(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("a", "b", "c")
    entries = await response_log.read(conversation.store, accepted.response)
    for index, (cursor, _) in enumerate(entries):
        assert await response_log.read(conversation.store, accepted.response, after=cursor) == entries[index:]


async def test_read_beyond_the_tail_returns_the_last_entry(conversation: Conversation) -> None:
    """A failover lost entries that the reader has: the reader compares the last entry that is left."""
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("a", "b", "c")
    entries = await response_log.read(conversation.store, accepted.response)
    for lost in range(1, len(entries)):
        await lose_tail(conversation.store, accepted.response, 1)
        assert await response_log.read(conversation.store, accepted.response, after=entries[-1][0]) == [
            entries[-1 - lost]
        ]
    await conversation.redis.delete(keys.log(accepted.response))
    assert await response_log.read(conversation.store, accepted.response, after=entries[-1][0]) == []


async def test_start_renewal_and_end_extend_the_lifetimes(stores: Stores) -> None:
    conversation = Conversation(await stores.open(Lifetimes(log=10_000, conversation=100_000)))
    await conversation.prepare()
    accepted, _ = await conversation.ask(), await conversation.ask()
    client = conversation.store.client
    kept = {
        keys.log(accepted.response): 10_000_000,
        keys.history(conversation.name): 100_000_000,
        keys.response_queue(conversation.name): 100_000_000,
    }

    async def shorten_lifetimes() -> None:
        for key in kept:
            await client.pexpire(key, 30_000)

    async def life(key: str) -> int:
        return await client.pttl(key)

    await shorten_lifetimes()
    writer = await conversation.begin()
    assert 9_000_000 < await life(keys.log(accepted.response)) <= 10_000_000
    await shorten_lifetimes()
    assert await jobs.renew(conversation.store, writer.job, "w1") == "held"
    for key, milliseconds in kept.items():
        assert milliseconds * 0.9 < await life(key) <= milliseconds, key
    await shorten_lifetimes()
    await writer.end()
    for key, milliseconds in kept.items():
        assert milliseconds * 0.9 < await life(key) <= milliseconds, key


async def test_start_names_its_worker(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await claim(conversation.store, await conversation.take("w1", LEASE), "w1")
    start = log_entries.decode_response_entry((await response_log.read(conversation.store, accepted.response))[-1][1])
    assert start == Start("default", "w1")
    assert re.fullmatch(r"r\d\d[0-9a-z]{16}", accepted.response)


async def test_log_is_read_in_pieces_and_from_an_entry_on(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Be", "ca", "use")
    whole = await response_log.read(conversation.store, accepted.response)
    for size in range(2, len(whole) + 2):
        monkeypatch.setattr(response_log, "PIECE_ENTRIES", size)
        pieces = [piece async for piece in response_log.pieces(conversation.store, accepted.response)]
        assert [entry for piece in pieces for entry in piece] == whole
        assert max(map(len, pieces)) <= size
        for index, (after, _) in enumerate(whole):
            rest = [piece async for piece in response_log.pieces(conversation.store, accepted.response, after=after)]
            assert [entry for piece in rest for entry in piece] == whole[index + 1 :]
    unknown = LogId(whole[-1][0].attempt + 1, 99)
    assert [each async for each in response_log.pieces(conversation.store, accepted.response, after=unknown)] == []
    assert [each async for each in response_log.pieces(conversation.store, history_log.new_response("c"))] == []


async def test_log_that_loses_entries_while_it_is_read_is_an_error(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_log, "PIECE_ENTRIES", 2)
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Be", "ca", "use")
    pieces = response_log.pieces(conversation.store, accepted.response)
    await anext(pieces)
    await conversation.redis.xtrim(keys.log(accepted.response), maxlen=0, approximate=False)
    with pytest.raises(StoreUnavailableError):
        await anext(pieces)


def count_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what the end script replies."""
    replies: list[str] = []
    call = store.call

    async def counted(script: str, *arguments: Any, **options: Any) -> Any:
        reply = await call(script, *arguments, **options)
        if script == "end":
            replies.append(reply[0].decode())
        return reply

    monkeypatch.setattr(store, "call", counted)
    return replies


@pytest.mark.parametrize("by_worker", [True, False])
@pytest.mark.parametrize(("beyond", "replies"), [(0, ["ended"]), (1, ["long", "ended"])])
async def test_end_script_joins_a_limited_number_of_entries(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch, beyond: int, replies: list[str], *, by_worker: bool
) -> None:
    """Found by a hostile client: the end of an answer of 125,000 entries blocked the store for 200 ms."""
    monkeypatch.setattr(response_log, "MAX_JOINED_ENTRIES", 20)
    monkeypatch.setattr(response_log, "PIECE_ENTRIES", 7)
    accepted = await conversation.ask()
    writer = await conversation.begin()
    # Beside the request and the start.
    await writer.write("lost", *"abcdefg")
    writer = await claim_again(conversation)
    await writer.write(*(f"{number}\n" for number in range(20 - 2 - 8 - 1 + beyond)))
    found = count_ends(conversation.store, monkeypatch)
    if by_worker:
        await writer.end()
    else:
        await conversation.stop(accepted.response)
    assert found == replies
    expected = "".join(f"{number}\n" for number in range(9 + beyond))
    assert await conversation.settled_text(accepted.response) == expected
    assert await conversation.open() == {}


@pytest.mark.parametrize(("beyond", "replies"), [(0, ["ended"]), (1, ["long", "ended"])])
async def test_end_script_joins_a_limited_number_of_bytes(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch, beyond: int, replies: list[str]
) -> None:
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Because ")
    held = sum(len(value) for _, value in await response_log.read(conversation.store, accepted.response))
    monkeypatch.setattr(response_log, "MAX_JOINED_BYTES", held + 1 + 100)
    await writer.write("x" * (100 + beyond))
    found = count_ends(conversation.store, monkeypatch)
    await writer.end()
    assert found == replies
    assert await conversation.settled_text(accepted.response) == "Because " + "x" * (100 + beyond)


async def claim_again(conversation: Conversation) -> Writer:
    return await conversation.begin("w2", lease=0.0)


@pytest.mark.parametrize("change", ["text", "start", "lost", "foreign"])
async def test_log_that_changes_before_its_end_is_settled_as_it_is(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(response_log, "MAX_JOINED_ENTRIES", 10)
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write(*"abcdefghijklmnop")
    read, changed = response_log.pieces, False

    async def read_and_change(*arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        nonlocal changed
        async for piece in read(*arguments, **options):
            yield piece
        if changed:
            return
        changed = True
        if change == "text":
            await writer.write(*"123456789012")
        elif change == "start":
            await (await claim_again(conversation)).write("new")
        elif change == "lost":
            await lose_tail(conversation.store, accepted.response, 3)
        else:
            await conversation.redis.xadd(keys.log(accepted.response), {"e": "x"})

    monkeypatch.setattr(response_log, "pieces", read_and_change)
    found = count_ends(conversation.store, monkeypatch)
    await conversation.stop(accepted.response)
    expected = {"text": "abcdefghijklmnop123456789012", "start": "new", "lost": "abcdefghijklm"}
    assert await conversation.settled_text(accepted.response) == expected.get(change, "abcdefghijklmnop")
    calls = {"text": ["long", "long", "ended"], "lost": ["long", "long", "ended"]}
    assert found == calls.get(change, ["long", "ended"])


async def test_end_of_a_log_that_grows_faster_than_it_is_read_joins_the_rest(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_log, "MAX_JOINED_ENTRIES", 3)
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write(*"abcd")
    read = response_log.pieces

    async def read_and_append(*arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        async for piece in read(*arguments, **options):
            yield piece
        await writer.write(*"abcd")

    monkeypatch.setattr(response_log, "pieces", read_and_append)
    found = count_ends(conversation.store, monkeypatch)
    await conversation.stop(accepted.response)
    assert found == ["long"] * response_log.MAX_JOIN_TRIES + ["ended"]
    assert await conversation.settled_text(accepted.response) == "abcd" * (response_log.MAX_JOIN_TRIES + 1)


async def test_few_long_answers_are_ended_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_log, "MAX_JOINED_BYTES", 1)
    read, reading, most = response_log.pieces, 0, 0

    async def counted(*arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0)
        async for piece in read(*arguments, **options):
            yield piece
        reading -= 1

    monkeypatch.setattr(response_log, "pieces", counted)
    conversations = [Conversation(store) for _ in range(3 * MAX_LONG_ENDS)]
    accepted = [await each.ask() for each in conversations]
    ended = await asyncio.gather(*(each.stop(one.response) for each, one in zip(conversations, accepted, strict=True)))
    assert all(isinstance(each, Ended) and each.now for each in ended)
    assert most == MAX_LONG_ENDS
