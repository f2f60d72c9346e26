"""Submit: idempotency, order of responses, ids, retention."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from gateway.streams import history_log, jobs, keys, log_entries, response_log
from gateway.streams.history_log import MAX_AHEAD, Accepted, Refused
from gateway.streams.log_entries import HistoryId, Opened, Queued, UserMessage
from gateway.streams.store.store import Lifetimes, Store
from tests.gateway.streams.steps import COMPLETE, Conversation, lines, nothing_changes, receiving
from tests.stores import Stores, with_lost_replies


async def test_accepted_message_has_history_log_queue_and_job(store: Store) -> None:
    conversation = Conversation(store)
    accepted = await conversation.ask("Why is the sky blue?", model="fast", instructions="Be brief.", max_tokens=99)

    assert not accepted.duplicate
    assert accepted.ahead == ()
    assert keys.is_response(accepted.response)
    assert await conversation.history() == [
        Opened(accepted.response, accepted.message, "fast"),
        UserMessage(accepted.message, "Why is the sky blue?"),
    ]
    queued = await response_log.request(store, accepted.response)
    instructions_id = keys.instructions_id("Be brief.")
    assert queued == Queued(conversation.name, accepted.message, "fast", max_tokens=99, instructions_id=instructions_id)
    assert await history_log.instructions(store, conversation.name, queued) == "Be brief."
    ((first, _),) = await response_log.read(store, accepted.response)
    assert first.number == 0
    assert first.seq == 1
    assert await conversation.queue() == [accepted.response]
    assert await conversation.open() == await conversation.jobs()
    assert list(await conversation.jobs()) == [accepted.response]


async def test_written_entries_are_published_before_the_job(store: Store) -> None:
    conversation = Conversation(store)
    async with receiving(conversation) as receiver:
        accepted = await conversation.ask("two\nlines")
        (opened_id, opened), (message_id, message) = await history_log.read(store, conversation.name)
        ((first, queued),) = await response_log.read(store, accepted.response)
        assert await receiver.received() == [
            (
                "feed",
                lines(
                    f"@c {opened_id} -",
                    opened,
                    f"@c {message_id} {opened_id}",
                    message,
                    f"@{accepted.response} {first} -",
                    queued,
                ),
            ),
            ("control", b"job"),
        ]
        # A message that waits for another response notifies no worker.
        await conversation.ask("And then?")
        assert [channel for channel, _ in await receiver.received()] == ["feed"]


async def test_retry_adds_no_message_to_the_history(store: Store) -> None:
    conversation = Conversation(store)
    first = await conversation.ask()
    await conversation.stop(first.response)
    again = await conversation.ask(None, message=first.message, replaces=first.response, mode="continue")

    assert again.message == first.message
    assert (await conversation.history())[-1] == Opened(
        again.response, first.message, "default", first.response, again=True
    )
    queued = await response_log.request(store, again.response)
    assert queued == Queued(conversation.name, first.message, "default", replaces=first.response, mode="continue")


async def test_repeated_key_returns_the_same_response(store: Store) -> None:
    conversation = Conversation(store)
    first = await conversation.ask(key="k1")
    async with receiving(conversation) as receiver, nothing_changes(store):
        assert await conversation.ask(key="k1") == Accepted(first.message, first.response, duplicate=True)
        assert await receiver.received() == []
    await conversation.stop(first.response)
    async with nothing_changes(store):
        assert await conversation.ask(key="k1") == Accepted(first.message, first.response, duplicate=True)


@pytest.mark.parametrize(
    "other",
    [
        {"text": "Why not?"},
        {"model": "fast"},
        {"instructions": "Be brief."},
        {"max_tokens": 7},
        {"text": None, "message": "m1"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_key_of_another_submission_is_a_conflict(store: Store, other: dict[str, str]) -> None:
    conversation = Conversation(store)
    await conversation.ask(key="k1")
    async with nothing_changes(store):
        assert await conversation.submit(key="k1", **other) == Refused("conflict")  # type: ignore[arg-type]


async def test_key_is_scoped_to_its_conversation(store: Store) -> None:
    first, second = Conversation(store), Conversation(store)
    accepted = await first.ask(key="k1")
    assert (await second.ask(key="k1")).response != accepted.response


async def test_submit_with_a_lost_reply_is_accepted_once(store: Store) -> None:
    conversation = Conversation(with_lost_replies(store))
    accepted = await conversation.ask()
    assert accepted.duplicate
    assert [type(entry) for entry in await conversation.history()] == [Opened, UserMessage]
    assert await conversation.queue() == [accepted.response]


async def test_concurrent_submits_of_one_key_create_one_job(stores: Stores) -> None:
    several = [await stores.open() for _ in range(4)]
    conversation = Conversation(several[0])
    accepted = await asyncio.gather(
        *(Conversation(several[each % 4], conversation.name).ask("Why?", key="k1") for each in range(100))
    )
    assert len({(each.response, each.message) for each in accepted}) == 1
    assert sum(not each.duplicate for each in accepted) == 1
    assert list(await conversation.jobs()) == [accepted[0].response]
    assert len(await conversation.history()) == 2
    assert len(await conversation.queue()) == 1


async def test_submit_is_rejected_while_busy_on_request(store: Store) -> None:
    conversation = Conversation(store)
    first = await conversation.ask()
    async with nothing_changes(store):
        assert await conversation.submit(if_busy="reject", key="k2") == Refused("busy")
    await conversation.stop(first.response)
    assert isinstance(await conversation.submit(if_busy="reject", key="k2"), Accepted)


async def test_open_responses_of_a_conversation_are_limited(store: Store) -> None:
    conversation = Conversation(store)
    first = await conversation.ask()
    for _ in range(MAX_AHEAD - 1):
        await conversation.ask()
    async with nothing_changes(store):
        assert await conversation.submit(key="k") == Refused("full")
    await conversation.stop(first.response)
    assert isinstance(await conversation.submit(key="k"), Accepted)


async def test_submit_returns_the_responses_ahead(store: Store) -> None:
    conversation = Conversation(store)
    first, second = await conversation.ask(), await conversation.ask(key="k2")
    third = await conversation.ask()
    assert second.ahead == (first.response,)
    assert third.ahead == (first.response, second.response)
    # A client whose reply was lost repeats the submit and still learns which responses to stop.
    assert (await conversation.ask(key="k2")).ahead == (first.response,)
    await conversation.stop(first.response)
    assert (await conversation.ask(key="k2")).ahead == ()


async def test_responses_are_generated_in_order(store: Store) -> None:
    conversation = Conversation(store)
    asked = [(await conversation.ask(f"{number}?")).response for number in range(4)]
    for response in asked:
        assert list(await conversation.jobs()) == [response], "only the head of the queue has a job"
        writer = await conversation.begin()
        assert writer.job.response == response
        await writer.end(COMPLETE)
    assert await conversation.jobs() == await conversation.open() == {}
    assert await conversation.queue() == []


async def test_history_ids_are_dense(store: Store) -> None:
    conversation = Conversation(store)
    for _ in range(3):
        await conversation.stop((await conversation.ask()).response)
    ids = [entry for entry, _ in await history_log.read(store, conversation.name)]
    assert [entry.seq for entry in ids] == list(range(1, 10))
    assert (
        await history_log.read(store, conversation.name, after=ids[6])
        == (await history_log.read(store, conversation.name))[6:]
    )


async def test_trimmed_history_continues_its_numbers(store: Store) -> None:
    conversation = Conversation(store)
    await conversation.stop((await conversation.ask()).response)
    await store.client.xtrim(keys.history(conversation.name), maxlen=0, approximate=False)
    # The numbers restart, because no entry is left; the nonces distinguish them from the former ones.
    await conversation.ask()
    before = await history_log.read(store, conversation.name)
    await store.client.xtrim(keys.history(conversation.name), maxlen=1, approximate=False)
    await conversation.ask()
    after = await history_log.read(store, conversation.name)
    assert [entry.seq for entry, _ in after] == [before[-1][0].seq + step for step in range(3)]


async def test_expired_history_restarts_with_other_ids(store: Store) -> None:
    conversation = Conversation(store)
    await conversation.stop((await conversation.ask()).response)
    former = [entry for entry, _ in await history_log.read(store, conversation.name)]
    await store.client.delete(keys.history(conversation.name))
    await conversation.ask()
    restarted = [entry for entry, _ in await history_log.read(store, conversation.name)]
    assert [entry.seq for entry in restarted] == [1, 2]
    assert not set(restarted) & set(former)


async def test_history_keeps_its_newest_entries(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_log, "MAX_ENTRIES", 10)
    conversation = Conversation(store)
    # Redis trims whole nodes of the stream, by default 100 entries.
    for each in range(130):
        await store.client.xadd(
            keys.history(conversation.name), {log_entries.FIELD: b"M{}"}, id=str(HistoryId(each + 1, 7))
        )
    await conversation.ask()
    kept = [entry.seq for entry, _ in await history_log.read(store, conversation.name)]
    assert kept[-1] == 132
    assert 10 <= len(kept) < 132
    assert kept == list(range(kept[0], 133))


async def test_submit_sets_the_lifetimes_of_its_keys(stores: Stores) -> None:
    store = await stores.open(Lifetimes(log=100, conversation=1000, submission=10))
    conversation = Conversation(store)
    accepted = await conversation.ask(key="k1")
    lives = {
        keys.submission(conversation.name, "", "k1"): 10,
        keys.log(accepted.response): 100,
        keys.history(conversation.name): 1000,
        keys.response_queue(conversation.name): 1000,
    }
    for key, seconds in lives.items():
        assert seconds * 900 < await store.client.pttl(key) <= seconds * 1000, key
    # Open responses and their jobs never expire.
    for key in (keys.open_responses(conversation.partition), keys.jobs(conversation.partition)):
        assert await store.client.pttl(key) == -1, key


async def test_all_keys_of_a_conversation_share_its_slot(store: Store) -> None:
    conversation = Conversation(store)
    await conversation.ask()
    await jobs.prepare(store)
    await (await conversation.begin()).end(COMPLETE)
    for partition in range(keys.PARTITIONS):
        if partition != conversation.partition:
            await store.client.delete(keys.jobs(partition))
    named: list[Any] = [await client.keys("*") for client in store.servers.clients]
    tags = {re.search(rb"\{(.*?)\}", key) for found in named for key in found}
    assert {match and match[1] for match in tags} == {f"p{conversation.partition:02d}".encode()}


async def test_history_is_read_backwards_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_log, "FIRST_PIECE", 4)
    conversation = Conversation(store)
    assert [piece async for piece in history_log.read_backwards(store, conversation.name, 1000)] == []
    for number in range(12):
        await conversation.ask("a" * (600 if number % 5 == 0 else 6), if_busy="queue")
    whole = await history_log.read(store, conversation.name)
    pieces = [piece async for piece in history_log.read_backwards(store, conversation.name, 1000)]
    assert [entry for piece in reversed(pieces) for entry in piece] == whole
    # The first one ends with an entry of 600 bytes, and all others but the last at 1,000 bytes.
    assert len(pieces[0]) == 4
    assert len(pieces) > 3
    for piece in pieces[1:-1]:
        sizes = [len(value) + len(log_entries.FIELD) for _, value in piece]
        assert sum(sizes[1:]) < 1000 <= sum(sizes)
    before = [piece async for piece in history_log.read_backwards(store, conversation.name, 1000, before=whole[9][0])]
    assert [entry for piece in reversed(before) for entry in piece] == whole[:9]
    first = whole[0][0]
    assert [piece async for piece in history_log.read_backwards(store, conversation.name, 1000, before=first)] == []


async def test_pieces_of_a_long_history_grow_to_a_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_log, "MAX_PIECE_BYTES", 4000)
    conversation = Conversation(store)
    for number in range(1, 101):
        await store.client.xadd(keys.history(conversation.name), {log_entries.FIELD: b"x" * 499}, id=f"{number}-1")
    pieces = [piece async for piece in history_log.read_backwards(store, conversation.name, 500)]
    sizes = [sum(len(value) + 1 for _, value in piece) for piece in pieces]
    assert sizes[0] == 500
    assert max(sizes) == 4000
    assert sizes[:-1] == sorted(sizes[:-1])
    for number, size in enumerate(sizes):
        assert size <= max(500, sum(sizes[:number]) // history_log.LATER_PIECE_SHARE + 500)


async def test_piece_of_a_history_is_bounded_in_bytes_and_entries(store: Store) -> None:
    conversation = Conversation(store)
    assert await history_log.read_piece(store, conversation.name, None, 1000, count=9) == ([], True)
    for number in range(1, 11):
        await store.client.xadd(keys.history(conversation.name), {log_entries.FIELD: b"x" * 499}, id=f"{number}-1")
    whole = await history_log.read(store, conversation.name)
    # The first entry, which the caller has, does not count.
    for max_bytes, count in ((1, 2), (500, 2), (501, 3), (1000, 3), (4500, 10)):
        piece, complete = await history_log.read_piece(store, conversation.name, None, max_bytes, count=100)
        assert (list(piece), complete) == (whole[:count], False)
    assert await history_log.read_piece(store, conversation.name, None, 4501, count=100) == (whole, True)
    assert await history_log.read_piece(store, conversation.name, None, 4501, count=10) == (whole, False)
    assert await history_log.read_piece(store, conversation.name, whole[8][0], 501, count=3) == (whole[8:], True)
    assert await history_log.read_piece(store, conversation.name, whole[9][0], 1, count=3) == (whole[9:], True)


async def test_replaced_response_is_of_the_conversation(store: Store) -> None:
    """Found by a hostile client: for a made-up response a worker read the whole history."""
    conversation = Conversation(store)
    first = await conversation.ask()
    same_partition = (Conversation(store) for _ in iter(int, 1))
    other = next(each for each in same_partition if each.partition == conversation.partition)
    foreign = await other.ask()
    made_up = history_log.new_response(conversation.name)
    for replaces in (made_up, foreign.response):
        assert await conversation.submit("Why not?", replaces=replaces) == Refused("foreign")
    # An open one has a log, an ended one may have only its request.
    second = await conversation.ask("Why not?", replaces=first.response)
    await conversation.stop(first.response)
    await conversation.redis.delete(keys.log(first.response))
    third = await conversation.ask("Why then?", replaces=first.response)
    assert len({first.response, second.response, third.response}) == 3
