"""Jobs and leases: one worker per response, take-over of silent workers, recovery of lost jobs."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from gateway.streams import history_log, jobs, keys, response_log
from gateway.streams.history_log import NOBODY, Asker, Submission
from gateway.streams.liveness import TakeOverRule
from gateway.streams.log_entries import End
from gateway.streams.queued_jobs import Job
from gateway.streams.store.store import Lifetimes, Store
from tests.gateway.streams.steps import COMPLETE, LEASE, Conversation, FastRoundTrips, dump, nothing_changes, receiving
from tests.stores import Stores, with_lost_replies

ALL = range(keys.PARTITIONS)


@pytest.fixture
async def conversation(store: Store) -> Conversation:
    conversation = Conversation(store)
    await conversation.prepare()
    return conversation


async def until_idle(conversation: Conversation, job: Job, milliseconds: int) -> None:
    """Wait until the store reports this idle time for a job."""
    async with asyncio.timeout(10):
        while not await conversation.redis.xpending_range(
            keys.jobs(conversation.partition), keys.GROUP, job.id, job.id, 1, idle=milliseconds
        ):
            await asyncio.sleep(0.005)


# Acquire


async def test_prepare_is_idempotent(store: Store) -> None:
    for _ in range(2):
        await jobs.prepare(store)
    for partition in ALL:
        (group,) = await store.client.xinfo_groups(keys.jobs(partition))
        assert group["name"] == keys.GROUP.encode()


async def test_job_names_its_response_and_is_acquired_once(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    job = await conversation.take("w1")
    assert job == Job((await conversation.jobs())[accepted.response], accepted.response, conversation.name)
    assert await conversation.pending() == {job.id: "w1"}
    assert await conversation.takes("w1") == await conversation.takes("w2") == []


async def test_job_submitted_before_the_first_worker_is_acquired(store: Store) -> None:
    conversation = Conversation(store)
    accepted = await conversation.ask()
    # The first call finds no consumer group and creates it.
    found = await conversation.takes("w1") or await conversation.takes("w1")
    assert [job.response for job in found] == [accepted.response]


async def test_acquire_is_limited_for_new_and_taken_over_jobs(store: Store) -> None:
    await jobs.prepare(store)
    for _ in range(12):
        await Conversation(store).ask()
    first = await jobs.acquire(store, "w1", ALL, 5, TakeOverRule(LEASE))
    assert len(first) == 5
    rest = await jobs.acquire(store, "w2", ALL, 100, TakeOverRule(LEASE))
    assert len(rest) == 7
    # The other workers are killed; the limit of this one stays.
    taken_over = await jobs.acquire(store, "w3", ALL, 5, FastRoundTrips(0))
    assert len(taken_over) == 5
    assert {job.response for job in taken_over} < {job.response for job in first + rest}


async def test_expired_lease_is_found_among_many_held_ones(conversation: Conversation) -> None:
    partition = keys.jobs(conversation.partition)
    for each in range(60):
        await conversation.redis.xadd(
            partition,
            {"response": f"r{conversation.partition:02d}{each:016d}", "conversation": conversation.name},
        )
    held = await conversation.takes("w1")
    assert len(held) == 60
    silent = held.pop()
    await conversation.expire_lease(silent)
    assert await conversation.takes("w2", room=1) == [silent]


async def test_job_is_taken_over_after_its_lease_not_before(conversation: Conversation) -> None:
    await conversation.ask()
    job = await conversation.take("w1")
    assert await conversation.takes("w2") == []
    await until_idle(conversation, job, 60)
    assert await conversation.takes("w2", lease=0.05) == [job]
    assert await conversation.pending() == {job.id: "w2"}
    assert await conversation.takes("w1") == [], "w2 holds it for another lease"


async def test_no_take_over_at_a_recently_connected_server(conversation: Conversation) -> None:
    """It may have become the primary without the last renewals."""
    await conversation.ask()
    job = await conversation.take("w1")
    await conversation.expire_lease(job)
    take = partial(jobs.acquire, conversation.store, "w2", [conversation.partition], 1)
    assert await take(TakeOverRule(LEASE, LEASE)) == []
    assert await take(TakeOverRule(LEASE, conversation.store.connected_for_s(keys.jobs(conversation.partition)))) == [
        job
    ]
    await jobs.release(conversation.store, job, "w2")
    assert await take(TakeOverRule(LEASE, LEASE)) == [job], "it was released"


async def test_one_of_many_workers_takes_a_job_over(stores: Stores) -> None:
    several = [await stores.open() for _ in range(4)]
    conversation = Conversation(several[0])
    await conversation.prepare()
    await conversation.ask()
    job = await conversation.take("w0")
    await conversation.expire_lease(job)
    found = await asyncio.gather(
        *(
            jobs.acquire(store, f"w{each}", [conversation.partition], 1, TakeOverRule(LEASE))
            for each, store in enumerate(several)
        )
    )
    assert sorted(map(len, found)) == [0, 0, 0, 1]


# Renew and release


async def test_renewed_job_is_kept_for_another_lease(conversation: Conversation) -> None:
    await conversation.ask()
    job = await conversation.take("w1")
    await conversation.expire_lease(job)
    assert await jobs.renew(with_lost_replies(conversation.store), job, "w1") == "held"
    assert await conversation.takes("w2") == []
    assert await conversation.pending() == {job.id: "w1"}


async def test_renew_reports_a_lost_job(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    job = await conversation.take("w1")
    assert await jobs.renew(conversation.store, job, "w2") == "lost"
    await conversation.take("w2", lease=0)
    assert await jobs.renew(conversation.store, job, "w1") == "lost"
    await conversation.stop(accepted.response)
    assert await jobs.renew(conversation.store, job, "w2") == "lost", "an end deletes the job"


async def test_renew_reports_an_ended_response(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await conversation.stop(accepted.response)
    fields = {"response": accepted.response, "conversation": conversation.name}
    await conversation.redis.xadd(keys.jobs(conversation.partition), fields)
    assert await jobs.renew(conversation.store, await conversation.take("w1"), "w1") == "ended"


@pytest.mark.parametrize("how", ["expired", "trimmed"])
async def test_renew_reports_an_expired_log(conversation: Conversation, how: str) -> None:
    accepted = await conversation.ask()
    job = await conversation.take("w1")
    if how == "expired":
        await conversation.redis.delete(keys.log(accepted.response))
    else:
        await conversation.redis.xtrim(keys.log(accepted.response), maxlen=0, approximate=False)
    assert await jobs.renew(conversation.store, job, "w1") == "expired"


async def test_released_job_is_acquired_immediately(conversation: Conversation) -> None:
    await conversation.ask()
    job = await conversation.take("w1")
    async with receiving(conversation) as receiver:
        await jobs.release(conversation.store, job, "w1")
        assert await receiver.received() == [("control", b"job")]
    assert await conversation.takes("w2") == [job]
    async with receiving(conversation) as receiver, nothing_changes(conversation.store):
        await jobs.release(conversation.store, job, "w1")
        assert await receiver.received() == []
    assert await conversation.takes("w3") == [], "only the holder can release a job"


async def test_repeated_release_has_no_effect(conversation: Conversation) -> None:
    await conversation.ask()
    job = await conversation.take("w1")
    await jobs.release(with_lost_replies(conversation.store), job, "w1")
    assert await conversation.takes("w2") == [job]


async def test_leaving_worker_releases_what_it_holds_and_is_deleted(store: Store) -> None:
    await jobs.prepare(store)
    idle, busy = Conversation(store, "c1"), Conversation(store, "c3")
    assert idle.partition != busy.partition
    for conversation in (idle, busy):
        await conversation.ask()
    await (await idle.begin("w1")).end(COMPLETE)
    job = await busy.take("w1")
    async with receiving(busy) as receiver:
        assert await jobs.leave(with_lost_replies(store), "w1") == 0, (
            "the first call released it, and its reply was lost"
        )
        assert await receiver.received() == [("control", b"job")]
    for conversation in (idle, busy):
        consumers = await conversation.redis.xinfo_consumers(keys.jobs(conversation.partition), keys.GROUP)
        assert b"w1" not in {each["name"] for each in consumers}
    assert await busy.takes("w2") == [job], "without its lease"


async def test_job_taken_after_its_worker_left_is_taken_over(conversation: Conversation) -> None:
    """The last command of a worker that leaves is slow on its way."""
    await conversation.ask()
    (candidate,) = await jobs.candidates(conversation.store, [conversation.partition], 10, TakeOverRule(LEASE))
    await jobs.leave(conversation.store, "leaving")
    assert (await jobs.take(conversation.store, "leaving", [candidate])).jobs == [candidate.job]
    assert await conversation.takes("w2") == []
    await conversation.expire_lease(candidate.job)
    assert await conversation.takes("w2") == [candidate.job]


# Models


async def test_worker_acquires_only_jobs_of_models_that_it_serves(conversation: Conversation) -> None:
    store, partition = conversation.store, [conversation.partition]
    other = Conversation(store)
    while other.partition != conversation.partition:
        other = Conversation(store)
    wanted = await conversation.ask(model='a "quoted" né')
    left = await other.ask(model="gpu")
    found = await jobs.acquire(store, "w1", partition, 10, TakeOverRule(LEASE), ['a "quoted" né', "default"])
    assert [job.response for job in found] == [wanted.response]
    found = await jobs.acquire(store, "w2", partition, 10, TakeOverRule(LEASE), ["gpu"])
    assert [job.response for job in found] == [left.response]


async def test_jobs_of_a_model_without_workers_hide_no_others(conversation: Conversation) -> None:
    store, stream = conversation.store, keys.jobs(conversation.partition)
    accepted = await conversation.ask(model="gpu")
    fields = {"response": accepted.response, "conversation": conversation.name}
    for _ in range(300):
        await conversation.redis.xadd(stream, fields)
    other = Conversation(store)
    while other.partition != conversation.partition:
        other = Conversation(store)
    wanted = await other.ask(model="default")
    found: list[Job] = []
    while not found:
        found = await jobs.acquire(store, "w1", [conversation.partition], 1, TakeOverRule(LEASE), ["default"])
    assert [job.response for job in found] == [wanted.response]


async def test_job_without_a_readable_request_is_acquired_by_every_worker(conversation: Conversation) -> None:
    accepted = await conversation.ask(model="gpu")
    await conversation.redis.delete(keys.log(accepted.response))
    found = await jobs.acquire(conversation.store, "w1", [conversation.partition], 1, TakeOverRule(LEASE), ["default"])
    assert [job.response for job in found] == [accepted.response], "it ends the response"


@pytest.mark.parametrize("asker", [NOBODY, Asker("ann", {"subject": "forged", "a": {"subject": "forged"}})])
async def test_names_in_metadata_and_claims_are_no_subject(conversation: Conversation, asker: Asker) -> None:
    forged = {"subject": "forged"}
    submission = Submission(conversation=conversation.name, key="k", model="default", text="Why?", metadata=forged)
    await history_log.submit(conversation.store, submission, asker=asker)
    (found,) = await jobs.candidates(conversation.store, [conversation.partition], 5, TakeOverRule(LEASE))
    assert found.subject == ""


async def test_candidates_name_the_subject_and_whether_an_answer_began(conversation: Conversation) -> None:
    submission = history_log.Submission(conversation=conversation.name, key="k", model="default", text="Why?")
    await history_log.submit(conversation.store, submission, subject="somebody")
    find = partial(jobs.candidates, conversation.store, [conversation.partition], 10, TakeOverRule(LEASE))
    (new,) = await find()
    assert (new.subject, new.begun, new.min_idle_ms) == ("somebody", False, None)
    (job,) = (await jobs.take(conversation.store, "w1", [new])).jobs
    assert await find() == []
    await jobs.release(conversation.store, job, "w1")
    (released,) = await find()
    assert (released.begun, released.min_idle_ms) == (True, None)
    await jobs.take(conversation.store, "w1", [released])
    await conversation.expire_lease(job)
    # Without the round trip's time: the speed of the machine decides nothing.
    (silent,) = await jobs.candidates(conversation.store, [conversation.partition], 10, FastRoundTrips(LEASE))
    assert (silent.begun, silent.min_idle_ms) == (True, LEASE * 1000)


async def test_take_returns_the_same_jobs_after_a_lost_reply(conversation: Conversation) -> None:
    await conversation.ask()
    found = await jobs.candidates(conversation.store, [conversation.partition], 10, TakeOverRule(LEASE))
    acquired = await jobs.take(with_lost_replies(conversation.store), "w1", found)
    assert acquired.jobs == [found[0].job]
    assert acquired.now >= found[0].job.queued_at
    assert (await jobs.take(conversation.store, "w2", found)).jobs == [], "w1 has it"


# Recovery


async def requeue_lost(conversation: Conversation) -> list[tuple[str, str]]:
    """As `jobs.requeue_lost`, without waiting for the interval."""
    await conversation.redis.delete(keys.requeue_lock(conversation.partition))
    return await jobs.requeue_lost(conversation.store, conversation.partition, 60.0)


async def requeue(conversation: Conversation, response: str) -> bytes:
    """Run the script for one open response."""
    reply: bytes = await conversation.store.call(
        "requeue",
        [
            keys.open_responses(conversation.partition),
            keys.jobs(conversation.partition),
            keys.response_queue(conversation.name),
        ],
        response,
        conversation.name,
        keys.control(conversation.partition),
    )
    return reply


async def test_requeue_changes_nothing_without_lost_jobs(conversation: Conversation) -> None:
    await conversation.ask()
    await conversation.ask()
    await conversation.take("w1")
    await requeue_lost(conversation)
    async with receiving(conversation) as receiver:
        before = await dump(conversation.store)
        assert await requeue_lost(conversation) == []
        assert await dump(conversation.store) == before
        assert await receiver.received() == []


async def test_requeue_runs_once_per_interval_and_partition(conversation: Conversation) -> None:
    assert await jobs.requeue_lost(conversation.store, conversation.partition, 60.0) == []
    await conversation.ask()
    await conversation.redis.delete(keys.jobs(conversation.partition))
    await jobs.requeue_lost(conversation.store, conversation.partition, 60.0)
    assert await conversation.jobs() == {}
    assert 50_000 < await conversation.redis.pttl(keys.requeue_lock(conversation.partition)) <= 60_000


@pytest.mark.parametrize("lost", ["the job", "the stream"])
async def test_response_without_its_job_gets_a_new_one(conversation: Conversation, lost: str) -> None:
    accepted = await conversation.ask()
    former = await conversation.begin("w1")
    await former.write("Bec")
    if lost == "the job":
        await conversation.redis.xack(keys.jobs(conversation.partition), keys.GROUP, former.job.id)
        await conversation.redis.xdel(keys.jobs(conversation.partition), former.job.id)
    else:
        await conversation.redis.delete(keys.jobs(conversation.partition))
    assert await jobs.renew(conversation.store, former.job, "w1") == "lost"
    async with receiving(conversation) as receiver:
        assert await requeue_lost(conversation) == []
        assert await requeue_lost(conversation) == []
        assert await receiver.received() == [("control", b"job")], "once"
    assert await conversation.open() == await conversation.jobs()
    if lost == "the stream":
        await jobs.prepare(conversation.store)
    writer = await conversation.begin("w2")
    assert writer.job.response == accepted.response
    assert writer.start.number == 2
    assert not await former.write("ause")
    await writer.write("Because")
    await writer.end()
    assert await conversation.settled_text(accepted.response) == "Because"
    assert await conversation.jobs() == await conversation.open() == await conversation.pending() == {}


async def test_all_open_responses_are_answered_after_job_loss(conversation: Conversation) -> None:
    # Two conversations of one partition; one of them has a response queue.
    other = Conversation(conversation.store)
    while other.partition != conversation.partition:
        other = Conversation(conversation.store)
    asked = [(await each.ask()).response for each in (conversation, other, conversation, conversation)]
    await conversation.redis.delete(keys.jobs(conversation.partition))
    assert await requeue_lost(conversation) == []
    assert set(await conversation.jobs()) == {asked[0], asked[1]}
    answered = []
    while await conversation.open():
        for job in await conversation.takes("w1"):
            answered.append(job.response)
            await response_log.end(conversation.store, job.conversation, job.response, COMPLETE)
    assert set(answered) == set(asked)
    assert [each for each in answered if each != asked[1]] == [asked[0], asked[2], asked[3]]


async def test_closed_head_of_a_response_queue_is_removed(conversation: Conversation) -> None:
    stale, first, second = [(await conversation.ask()).response for _ in range(3)]
    # A possible state after a partial loss of data.
    await conversation.redis.delete(keys.jobs(conversation.partition))
    await conversation.redis.hdel(keys.open_responses(conversation.partition), stale)
    await requeue_lost(conversation)
    assert list(await conversation.jobs()) == [first]
    assert await conversation.queue() == [first, second]


async def test_lost_response_queue_is_rebuilt(conversation: Conversation) -> None:
    asked = [(await conversation.ask()).response for _ in range(3)]
    await conversation.redis.delete(keys.response_queue(conversation.name), keys.jobs(conversation.partition))
    await requeue_lost(conversation)
    assert sorted(await conversation.queue()) == sorted(asked)
    assert list(await conversation.jobs()) == (await conversation.queue())[:1]
    await jobs.prepare(conversation.store)
    for _ in asked:
        await (await conversation.begin()).end(COMPLETE)
    assert await conversation.open() == await conversation.jobs() == {}


async def test_requeued_response_waits_for_those_ahead(conversation: Conversation) -> None:
    first, second = [(await conversation.ask()).response for _ in range(2)]
    await conversation.redis.delete(keys.response_queue(conversation.name), keys.jobs(conversation.partition))
    for response, becomes in ((second, b"queued"), (first, b"waiting"), (first, b"waiting"), (second, b"held")):
        assert await requeue(conversation, response) == becomes
    assert list(await conversation.jobs()) == [second]
    assert await conversation.queue() == [second, first]
    await conversation.stop(second)
    assert list(await conversation.jobs()) == [first]
    assert await conversation.open() == await conversation.jobs()


async def test_open_response_without_a_log_is_reported(conversation: Conversation) -> None:
    accepted, following = await conversation.ask(), await conversation.ask()
    await conversation.redis.delete(keys.log(accepted.response))
    assert await requeue_lost(conversation) == [(conversation.name, accepted.response)]
    await conversation.stop(accepted.response, End("failed"))
    assert await requeue_lost(conversation) == []
    assert list(await conversation.jobs()) == list(await conversation.open()) == [following.response]


async def test_repeated_requeue_creates_one_job(conversation: Conversation) -> None:
    await conversation.ask()
    await conversation.redis.delete(keys.jobs(conversation.partition))
    await conversation.redis.delete(keys.requeue_lock(conversation.partition))
    assert await jobs.requeue_lost(with_lost_replies(conversation.store), conversation.partition, 60.0) == []
    assert await conversation.open() == await conversation.jobs()
    assert await conversation.redis.xlen(keys.jobs(conversation.partition)) == 1


async def test_ended_response_is_not_requeued(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await conversation.stop(accepted.response)
    assert await requeue(conversation, accepted.response) == b"closed"
    assert await conversation.jobs() == {}


async def test_conversation_of_an_open_response_is_found(conversation: Conversation) -> None:
    first, second = await conversation.ask(), await conversation.ask()
    for each in (first, second):
        assert await jobs.conversation_of(conversation.store, each.response) == conversation.name
        await conversation.stop(each.response)
        assert await jobs.conversation_of(conversation.store, each.response) is None


async def test_renewal_extends_the_response_queue(stores: Stores) -> None:
    """Otherwise a conversation with a short retention would generate two responses at the same time."""
    conversation = Conversation(await stores.open(Lifetimes(conversation=30)))
    await conversation.prepare()
    await conversation.ask()
    job = await conversation.take("w1")
    await conversation.redis.pexpire(keys.response_queue(conversation.name), 500)
    assert await jobs.renew(conversation.store, job, "w1") == "held"
    assert await conversation.redis.pttl(keys.response_queue(conversation.name)) > 20_000
