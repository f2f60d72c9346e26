"""Submit: a message is accepted once, however often it is sent, and answers come in the order of the questions."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from gateway.streams import history_log, jobs, keys, log_entries, response_log
from gateway.streams.history_log import MAX_AHEAD, Accepted, Refused
from gateway.streams.log_entries import HistoryId, Opened, Queued, UserMessage
from gateway.streams.store.store import Lifetimes, Store
from tests.gateway.streams.steps import COMPLETE, Talk, lines, listening, nothing_changes
from tests.stores import Stores, with_lost_replies


async def test_an_accepted_message_stands_in_the_conversation_and_has_a_log_a_turn_and_a_job(store: Store) -> None:
    talk = Talk(store)
    accepted = await talk.ask("Why is the sky blue?", model="fast", instructions="Be brief.", max_tokens=99)

    assert not accepted.duplicate
    assert accepted.ahead == ()
    assert keys.is_response(accepted.response)
    assert await talk.history() == [
        Opened(accepted.response, accepted.message, "fast"),
        UserMessage(accepted.message, "Why is the sky blue?"),
    ]
    assert await response_log.request(store, accepted.response) == Queued(
        talk.name, accepted.message, "fast", "Be brief.", 99
    )
    ((first, _),) = await response_log.read(store, accepted.response)
    assert first.number == 0
    assert first.seq == 1
    assert await talk.queue() == [accepted.response]
    assert await talk.open() == await talk.jobs()
    assert list(await talk.jobs()) == [accepted.response]


async def test_what_is_written_is_published_exactly_and_then_workers_are_woken(store: Store) -> None:
    talk = Talk(store)
    async with listening(talk) as ear:
        accepted = await talk.ask("two\nlines")
        (opened_id, opened), (said_id, said) = await history_log.read(store, talk.name)
        ((first, queued),) = await response_log.read(store, accepted.response)
        assert await ear.heard() == [
            (
                "feed",
                lines(
                    f"@c {opened_id} -",
                    opened,
                    f"@c {said_id} {opened_id}",
                    said,
                    f"@{accepted.response} {first} -",
                    queued,
                ),
            ),
            ("control", b"job"),
        ]
        # Nobody has to wake up for a message that waits for its turn.
        await talk.ask("And then?")
        assert [channel for channel, _ in await ear.heard()] == ["feed"]


async def test_another_answer_to_a_message_is_asked_for_without_saying_it_again(store: Store) -> None:
    talk = Talk(store)
    first = await talk.ask()
    await talk.stop(first.response)
    again = await talk.ask(None, message=first.message, replaces=first.response, mode="continue")

    assert again.message == first.message
    assert (await talk.history())[-1] == Opened(again.response, first.message, "default", first.response, again=True)
    queued = await response_log.request(store, again.response)
    assert queued == Queued(talk.name, first.message, "default", replaces=first.response, mode="continue")


async def test_the_same_key_gets_the_same_response_and_changes_nothing(store: Store) -> None:
    talk = Talk(store)
    first = await talk.ask(key="k1")
    async with listening(talk) as ear, nothing_changes(store):
        assert await talk.ask(key="k1") == Accepted(first.message, first.response, duplicate=True)
        assert await ear.heard() == []
    await talk.stop(first.response)
    async with nothing_changes(store):
        assert await talk.ask(key="k1") == Accepted(first.message, first.response, duplicate=True)


@pytest.mark.parametrize(
    "other",
    [
        {"said": "Why not?"},
        {"model": "fast"},
        {"instructions": "Be brief."},
        {"max_tokens": 7},
        {"said": None, "message": "m1"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_the_same_key_for_something_else_is_a_conflict(store: Store, other: dict[str, str]) -> None:
    talk = Talk(store)
    await talk.ask(key="k1")
    async with nothing_changes(store):
        assert await talk.submit(key="k1", **other) == Refused("conflict")  # type: ignore[arg-type]


async def test_a_key_counts_in_its_conversation_only(store: Store) -> None:
    first, second = Talk(store), Talk(store)
    accepted = await first.ask(key="k1")
    assert (await second.ask(key="k1")).response != accepted.response


async def test_a_lost_reply_to_a_submit_does_not_submit_twice(store: Store) -> None:
    talk = Talk(with_lost_replies(store))
    accepted = await talk.ask()
    assert accepted.duplicate
    assert [type(entry) for entry in await talk.history()] == [Opened, UserMessage]
    assert await talk.queue() == [accepted.response]


async def test_a_hundred_submits_of_one_key_at_once_are_one_response_and_one_job(stores: Stores) -> None:
    several = [await stores.open() for _ in range(4)]
    talk = Talk(several[0])
    accepted = await asyncio.gather(*(Talk(several[each % 4], talk.name).ask("Why?", key="k1") for each in range(100)))
    assert len({(each.response, each.message) for each in accepted}) == 1
    assert sum(not each.duplicate for each in accepted) == 1
    assert list(await talk.jobs()) == [accepted[0].response]
    assert len(await talk.history()) == 2
    assert len(await talk.queue()) == 1


async def test_a_client_that_will_not_wait_is_told_that_the_conversation_is_busy(store: Store) -> None:
    talk = Talk(store)
    first = await talk.ask()
    async with nothing_changes(store):
        assert await talk.submit(if_busy="reject", key="k2") == Refused("busy")
    await talk.stop(first.response)
    assert isinstance(await talk.submit(if_busy="reject", key="k2"), Accepted)


async def test_a_conversation_holds_so_many_open_responses_and_no_more(store: Store) -> None:
    talk = Talk(store)
    first = await talk.ask()
    for _ in range(MAX_AHEAD - 1):
        await talk.ask()
    async with nothing_changes(store):
        assert await talk.submit(key="k") == Refused("full")
    await talk.stop(first.response)
    assert isinstance(await talk.submit(key="k"), Accepted)


async def test_each_submit_names_the_responses_that_are_ahead_of_it(store: Store) -> None:
    talk = Talk(store)
    first, second = await talk.ask(), await talk.ask(key="k2")
    third = await talk.ask()
    assert second.ahead == (first.response,)
    assert third.ahead == (first.response, second.response)
    # An interrupting client whose reply was lost asks again, and still learns whom to stop.
    assert (await talk.ask(key="k2")).ahead == (first.response,)
    await talk.stop(first.response)
    assert (await talk.ask(key="k2")).ahead == ()


async def test_questions_are_answered_in_the_order_in_which_they_were_asked(store: Store) -> None:
    talk = Talk(store)
    asked = [(await talk.ask(f"{number}?")).response for number in range(4)]
    for response in asked:
        assert list(await talk.jobs()) == [response], "only the head of the queue has a job"
        writer = await talk.begin()
        assert writer.job.response == response
        await writer.end(COMPLETE)
    assert await talk.jobs() == await talk.open() == {}
    assert await talk.queue() == []


async def test_entries_of_a_conversation_are_numbered_without_a_gap(store: Store) -> None:
    talk = Talk(store)
    for _ in range(3):
        await talk.stop((await talk.ask()).response)
    ids = [entry for entry, _ in await history_log.read(store, talk.name)]
    assert [entry.seq for entry in ids] == list(range(1, 10))
    assert await history_log.read(store, talk.name, after=ids[6]) == (await history_log.read(store, talk.name))[6:]


async def test_a_trimmed_conversation_goes_on_with_its_numbers(store: Store) -> None:
    talk = Talk(store)
    await talk.stop((await talk.ask()).response)
    await store.client.xtrim(keys.conversation(talk.name), maxlen=0, approximate=False)
    # Nothing is left to count from; the nonce tells the numbers from those that were.
    await talk.ask()
    before = await history_log.read(store, talk.name)
    await store.client.xtrim(keys.conversation(talk.name), maxlen=1, approximate=False)
    await talk.ask()
    after = await history_log.read(store, talk.name)
    assert [entry.seq for entry, _ in after] == [before[-1][0].seq + step for step in range(3)]


async def test_a_conversation_that_expired_begins_anew_with_other_ids(store: Store) -> None:
    talk = Talk(store)
    await talk.stop((await talk.ask()).response)
    former = [entry for entry, _ in await history_log.read(store, talk.name)]
    await store.client.delete(keys.conversation(talk.name))
    await talk.ask()
    anew = [entry for entry, _ in await history_log.read(store, talk.name)]
    assert [entry.seq for entry in anew] == [1, 2]
    assert not set(anew) & set(former)


async def test_a_conversation_keeps_its_newest_entries(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_log, "MAX_ENTRIES", 10)
    talk = Talk(store)
    # Redis trims whole nodes, of a hundred entries by default.
    for each in range(130):
        await store.client.xadd(
            keys.conversation(talk.name), {log_entries.FIELD: b"M{}"}, id=str(HistoryId(each + 1, 7))
        )
    await talk.ask()
    kept = [entry.seq for entry, _ in await history_log.read(store, talk.name)]
    assert kept[-1] == 132
    assert 10 <= len(kept) < 132
    assert kept == list(range(kept[0], 133))


async def test_everything_that_a_submit_writes_is_kept_for_its_time(stores: Stores) -> None:
    store = await stores.open(Lifetimes(log=100, conversation=1000, submission=10))
    talk = Talk(store)
    accepted = await talk.ask(key="k1")
    lives = {
        keys.submission(talk.name, "k1"): 10,
        keys.log(accepted.response): 100,
        keys.conversation(talk.name): 1000,
        keys.response_queue(talk.name): 1000,
    }
    for key, seconds in lives.items():
        assert seconds * 900 < await store.client.pttl(key) <= seconds * 1000, key
    # What tells workers of open responses is never forgotten.
    for key in (keys.open_responses(talk.partition), keys.jobs(talk.partition)):
        assert await store.client.pttl(key) == -1, key


async def test_every_key_of_a_conversation_is_in_its_slot(store: Store) -> None:
    talk = Talk(store)
    await talk.ask()
    await jobs.prepare(store)
    await (await talk.begin()).end(COMPLETE)
    for partition in range(keys.PARTITIONS):
        if partition != talk.partition:
            await store.client.delete(keys.jobs(partition))
    named: list[Any] = [await client.keys("*") for client in store.servers.clients]
    tags = {re.search(rb"\{(.*?)\}", key) for found in named for key in found}
    assert {match and match[1] for match in tags} == {f"p{talk.partition:02d}".encode()}
