"""Claim, append, end: one writer at a time, nothing twice, no hole, and one end that is the last word."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Literal

import msgspec
import pytest

from gateway.streams import history_log, jobs, keys, log_entries, response_log
from gateway.streams.log_entries import NONCES, End, LogId, Opened, Problem, Settled, Start, UserMessage
from gateway.streams.response_log import MAX_PUBLISHED, Claimed, Ended, TailMismatch
from gateway.streams.store.store import Lifetimes, Store
from tests.gateway.streams.steps import (
    COMPLETE,
    LEASE,
    START,
    STOPPED,
    Talk,
    Writer,
    claim,
    fold,
    lines,
    listening,
    lose_tail,
    nothing_changes,
    text,
)
from tests.stores import Stores, with_lost_replies

if TYPE_CHECKING:
    from gateway.streams.history_log import Accepted
    from gateway.streams.jobs import Job


@pytest.fixture
async def talk(store: Store) -> Talk:
    talk = Talk(store)
    await talk.prepare()
    return talk


async def claim_as(store: Store, job: Job, worker: str, *, keep_text: bool = False, most: int = 3) -> object:
    return await response_log.claim(store, job, worker, START, keep_text=keep_text, most_attempts=most)


async def tail(store: Store, response: str) -> LogId:
    return (await response_log.read(store, response))[-1][0]


# Claim


async def test_a_claim_writes_the_start_of_the_next_attempt_and_publishes_it(talk: Talk) -> None:
    accepted = await talk.ask()
    job = await talk.take()
    async with listening(talk) as ear:
        claimed = await claim_as(talk.store, job, "w1")
        assert isinstance(claimed, Claimed)
        (queued_id, _), (start_id, start) = await response_log.read(talk.store, accepted.response)
        assert claimed == Claimed(before=queued_id, start=start_id)
        assert (start_id.number, start_id.seq) == (1, 2)
        assert start == log_entries.encode(log_entries.START, START)
        assert await ear.heard() == [("feed", lines(f"@{accepted.response} {start_id} {queued_id}", start))]


async def test_a_claim_that_keeps_the_text_says_so(talk: Talk) -> None:
    accepted = await talk.ask()
    await claim_as(talk.store, await talk.take(), "w1", keep_text=True)
    assert (await response_log.read(talk.store, accepted.response))[-1][1] == log_entries.encode(
        log_entries.CONTINUE, START
    )


async def test_a_claim_whose_reply_was_lost_finds_its_own_start(talk: Talk) -> None:
    accepted = await talk.ask()
    claimed = await claim_as(with_lost_replies(talk.store), await talk.take(), "w1")
    assert isinstance(claimed, Claimed)
    assert [entry for entry, _ in await response_log.read(talk.store, accepted.response)] == [
        claimed.before,
        claimed.start,
    ]


async def test_numbers_go_on_across_attempts_and_each_attempt_has_a_nonce_of_its_own(talk: Talk) -> None:
    accepted = await talk.ask()
    for _ in range(3):
        assert await (await talk.begin(lease=0)).write("a", "b")
    ids = [entry for entry, _ in await response_log.read(talk.store, accepted.response)]
    assert [entry.seq for entry in ids] == list(range(1, 11))
    assert [entry.number for entry in ids] == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len({entry.attempt % NONCES for entry in ids}) == 4
    assert ids == sorted(ids)


@pytest.mark.parametrize("nonce", [0, 1, NONCES - 1])
async def test_every_nonce_gives_ids_that_are_written_in_full(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, nonce: int
) -> None:
    monkeypatch.setattr(history_log, "nonce", lambda: nonce)
    monkeypatch.setattr(response_log, "nonce", lambda: nonce)
    accepted = await talk.ask()
    for _ in range(3):
        writer = await talk.begin(lease=0)
        await writer.write("a")
    await talk.stop(accepted.response)
    ids = [entry for entry, _ in await response_log.read(talk.store, accepted.response)]
    assert [entry.attempt for entry in ids] == [number * NONCES + nonce for number in (0, 1, 1, 2, 2, 3, 3, 4)]


async def test_a_log_of_a_million_entries_and_many_attempts_keeps_its_numbers_exact(talk: Talk) -> None:
    accepted = await talk.ask()
    job = await talk.take()
    # As far as a cursor may go: 16 digits.
    far = LogId(999_999 * NONCES + 123_456_789, 10**15)
    await talk.redis.xadd(keys.log(accepted.response), {log_entries.FIELD: b"Ta"}, id=str(far))
    claimed = await claim_as(talk.store, job, "w1", most=10**9)
    assert isinstance(claimed, Claimed)
    assert claimed.before == far
    assert (claimed.start.number, claimed.start.seq) == (1_000_000, 10**15 + 1)
    attempt = claimed.start.attempt
    first = LogId(attempt, 10**15 + 2)
    assert await append(talk, accepted, claimed.start, first, "b", "c") == "appended"
    assert await tail(talk.store, accepted.response) == LogId(attempt, 10**15 + 3)
    ended = await talk.stop(accepted.response)
    assert isinstance(ended, Ended)
    assert ended.cursor is not None
    assert (ended.cursor.number, ended.cursor.seq) == (1_000_001, 10**15 + 4)


async def test_attempts_are_capped_and_the_text_of_the_last_one_is_kept(talk: Talk) -> None:
    accepted = await talk.ask()
    for _ in range(2):
        await (await talk.begin(lease=0)).write("Bec", "ause")
    job = await talk.take("w3", lease=0)
    async with nothing_changes(talk.store):
        assert await claim_as(talk.store, job, "w3", most=2) == "exhausted"
    await talk.stop(accepted.response, End("failed"))
    assert await talk.settled_text(accepted.response) == "Because"


async def test_a_job_of_a_response_that_has_ended_is_only_taken_off_the_books(talk: Talk) -> None:
    accepted = await talk.ask()
    await talk.stop(accepted.response)
    # As a failover might leave it: the end is there, and so is a job.
    fields = {"response": accepted.response, "conversation": talk.name}
    await talk.redis.xadd(keys.jobs(talk.partition), fields)
    job = await talk.take()
    entries = await response_log.read(talk.store, accepted.response)
    assert await claim_as(talk.store, job, "w1") == "ended"
    assert await talk.jobs() == await talk.pending() == {}
    assert await response_log.read(talk.store, accepted.response) == entries
    assert await claim_as(talk.store, job, "w1") == "lost"


@pytest.mark.parametrize("how", ["expired", "trimmed"])
async def test_a_job_whose_log_is_gone_can_not_be_claimed(talk: Talk, how: str) -> None:
    accepted = await talk.ask()
    job = await talk.take()
    if how == "expired":
        await talk.redis.delete(keys.log(accepted.response))
    else:
        await talk.redis.xtrim(keys.log(accepted.response), maxlen=0, approximate=False)
    async with nothing_changes(talk.store):
        assert await claim_as(talk.store, job, "w1") == "expired"


async def test_a_job_can_be_claimed_by_its_worker_alone(talk: Talk) -> None:
    await talk.ask()
    job = await talk.take("w1")
    async with nothing_changes(talk.store):
        assert await claim_as(talk.store, job, "w2") == "lost"
    assert (await talk.take("w2", lease=0)) == job
    async with nothing_changes(talk.store):
        assert await claim_as(talk.store, job, "w1") == "lost"
    assert isinstance(await claim_as(talk.store, job, "w2"), Claimed)


async def test_a_claim_without_any_jobs_left_in_the_partition_is_lost(talk: Talk) -> None:
    await talk.ask()
    job = await talk.take()
    await talk.redis.delete(keys.jobs(talk.partition))
    async with nothing_changes(talk.store):
        assert await claim_as(talk.store, job, "w1") == "lost"


# Append


async def append(
    talk: Talk, accepted: Accepted, expected: LogId, first: LogId, *pieces: str
) -> LogId | Literal["appended"] | None:
    return await response_log.append(
        talk.store, talk.name, accepted.response, expected, first, text(*pieces), timeout_s=10.0
    )


async def test_an_append_is_written_and_published_exactly_as_it_was_given(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    spoken = ['Be"cause\n', "\\ \u2028", "😀", "", "@c 1-1"]
    async with listening(talk) as ear:
        assert await writer.write(*spoken)
        assert await ear.heard() == [
            ("feed", lines(f"@{accepted.response} {writer.start.attempt}-3 {writer.start}", *text(*spoken)))
        ]
    entries = await response_log.read(talk.store, accepted.response)
    assert [value for _, value in entries[2:]] == text(*spoken)
    assert fold(entries) == "".join(spoken)


async def test_what_is_published_reads_back_as_what_is_in_the_log(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    async with listening(talk) as ear:
        await writer.write("a", "b\n", "c")
        (message,) = await ear.feed()
    (published,) = log_entries.parse_published(message)
    entries = await response_log.read(talk.store, accepted.response)
    _, start, first, *_ = (str(entry).encode() for entry, _ in entries)
    assert published == log_entries.Published(accepted.response, first, start, [value for _, value in entries[2:]])


@pytest.mark.parametrize("beyond", [0, 1])
async def test_an_append_that_is_too_large_is_published_as_its_id_alone(talk: Talk, beyond: int) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    async with listening(talk) as ear:
        await writer.write("a" * 1000, "b" * (MAX_PUBLISHED - 1002 + beyond))
        (message,) = await ear.feed()
    (published,) = log_entries.parse_published(message)
    assert published.first == f"{writer.start.attempt}-3".encode()
    assert [len(value) for value in published.values] == ([] if beyond else [1001, MAX_PUBLISHED - 1001])
    assert len(fold(await response_log.read(talk.store, accepted.response))) == MAX_PUBLISHED - 2 + beyond


async def test_an_append_behind_another_id_than_the_last_is_refused_and_changes_nothing(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("a", "b")
    attempt, last = writer.start.attempt, await tail(talk.store, accepted.response)
    async with listening(talk) as ear, nothing_changes(talk.store):
        for expected in (writer.start, LogId(attempt, 3), LogId(attempt, 9), LogId(attempt - 1, 4), LogId(0, 1)):
            first = LogId(attempt, expected.seq + 1)
            assert await append(talk, accepted, expected, first, "c") == last
        assert await ear.heard() == []


async def test_an_append_whose_reply_was_lost_is_made_once(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    writer.store = with_lost_replies(talk.store)
    async with listening(talk) as ear:
        for piece in "Because":
            assert await writer.write(piece)
        assert len(await ear.feed()) == len("Because")
    assert fold(await response_log.read(talk.store, accepted.response)) == "Because"
    assert isinstance(await writer.end(), Ended)


async def test_an_append_to_a_log_that_is_gone_does_not_bring_it_back(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("a")
    await talk.redis.delete(keys.log(accepted.response))
    async with nothing_changes(talk.store):
        assert await append(talk, accepted, writer.attempt.tail, LogId(writer.start.attempt, 4), "b") is None
        assert not await writer.write("b")


async def test_an_append_behind_the_end_is_refused(talk: Talk) -> None:
    await talk.ask()
    writer = await talk.begin()
    await writer.write("a")
    await writer.end()
    async with nothing_changes(talk.store):
        assert not await writer.write("b")


@pytest.mark.parametrize("lost", [1, 2, 4, 5, 6])
async def test_a_tail_that_a_failover_lost_is_written_again_under_the_same_ids(talk: Talk, lost: int) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    for piece in ("Be", "cau", "se", " air", "😀"):
        await writer.write(piece)
    before = await response_log.read(talk.store, accepted.response)
    # All five pieces, and at last the start of the attempt itself.
    await lose_tail(talk.store, accepted.response, lost)
    assert await writer.write(" scatters")
    after = await response_log.read(talk.store, accepted.response)
    assert after[: len(before)] == before
    assert fold(after) == "Because air😀 scatters"
    assert [entry.seq for entry, _ in after] == list(range(1, len(before) + 2))


async def test_a_tail_that_is_lost_before_the_end_is_written_again_first(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("Be", "cause")
    await lose_tail(talk.store, accepted.response, 2)
    assert isinstance(await writer.end(), Ended)
    assert fold(await response_log.read(talk.store, accepted.response)) == "Because"
    assert await talk.settled_text(accepted.response) == "Because"


async def test_a_log_that_comes_back_from_an_old_copy_is_completed(stores: Stores) -> None:
    if stores.kind == "memory":
        pytest.skip("the copy of a stream is the servers' own format")
    talk = Talk(await stores.open())
    await talk.prepare()
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("Be", "cau")
    copy = await talk.redis.dump(keys.log(accepted.response))
    assert copy is not None
    for piece in ("se", " air", " scatters"):
        await writer.write(piece)
    before = await response_log.read(talk.store, accepted.response)
    await talk.redis.restore(keys.log(accepted.response), 60_000, copy, replace=True)
    assert await writer.write("!")
    after = await response_log.read(talk.store, accepted.response)
    assert after[:-1] == before
    assert fold(after) == "Because air scatters!"


async def test_a_number_that_is_issued_again_after_a_lost_start_has_another_nonce(talk: Talk) -> None:
    accepted = await talk.ask()
    first = await talk.begin("w1")
    await first.write("lost")
    await lose_tail(talk.store, accepted.response, 2)
    second = await talk.begin("w2", lease=0)
    assert (second.start.number, second.start.seq) == (first.start.number, first.start.seq)
    assert second.start != first.start
    async with nothing_changes(talk.store):
        assert not await first.write("more")
        assert await first.end() == "fenced"


# Fence


async def test_a_worker_that_lost_its_job_changes_nothing_ever(talk: Talk) -> None:
    accepted = await talk.ask()
    old = await talk.begin("w1")
    await old.write("Bec")
    new = await talk.begin("w2", lease=0)
    store, job = talk.store, old.job
    for step in ("claimed", "written", "ended"):
        if step == "written":
            await new.write("Be", "cause")
        if step == "ended":
            await new.end()
        async with listening(talk) as ear, nothing_changes(store):
            assert await jobs.renew(store, job, "w1") == "lost"
            assert await claim_as(store, job, "w1") == "lost"
            # Whatever it takes for the last id, its own ids are behind.
            for expected in (old.attempt.tail, new.start, await tail(store, accepted.response)):
                first = LogId(old.start.attempt, expected.seq + 1)
                if expected.attempt == old.start.attempt:
                    assert await append(talk, accepted, expected, first, "!") != "appended"
            assert not await old.write("ause")
            ended = await old.end()
            assert ended == "fenced"
            await jobs.release(store, job, "w1")
            assert await ear.heard() == []
    assert await talk.settled_text(accepted.response) == "Because"


async def test_the_store_itself_refuses_the_ids_of_an_older_attempt(talk: Talk) -> None:
    """Even a worker that lies about the last id can not write: no id of its attempt is above it."""
    accepted = await talk.ask()
    old = await talk.begin("w1")
    new = await talk.begin("w2", lease=0)
    async with nothing_changes(talk.store):
        with pytest.raises(Exception, match="equal or smaller"):
            await append(talk, accepted, new.start, LogId(old.start.attempt, 4), "!")


async def test_of_two_workers_that_race_for_a_job_one_begins_an_attempt(stores: Stores) -> None:
    first, second = await stores.open(), await stores.open()
    await jobs.prepare(first)
    for _ in range(10):
        talk, other = Talk(first), Talk(second)
        other.name = talk.name
        accepted = await talk.ask()
        found = await asyncio.gather(*(each.takes(f"w{each is talk}") for each in (talk, other)))
        assert sorted(map(len, found)) == [0, 1]
        # The other one takes over in the same moment, and both claim.
        (job,) = found[0] or found[1]
        await asyncio.gather(*(each.takes(f"w{each is talk}", lease=0) for each in (talk, other)))
        outcomes = await asyncio.gather(*(claim_as(each.store, job, f"w{each is talk}") for each in (talk, other)))
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Claimed", "str"]
        assert "lost" in outcomes
        assert len(await response_log.read(first, accepted.response)) == 2
        await talk.stop(accepted.response)


# End


async def test_an_attempt_ends_its_response(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("Be", "cause")
    ended = await writer.end(COMPLETE)
    entries = await response_log.read(talk.store, accepted.response)
    assert ended == Ended(now=True, cursor=entries[-1][0])
    assert entries[-1] == (LogId(writer.start.attempt, 5), log_entries.encode(log_entries.END, COMPLETE))
    assert await talk.history() == [
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
    assert await talk.jobs() == await talk.pending() == await talk.open() == {}
    assert await talk.queue() == []


async def test_an_end_tells_all_that_there_is_to_tell(talk: Talk) -> None:
    accepted = await talk.ask()
    how = End("failed", {"output_tokens": 1}, Problem("provider_down", 'It said "no"\n.'), retryable=True)
    await talk.stop(accepted.response, how)
    settled = await talk.settled(accepted.response)
    assert (settled.reason, settled.usage, settled.error, settled.retryable) == (
        how.reason,
        how.usage,
        how.error,
        how.retryable,
    )
    assert log_entries.decode_response_entry((await response_log.read(talk.store, accepted.response))[-1][1]) == how


async def test_an_end_is_published_with_its_text_before_workers_hear_of_it_and_of_the_next_job(talk: Talk) -> None:
    accepted = await talk.ask()
    await talk.ask("And then?")
    writer = await talk.begin()
    await writer.write("Because")
    async with listening(talk) as ear:
        await writer.end()
        heard = await ear.heard()
    (text_id, _), (end_id, end) = (await response_log.read(talk.store, accepted.response))[-2:]
    (before, _), (turn_id, turn) = (await history_log.read(talk.store, talk.name))[-2:]
    assert heard == [
        ("control", b"job"),
        ("feed", lines(f"@{accepted.response} {end_id} {text_id}", end, f"@c {turn_id} {before}", turn)),
        ("control", f"end {accepted.response}".encode()),
    ]


async def test_an_attempt_can_not_end_a_log_that_went_on_without_it(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("a")
    async with listening(talk) as ear, nothing_changes(talk.store):
        result = await response_log.end(talk.store, talk.name, accepted.response, COMPLETE, expected=writer.start)
        assert result == TailMismatch(await tail(talk.store, accepted.response))
        assert await ear.heard() == []


async def test_an_attempt_whose_log_is_gone_does_not_settle_an_empty_text_as_complete(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("Because")
    await talk.redis.delete(keys.log(accepted.response))
    async with nothing_changes(talk.store):
        assert await writer.end(COMPLETE) == "fenced"
    assert await claim_as(talk.store, writer.job, "w1") == "expired"


@pytest.mark.parametrize("state", ["queued", "waiting", "taken", "claimed", "streaming", "recovering", "released"])
async def test_anybody_ends_a_response_in_every_state(talk: Talk, state: str) -> None:
    if state == "waiting":
        await talk.ask("The one before")
    accepted = await talk.ask()
    writer: Writer | None = None
    if state == "taken":
        await talk.take()
    if state in ("claimed", "streaming", "recovering", "released"):
        writer = await talk.begin()
    if state in ("streaming", "recovering", "released"):
        assert writer is not None
        await writer.write("Be", "cau")
    if state == "recovering":
        await talk.take("w2", lease=0)
    if state == "released":
        assert writer is not None
        await jobs.release(talk.store, writer.job, "w1")
    last = await tail(talk.store, accepted.response)

    ended = await talk.stop(accepted.response)
    assert isinstance(ended, Ended)
    assert ended.now
    assert ended.cursor is not None
    assert (ended.cursor.number, ended.cursor.seq) == (last.number + 1, last.seq + 1)
    assert await tail(talk.store, accepted.response) == ended.cursor
    assert await talk.settled_text(accepted.response) == ("Becau" if writer and last.seq > 2 else "")
    assert accepted.response not in await talk.open()
    assert accepted.response not in await talk.jobs()
    assert accepted.response not in await talk.queue()
    assert await talk.pending() == {}
    if writer is not None:
        async with nothing_changes(talk.store):
            assert not await writer.write("se")
            assert await writer.end() == "fenced"


async def test_a_response_ends_once_however_often_it_is_ended(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("a")
    first = await writer.end()
    assert isinstance(first, Ended)
    async with listening(talk) as ear, nothing_changes(talk.store):
        assert await talk.stop(accepted.response) == Ended(now=False, cursor=first.cursor)
        assert await writer.end(End("failed")) == Ended(now=False, cursor=first.cursor)
        assert await ear.heard() == []


@pytest.mark.parametrize("who", ["attempt", "anybody"])
async def test_an_end_whose_reply_was_lost_is_written_once(talk: Talk, who: str) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("a")
    async with listening(talk) as ear:
        writer.store = with_lost_replies(talk.store)
        ended = (
            await writer.end()
            if who == "attempt"
            else await response_log.end(writer.store, talk.name, accepted.response, STOPPED)
        )
        assert len(await ear.feed()) == 1
    assert ended == Ended(now=False, cursor=await tail(talk.store, accepted.response))
    assert await talk.settled_text(accepted.response) == "a"


async def test_a_stop_that_races_the_attempts_own_end_leaves_one_end(stores: Stores) -> None:
    worker, gateway = await stores.open(), await stores.open()
    await jobs.prepare(worker)
    for each in range(20):
        talk = Talk(worker)
        accepted = await talk.ask()
        writer = await talk.begin()
        await writer.write("Be")
        mine = writer.end()
        theirs = response_log.end(gateway, talk.name, accepted.response, STOPPED)
        calls = (mine, theirs) if each % 2 else (theirs, mine)
        outcomes = await asyncio.gather(*calls)
        assert sum(isinstance(outcome, Ended) and outcome.now for outcome in outcomes) == 1
        entries = await response_log.read(worker, accepted.response)
        assert [value[:1] for _, value in entries].count(log_entries.END) == 1
        assert entries[-1][1][:1] == log_entries.END
        assert await talk.settled_text(accepted.response) == "Be"
        assert await talk.jobs() == await talk.open() == {}


async def test_the_settled_text_is_what_the_last_fresh_start_wrote(talk: Talk) -> None:
    accepted = await talk.ask()
    await (await talk.begin()).write("Never ", "mind")
    writer = await talk.begin("w2", lease=0)
    await writer.write('Be"cause\n', "😀")
    await writer.end()
    assert await talk.settled_text(accepted.response) == 'Be"cause\n😀'
    assert fold(await response_log.read(talk.store, accepted.response)) == 'Be"cause\n😀'


async def test_the_settled_text_holds_what_was_kept(talk: Talk) -> None:
    accepted = await talk.ask()
    await (await talk.begin()).write("Never ")
    await (await talk.begin("w2", lease=0)).write("Be", "cau")
    writer = await talk.begin("w3", lease=0, keep_text=True)
    await writer.write("se")
    await writer.end()
    assert await talk.settled_text(accepted.response) == "Because"
    assert fold(await response_log.read(talk.store, accepted.response)) == "Because"


async def test_reasoning_is_in_the_log_and_not_in_the_text(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    writer.attempt.add(
        [
            log_entries.REASONING + b"Hm.",
            *text("Because"),
            log_entries.encode(log_entries.WAITING, log_entries.Waiting(1)),
        ]
    )
    await writer.end()
    assert await talk.settled_text(accepted.response) == "Because"


async def test_a_response_without_a_log_still_gets_its_place_in_the_history(talk: Talk) -> None:
    accepted, following = await talk.ask(), await talk.ask()
    await talk.redis.delete(keys.log(accepted.response))
    async with listening(talk) as ear:
        assert await talk.stop(accepted.response, End("failed")) == Ended(now=True, cursor=None)
        feed = await ear.feed()
    (before, _), (turn_id, turn) = (await history_log.read(talk.store, talk.name))[-2:]
    assert feed == [lines(f"@c {turn_id} {before}", turn)]
    assert (await talk.settled(accepted.response)).reason == "failed"
    assert await talk.settled_text(accepted.response) == ""
    assert list(await talk.jobs()) == list(await talk.open()) == await talk.queue() == [following.response]
    async with nothing_changes(talk.store):
        assert await talk.stop(accepted.response) is None


async def test_a_response_that_there_never_was_has_no_end(talk: Talk) -> None:
    async with nothing_changes(talk.store):
        assert await talk.stop(keys.response_id(talk.name, "0" * 16)) is None
    assert await response_log.request(talk.store, keys.response_id(talk.name, "0" * 16)) is None


async def test_the_next_turn_gets_its_job_when_the_head_ends_and_not_before(talk: Talk) -> None:
    asked = [(await talk.ask()).response for _ in range(4)]
    await talk.stop(asked[1])
    assert list(await talk.jobs()) == [asked[0]], "the head is not answered yet"
    await talk.stop(asked[0])
    assert list(await talk.jobs()) == [asked[2]]
    assert await talk.queue() == [asked[2], asked[3]]
    assert await talk.open() == {asked[2]: (await talk.jobs())[asked[2]], asked[3]: ""}


async def test_an_end_in_a_conversation_that_was_trimmed_away_is_settled(talk: Talk) -> None:
    accepted = await talk.ask()
    await talk.redis.xtrim(keys.conversation(talk.name), maxlen=0, approximate=False)
    await talk.stop(accepted.response)
    assert [type(entry) for entry in await talk.history()] == [Settled]


async def test_a_read_begins_at_the_cursor(talk: Talk) -> None:
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("a", "b", "c")
    entries = await response_log.read(talk.store, accepted.response)
    for index, (cursor, _) in enumerate(entries):
        assert await response_log.read(talk.store, accepted.response, after=cursor) == entries[index:]


async def test_a_read_from_beyond_the_end_of_a_log_tells_where_that_is(talk: Talk) -> None:
    """A failover lost what the reader has: it has to know whether the rest is still what it has."""
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("a", "b", "c")
    entries = await response_log.read(talk.store, accepted.response)
    for lost in range(1, len(entries)):
        await lose_tail(talk.store, accepted.response, 1)
        assert await response_log.read(talk.store, accepted.response, after=entries[-1][0]) == [entries[-1 - lost]]
    await talk.redis.delete(keys.log(accepted.response))
    assert await response_log.read(talk.store, accepted.response, after=entries[-1][0]) == []


async def test_a_log_is_kept_for_its_time_after_its_start_and_again_after_its_end(stores: Stores) -> None:
    talk = Talk(await stores.open(Lifetimes(log=100, conversation=1000)))
    await talk.prepare()
    accepted, _ = await talk.ask(), await talk.ask()
    client = talk.store.client
    kept = {
        keys.log(accepted.response): 100_000,
        keys.conversation(talk.name): 1_000_000,
        keys.response_queue(talk.name): 1_000_000,
    }

    async def nearly_over() -> None:
        for key in kept:
            await client.pexpire(key, 30_000)

    async def life(key: str) -> int:
        return await client.pttl(key)

    await nearly_over()
    writer = await talk.begin()
    assert 90_000 < await life(keys.log(accepted.response)) <= 100_000
    await nearly_over()
    assert await jobs.renew(talk.store, writer.job, "w1") == "held"
    for key, milliseconds in kept.items():
        assert milliseconds * 0.9 < await life(key) <= milliseconds, key
    await nearly_over()
    await writer.end()
    for key, milliseconds in kept.items():
        assert milliseconds * 0.9 < await life(key) <= milliseconds, key


async def test_every_start_names_its_worker(talk: Talk) -> None:
    accepted = await talk.ask()
    await claim(talk.store, await talk.take("w1", LEASE), "w1")
    start = log_entries.decode_response_entry((await response_log.read(talk.store, accepted.response))[-1][1])
    assert start == Start("default", "w1")
    assert re.fullmatch(r"r\d\d[0-9a-z]{16}", accepted.response)
