"""Jobs: one worker for each response, another one when it falls silent, and none lost whatever Redis loses."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from gateway.streams import jobs, keys, response_log
from gateway.streams.jobs import Job
from gateway.streams.log_entries import End
from gateway.streams.store.store import Lifetimes, Store
from tests.gateway.streams.steps import COMPLETE, LEASE, Talk, dump, listening, nothing_changes
from tests.stores import Stores, with_lost_replies

ALL = range(keys.PARTITIONS)


@pytest.fixture
async def talk(store: Store) -> Talk:
    talk = Talk(store)
    await talk.prepare()
    return talk


async def until_idle(talk: Talk, job: Job, milliseconds: int) -> None:
    """Wait until the store itself counts so many milliseconds since the job was taken or renewed."""
    async with asyncio.timeout(10):
        while not await talk.redis.xpending_range(
            keys.jobs(talk.partition), keys.GROUP, job.id, job.id, 1, idle=milliseconds
        ):
            await asyncio.sleep(0.005)


# Take


async def test_every_partition_has_its_group_however_often_it_is_prepared(store: Store) -> None:
    for _ in range(2):
        await jobs.prepare(store)
    for partition in ALL:
        (group,) = await store.client.xinfo_groups(keys.jobs(partition))
        assert group["name"] == keys.GROUP.encode()


async def test_a_job_names_its_response_and_is_taken_once(talk: Talk) -> None:
    accepted = await talk.ask()
    job = await talk.take("w1")
    assert job == Job((await talk.jobs())[accepted.response], accepted.response, talk.name)
    assert await talk.pending() == {job.id: "w1"}
    assert await talk.takes("w1") == await talk.takes("w2") == []


async def test_a_job_that_was_submitted_before_there_was_any_worker_is_found(store: Store) -> None:
    talk = Talk(store)
    accepted = await talk.ask()
    # The first look finds no group, and makes it.
    found = await talk.takes("w1") or await talk.takes("w1")
    assert [job.response for job in found] == [accepted.response]


async def test_no_more_jobs_are_taken_than_there_is_room_for(store: Store) -> None:
    await jobs.prepare(store)
    for _ in range(12):
        await Talk(store).ask()
    first = await jobs.acquire(store, "w1", ALL, 5, LEASE)
    assert len(first) == 5
    rest = await jobs.acquire(store, "w2", ALL, 100, LEASE)
    assert len(rest) == 7
    # The workers are killed: the one that is left has no more room than before.
    taken_over = await jobs.acquire(store, "w3", ALL, 5, 0)
    assert len(taken_over) == 5
    assert {job.response for job in taken_over} < {job.response for job in first + rest}


async def test_a_silent_workers_job_is_found_behind_any_number_of_jobs_in_good_hands(talk: Talk) -> None:
    partition = keys.jobs(talk.partition)
    for each in range(60):
        await talk.redis.xadd(partition, {"response": f"r{each}", "conversation": talk.name})
    held = await talk.takes("w1")
    assert len(held) == 60
    silent = held.pop()
    await talk.silence(silent)
    assert await talk.takes("w2", room=1) == [silent]


async def test_a_job_changes_hands_after_its_lease_and_not_before(talk: Talk) -> None:
    await talk.ask()
    job = await talk.take("w1")
    assert await talk.takes("w2") == []
    await until_idle(talk, job, 60)
    assert await talk.takes("w2", lease=0.05) == [job]
    assert await talk.pending() == {job.id: "w2"}
    assert await talk.takes("w1") == [], "it is w2's for another lease"


async def test_at_a_server_that_is_new_to_a_worker_silence_says_nothing(talk: Talk) -> None:
    """It may have become the primary without what the others last said there."""
    await talk.ask()
    job = await talk.take("w1")
    await talk.silence(job)
    take = partial(jobs.acquire, talk.store, "w2", [talk.partition], 1, LEASE)
    assert await take(connected_for_s=LEASE) == []
    assert await take(connected_for_s=talk.store.connected_for_s(keys.jobs(talk.partition))) == [job]
    await jobs.release(talk.store, job, "w2")
    assert await take(connected_for_s=LEASE) == [job], "it was given up"


async def test_of_many_workers_one_takes_a_job_over(stores: Stores) -> None:
    several = [await stores.open() for _ in range(4)]
    talk = Talk(several[0])
    await talk.prepare()
    await talk.ask()
    job = await talk.take("w0")
    await talk.silence(job)
    found = await asyncio.gather(
        *(jobs.acquire(store, f"w{each}", [talk.partition], 1, LEASE) for each, store in enumerate(several))
    )
    assert sorted(map(len, found)) == [0, 0, 0, 1]


# Renew and release


async def test_a_renewed_job_is_kept_for_another_lease(talk: Talk) -> None:
    await talk.ask()
    job = await talk.take("w1")
    await talk.silence(job)
    assert await jobs.renew(with_lost_replies(talk.store), job, "w1") == "held"
    assert await talk.takes("w2") == []
    assert await talk.pending() == {job.id: "w1"}


async def test_renewing_tells_a_worker_that_it_is_to_stop(talk: Talk) -> None:
    accepted = await talk.ask()
    job = await talk.take("w1")
    assert await jobs.renew(talk.store, job, "w2") == "lost"
    await talk.take("w2", lease=0)
    assert await jobs.renew(talk.store, job, "w1") == "lost"
    await talk.stop(accepted.response)
    assert await jobs.renew(talk.store, job, "w2") == "lost", "an end takes the job off the books"


async def test_renewing_a_job_whose_log_has_an_end_tells_so(talk: Talk) -> None:
    accepted = await talk.ask()
    await talk.stop(accepted.response)
    fields = {"response": accepted.response, "conversation": talk.name}
    await talk.redis.xadd(keys.jobs(talk.partition), fields)
    assert await jobs.renew(talk.store, await talk.take("w1"), "w1") == "ended"


@pytest.mark.parametrize("how", ["expired", "trimmed"])
async def test_renewing_a_job_whose_log_is_gone_tells_so(talk: Talk, how: str) -> None:
    accepted = await talk.ask()
    job = await talk.take("w1")
    if how == "expired":
        await talk.redis.delete(keys.log(accepted.response))
    else:
        await talk.redis.xtrim(keys.log(accepted.response), maxlen=0, approximate=False)
    assert await jobs.renew(talk.store, job, "w1") == "expired"


async def test_a_released_job_goes_to_another_worker_at_once(talk: Talk) -> None:
    await talk.ask()
    job = await talk.take("w1")
    async with listening(talk) as ear:
        await jobs.release(talk.store, job, "w1")
        assert await ear.heard() == [("control", b"job")]
    assert await talk.takes("w2") == [job]
    async with listening(talk) as ear, nothing_changes(talk.store):
        await jobs.release(talk.store, job, "w1")
        assert await ear.heard() == []
    assert await talk.takes("w3") == [], "nobody can give up what another one holds"


async def test_a_release_whose_reply_was_lost_does_no_harm(talk: Talk) -> None:
    await talk.ask()
    job = await talk.take("w1")
    await jobs.release(with_lost_replies(talk.store), job, "w1")
    assert await talk.takes("w2") == [job]


async def test_a_worker_that_leaves_is_off_the_books_but_for_what_it_still_holds(store: Store) -> None:
    await jobs.prepare(store)
    idle, busy = Talk(store, "c1"), Talk(store, "c3")
    assert idle.partition != busy.partition
    for talk in (idle, busy):
        await talk.ask()
    await (await idle.begin("w1")).end(COMPLETE)
    job = await busy.take("w1")
    await jobs.release(store, job, "w1")
    await jobs.remove_consumer(store, "w1")
    assert await store.client.xinfo_consumers(keys.jobs(idle.partition), keys.GROUP) == []
    assert await busy.pending() == {job.id: "w1"}
    assert await busy.takes("w2") == [job]


# What was lost


async def sweep(talk: Talk) -> list[tuple[str, str]]:
    """As if nobody had swept for long."""
    await talk.redis.delete(keys.requeue_lock(talk.partition))
    return await jobs.requeue_lost(talk.store, talk.partition, 60.0)


async def requeue(talk: Talk, response: str) -> bytes:
    """What a sweep does with each open response."""
    reply: bytes = await talk.store.call(
        "requeue",
        [keys.open_responses(talk.partition), keys.jobs(talk.partition), keys.response_queue(talk.name)],
        response,
        talk.name,
        keys.control(talk.partition),
    )
    return reply


async def test_a_sweep_leaves_alone_what_is_in_order(talk: Talk) -> None:
    await talk.ask()
    await talk.ask()
    await talk.take("w1")
    await sweep(talk)
    async with listening(talk) as ear:
        before = await dump(talk.store)
        assert await sweep(talk) == []
        assert await dump(talk.store) == before
        assert await ear.heard() == []


async def test_a_partition_is_swept_once_in_a_while_whoever_wants_to(talk: Talk) -> None:
    assert await jobs.requeue_lost(talk.store, talk.partition, 60.0) == []
    await talk.ask()
    await talk.redis.delete(keys.jobs(talk.partition))
    await jobs.requeue_lost(talk.store, talk.partition, 60.0)
    assert await talk.jobs() == {}
    assert 50_000 < await talk.redis.pttl(keys.requeue_lock(talk.partition)) <= 60_000


@pytest.mark.parametrize("lost", ["the job", "the stream"])
async def test_a_response_that_lost_its_job_gets_another_one(talk: Talk, lost: str) -> None:
    accepted = await talk.ask()
    former = await talk.begin("w1")
    await former.write("Bec")
    if lost == "the job":
        await talk.redis.xack(keys.jobs(talk.partition), keys.GROUP, former.job.id)
        await talk.redis.xdel(keys.jobs(talk.partition), former.job.id)
    else:
        await talk.redis.delete(keys.jobs(talk.partition))
    assert await jobs.renew(talk.store, former.job, "w1") == "lost"
    async with listening(talk) as ear:
        assert await sweep(talk) == []
        assert await sweep(talk) == []
        assert await ear.heard() == [("control", b"job")], "once"
    assert await talk.open() == await talk.jobs()
    if lost == "the stream":
        await jobs.prepare(talk.store)
    writer = await talk.begin("w2")
    assert writer.job.response == accepted.response
    assert writer.start.number == 2
    assert not await former.write("ause")
    await writer.write("Because")
    await writer.end()
    assert await talk.settled_text(accepted.response) == "Because"
    assert await talk.jobs() == await talk.open() == await talk.pending() == {}


async def test_when_all_jobs_of_a_partition_are_lost_every_open_response_is_still_answered(talk: Talk) -> None:
    # Two conversations of one partition, and in one of them a queue.
    other = Talk(talk.store)
    while other.partition != talk.partition:
        other = Talk(talk.store)
    asked = [(await each.ask()).response for each in (talk, other, talk, talk)]
    await talk.redis.delete(keys.jobs(talk.partition))
    assert await sweep(talk) == []
    assert set(await talk.jobs()) == {asked[0], asked[1]}
    answered = []
    while await talk.open():
        for job in await talk.takes("w1"):
            answered.append(job.response)
            await response_log.end(talk.store, job.conversation, job.response, COMPLETE)
    assert set(answered) == set(asked)
    assert [each for each in answered if each != asked[1]] == [asked[0], asked[2], asked[3]]


async def test_a_queue_whose_head_is_not_open_any_more_is_taken_up(talk: Talk) -> None:
    stale, first, second = [(await talk.ask()).response for _ in range(3)]
    # As a store that lost a part of its data might leave it.
    await talk.redis.delete(keys.jobs(talk.partition))
    await talk.redis.hdel(keys.open_responses(talk.partition), stale)
    await sweep(talk)
    assert list(await talk.jobs()) == [first]
    assert await talk.queue() == [first, second]


async def test_open_responses_whose_queue_was_lost_are_queued_again(talk: Talk) -> None:
    asked = [(await talk.ask()).response for _ in range(3)]
    await talk.redis.delete(keys.response_queue(talk.name), keys.jobs(talk.partition))
    await sweep(talk)
    assert sorted(await talk.queue()) == sorted(asked)
    assert list(await talk.jobs()) == (await talk.queue())[:1]
    await jobs.prepare(talk.store)
    for _ in asked:
        await (await talk.begin()).end(COMPLETE)
    assert await talk.open() == await talk.jobs() == {}


async def test_a_response_that_lost_its_job_and_its_place_is_served_when_those_ahead_have_ended(talk: Talk) -> None:
    first, second = [(await talk.ask()).response for _ in range(2)]
    await talk.redis.delete(keys.response_queue(talk.name), keys.jobs(talk.partition))
    for response, becomes in ((second, b"queued"), (first, b"waiting"), (first, b"waiting"), (second, b"held")):
        assert await requeue(talk, response) == becomes
    assert list(await talk.jobs()) == [second]
    assert await talk.queue() == [second, first]
    await talk.stop(second)
    assert list(await talk.jobs()) == [first]
    assert await talk.open() == await talk.jobs()


async def test_a_response_whose_log_expired_is_reported_and_ends(talk: Talk) -> None:
    accepted, following = await talk.ask(), await talk.ask()
    await talk.redis.delete(keys.log(accepted.response))
    assert await sweep(talk) == [(talk.name, accepted.response)]
    await talk.stop(accepted.response, End("failed"))
    assert await sweep(talk) == []
    assert list(await talk.jobs()) == list(await talk.open()) == [following.response]


async def test_a_requeue_whose_reply_was_lost_queues_once(talk: Talk) -> None:
    await talk.ask()
    await talk.redis.delete(keys.jobs(talk.partition))
    await talk.redis.delete(keys.requeue_lock(talk.partition))
    assert await jobs.requeue_lost(with_lost_replies(talk.store), talk.partition, 60.0) == []
    assert await talk.open() == await talk.jobs()
    assert await talk.redis.xlen(keys.jobs(talk.partition)) == 1


async def test_a_response_that_ends_during_a_sweep_is_not_queued_again(talk: Talk) -> None:
    accepted = await talk.ask()
    await talk.stop(accepted.response)
    assert await requeue(talk, accepted.response) == b"closed"
    assert await talk.jobs() == {}


async def test_an_open_response_leads_to_its_conversation(talk: Talk) -> None:
    first, second = await talk.ask(), await talk.ask()
    for each in (first, second):
        assert await jobs.conversation_of(talk.store, each.response) == talk.name
        await talk.stop(each.response)
        assert await jobs.conversation_of(talk.store, each.response) is None


async def test_a_queue_lives_as_long_as_the_response_that_is_being_answered(stores: Stores) -> None:
    """Otherwise a conversation that is kept for a minute would answer two questions at once after that minute."""
    talk = Talk(await stores.open(Lifetimes(conversation=30)))
    await talk.prepare()
    await talk.ask()
    job = await talk.take("w1")
    await talk.redis.pexpire(keys.response_queue(talk.name), 500)
    assert await jobs.renew(talk.store, job, "w1") == "held"
    assert await talk.redis.pttl(keys.response_queue(talk.name)) > 20_000
