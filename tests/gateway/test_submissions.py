"""Submissions: keys of subjects, limits of subjects and conversations, instructions, and a full store."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest

from gateway.auth import ANONYMOUS, Identity
from gateway.streams import history_log, jobs, keys, log_entries, quota, response_log
from gateway.streams.history_log import MAX_AHEAD, OVERHEAD_BYTES, Accepted, Submission
from gateway.streams.log_entries import End, Queued
from gateway.streams.quota import Limits
from gateway.streams.store import free_memory
from gateway.streams.store.free_memory import FreeMemory
from gateway.streams.store.store import Lifetimes, open_store
from gateway.submissions import Failure, Stopped, Submissions
from gateway.wire import Retry, Send, Stop
from tests.gateway.streams.steps import Conversation
from tests.stores import RealServer

if TYPE_CHECKING:
    from gateway.streams.store.store import Store
    from tests.stores import Stores

SUBMIT_BYTES = OVERHEAD_BYTES + len("Why?") + 2 * len("alice")
"""Of a message of Alice."""

ALICE = Identity("alice", float("inf"), ("*",))
BOB = Identity("bob", float("inf"), ("*",))


def conversation_of(store: Store) -> str:
    return Conversation(store).name


async def send(
    store: Store, conversation: str, identity: Identity = ALICE, limits: Limits | None = None, **fields: Any
) -> Accepted | Failure:
    request = Send(**{"key": secrets.token_hex(8), "conversation": conversation, "text": "Why?", **fields})
    return await Submissions(store, None, limits=limits or Limits()).send(request, identity)


async def accepted(*arguments: Any, **fields: Any) -> Accepted:
    result = await send(*arguments, **fields)
    assert isinstance(result, Accepted), result
    return result


async def refused(*arguments: Any, **fields: Any) -> Failure:
    result = await send(*arguments, **fields)
    assert isinstance(result, Failure), result
    return result


async def stop(store: Store, response: str, identity: Identity = ALICE) -> None:
    await Submissions(store, None).stop(Stop(response=response), identity)


async def queued(store: Store, response: str) -> Queued:
    found = await response_log.request(store, response)
    assert found is not None
    return found


# Idempotency keys


async def test_key_belongs_to_its_subject(store: Store) -> None:
    name = conversation_of(store)
    one, other = await accepted(store, name, ALICE, key="k"), await accepted(store, name, BOB, key="k")
    assert one.response != other.response
    assert not other.duplicate
    repeated = await accepted(store, name, ALICE, key="k")
    assert (repeated.response, repeated.duplicate) == (one.response, True)
    assert (await refused(store, name, BOB, key="k", text="Other")).code == "key_conflict"


async def test_key_lives_a_day_whatever_the_retention_is(stores: Stores) -> None:
    store = await stores.open(Lifetimes(log=60.0, conversation=60.0))
    name = conversation_of(store)
    await accepted(store, name, ALICE, key="k")
    life_ms = await store.client.pttl(keys.submission(name, keys.subject_digest("alice"), "k"))
    assert 86_000_000 < life_ms <= 86_400_000


async def test_replaced_response_is_one_of_the_conversation(store: Store) -> None:
    name = conversation_of(store)
    first = await accepted(store, name, key="k")
    made_up = await refused(store, name, ALICE, Limits(open_responses=9), replaces=history_log.new_response(name))
    assert made_up.code == "not_found"
    assert await store.client.zcard(keys.open_of(keys.subject_digest("alice"))) == 0
    second = await accepted(store, name, replaces=first.response, key="k2")
    await store.client.delete(keys.log(first.response))
    assert (await refused(store, name, replaces=first.response)).code == "not_found"
    assert (await accepted(store, name, replaces=first.response, key="k2")).response == second.response


# Open responses of a subject


async def test_open_responses_of_a_subject_are_limited_over_all_conversations(store: Store) -> None:
    limits = Limits(open_responses=2)
    one, two, three = (conversation_of(store) for _ in range(3))
    first = await accepted(store, one, ALICE, limits, key="k")
    await accepted(store, two, ALICE, limits)
    refusal = await refused(store, three, ALICE, limits)
    assert (refusal.code, refusal.retry_after) == ("too_many", 5.0)
    await accepted(store, three, BOB, limits)
    repeated = await accepted(store, one, ALICE, limits, key="k")
    assert (repeated.response, repeated.duplicate) == (first.response, True), "beyond the limit too"
    await stop(store, first.response)
    await accepted(store, three, ALICE, limits)
    assert (await refused(store, three, ALICE, limits)).code == "too_many"


async def test_refused_or_repeated_submit_reserves_nothing(store: Store) -> None:
    limits = Limits(open_responses=3, subject_bytes=1 << 20)
    name = conversation_of(store)
    await accepted(store, name, ALICE, limits, key="k")
    for _ in range(5):
        assert (await accepted(store, name, ALICE, limits, key="k")).duplicate
        assert (await refused(store, name, ALICE, limits, if_busy="reject")).code == "busy"
        assert (await refused(store, name, ALICE, limits, key="k", text="Other")).code == "key_conflict"
    digest = keys.subject_digest("alice")
    assert await store.client.zcard(keys.open_of(digest)) == 1
    assert int(await store.client.get(keys.stored_by(digest)) or 0) == SUBMIT_BYTES


async def test_lost_release_expires(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "MIN_OPEN_S", 0.05)
    store = await stores.open(Lifetimes(log=0.05))
    limits = Limits(open_responses=1)
    subject = keys.subject_digest(secrets.token_hex(8))
    assert await quota.reserve(store, subject, "r1", 10, limits) is None
    assert await quota.reserve(store, subject, "r1", 10, limits) is None, "a repeated call"
    async with asyncio.timeout(10):
        while await quota.reserve(store, subject, "r2", 10, limits) is not None:
            await asyncio.sleep(0.01)
    assert await store.client.zrange(keys.open_of(subject), 0, -1) == [b"r2"]


async def test_anonymous_clients_share_no_limit(store: Store) -> None:
    limits = Limits(open_responses=1, subject_bytes=1)
    for _ in range(3):
        result = await accepted(store, conversation_of(store), ANONYMOUS, limits)
        assert (await queued(store, result.response)).subject is None


async def test_open_responses_of_a_conversation_are_limited(store: Store) -> None:
    name = conversation_of(store)
    for _ in range(MAX_AHEAD):
        await accepted(store, name)
    refusal = await refused(store, name)
    assert (refusal.code, refusal.retry_after) == ("too_many", 5.0)


async def test_disconnecting_after_a_send_does_not_release_its_response() -> None:
    store = await open_store("memory://")
    limits = Limits(open_responses=1)
    submissions, name = Submissions(store, None, limits=limits), conversation_of(store)
    request = Send(key="k", conversation=name, text="Why?")
    submit = history_log.submit

    async def lost_reply(*arguments: Any, **options: Any) -> Any:
        await submit(*arguments, **options)
        raise asyncio.CancelledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_log, "submit", lost_reply)
        with pytest.raises(asyncio.CancelledError):
            await submissions.send(request, ALICE)
    assert (await refused(store, conversation_of(store), ALICE, limits)).code == "too_many"
    assert (await accepted(store, name, ALICE, limits, key="k")).duplicate
    await store.close()


async def test_disconnecting_after_a_stop_still_releases_its_response() -> None:
    store = await open_store("memory://")
    limits = Limits(open_responses=1)
    first = await accepted(store, conversation_of(store), ALICE, limits)
    submissions = Submissions(store, None)
    stopping = asyncio.create_task(submissions.stop(Stop(response=first.response), ALICE))
    digest = keys.subject_digest("alice")
    while not submissions._ending:
        await asyncio.sleep(0)
    stopping.cancel()
    async with asyncio.timeout(10):
        while await store.client.zcard(keys.open_of(digest)):
            await asyncio.sleep(0.001)
    assert stopping.cancelled()
    await accepted(store, conversation_of(store), ALICE, limits)
    await store.close()


# Stored bytes


async def test_bytes_of_a_subject_are_limited_for_a_day(store: Store) -> None:
    identity = Identity(secrets.token_hex(8), float("inf"), ("*",))
    text = "x" * 1000
    size = OVERHEAD_BYTES + len(text) + 2 * len(identity.subject)
    limits = Limits(subject_bytes=3 * size)
    for _ in range(3):
        await accepted(store, conversation_of(store), identity, limits, text=text)
    refusal = await refused(store, conversation_of(store), identity, limits, text="")
    assert refusal.code == "quota"
    assert refusal.retry_after is not None
    assert 86_000 < refusal.retry_after <= 86_400
    await accepted(store, conversation_of(store), BOB, limits, text=text)


async def test_answer_counts_for_its_subject_and_conversation(store: Store) -> None:
    conversation = Conversation(store)
    await conversation.prepare()
    identity = Identity(secrets.token_hex(8), float("inf"), ("*",))
    limits = Limits(subject_bytes=1 << 20, conversation_bytes=1 << 20)
    await accepted(store, conversation.name, identity, limits)
    writer = await conversation.begin()
    await writer.write("x" * 1000)
    await writer.end()
    expected = OVERHEAD_BYTES + len("Why?") + 2 * len(identity.subject) + quota.COPIES * 1000
    digest = keys.subject_digest(identity.subject)
    assert int(await store.client.get(keys.stored_by(digest)) or 0) == expected
    assert int(await store.client.get(keys.stored_in(conversation.name)) or 0) == expected
    assert await store.client.zcard(keys.open_of(digest)) == 0


async def test_bytes_of_a_conversation_are_limited_for_a_day(store: Store) -> None:
    name = conversation_of(store)
    limits = Limits(conversation_bytes=2 * SUBMIT_BYTES)
    for identity in (ALICE, ALICE):
        await accepted(store, name, identity, limits)
    refusal = await refused(store, name, ALICE, limits)
    assert refusal.code == "quota"
    assert refusal.retry_after is not None
    assert 86_000 < refusal.retry_after <= 86_400
    await accepted(store, conversation_of(store), ALICE, limits)


LARGE = {f"k{number:02d}" + "\x01" * 60: "\x01" * 500 for number in range(16)}
"""Metadata of control characters, of which each has six bytes in the store."""


@pytest.mark.parametrize(
    ("text", "metadata", "claims"),
    [
        ("Why?", None, {}),
        ("\x01" * 10_000, None, {}),
        ("Why?", {"page": "/" * 400}, {"plan": "\x01" * 80}),
        ("Why?", LARGE, {"role": "x" * 3900}),
    ],
)
async def test_bytes_that_count_are_those_that_are_stored(
    text: str, metadata: dict[str, str] | None, claims: dict[str, Any]
) -> None:
    """Found by a hostile client: of 121 kB for each retry, 14 kB counted, and 6 kB for the conversation."""
    with RealServer() as server:
        store = await open_store(server.url)
        try:
            await check_bytes_that_count(store, text, metadata, claims)
        finally:
            await store.close()


async def check_bytes_that_count(
    store: Store, text: str, metadata: dict[str, str] | None, claims: dict[str, Any]
) -> None:
    identity = Identity(secrets.token_hex(8), float("inf"), ("*",), claims)
    conversation, submissions = Conversation(store), Submissions(store, None, limits=Limits(subject_bytes=1 << 30))
    await conversation.prepare()
    digest = keys.subject_digest(identity.subject)

    async def stored() -> int:
        found = [key for key in await store.client.keys("tw:*") if b":day:" not in key]
        return sum([await store.client.memory_usage(key, samples=0) or 0 for key in found])

    async def counted(key: str) -> int:
        return int(await store.client.get(key) or 0)

    first = Send(key="k", conversation=conversation.name, text=text, metadata=metadata)
    result = await submissions.send(first, identity)
    for number in range(6):
        assert isinstance(result, Accepted), result
        await submissions.stop(Stop(response=result.response), identity)
        if number == 0:
            # Of the first submit the store needs more, such as for the streams themselves.
            before, by_subject, of_conversation = await stored(), 0, 0
            by_subject = await counted(keys.stored_by(digest))
            of_conversation = await counted(keys.stored_in(conversation.name))
            assert min(by_subject, of_conversation) >= len(msgspec.json.encode([text, metadata, claims])) - 20
        elif number == 5:
            grown = await stored() - before
            assert grown < 5 * 12_000, "neither metadata nor claims are stored again"
            assert await counted(keys.stored_by(digest)) - by_subject >= 0.8 * grown
            assert await counted(keys.stored_in(conversation.name)) - of_conversation >= 0.8 * grown
        result = await submissions.retry(Retry(response=result.response, key=f"r{number}"), identity)


@pytest.mark.parametrize(("beyond", "inline"), [(0, True), (1, False)])
async def test_large_details_are_stored_apart(store: Store, beyond: int, *, inline: bool) -> None:
    name = conversation_of(store)
    without = len(msgspec.json.encode({"claims": {"plan": "gold"}, "metadata": {"page": ""}}))
    metadata = {"page": "x" * (history_log.MAX_INLINE_BYTES - without + beyond)}
    identity = Identity("ann", float("inf"), ("*",), {"plan": "gold"})
    result = await accepted(store, name, identity, metadata=metadata)
    request = await queued(store, result.response)
    assert (request.metadata is not None, request.details_id is None) == (inline, inline)
    read = await history_log.with_details(store, request)
    assert read is not None
    assert (read.user, read.claims, read.metadata) == ("ann", {"plan": "gold"}, metadata)


@pytest.mark.parametrize("value", [None, b"{", b'{"claims":3}'])
async def test_details_that_are_lost_or_unreadable_are_refused(store: Store, value: bytes | None) -> None:
    name = conversation_of(store)
    result = await accepted(store, name, metadata=LARGE)
    await stop(store, result.response)
    request = await queued(store, result.response)
    assert request.details_id is not None
    key = keys.details(name, request.details_id)
    await (store.client.delete(key) if value is None else store.client.set(key, value))
    assert await history_log.with_details(store, request) is None
    retried = await Submissions(store, None).retry(Retry(response=result.response, key="r"), ALICE)
    assert isinstance(retried, Failure)
    assert retried.code == "not_found"


async def test_details_outlive_the_requests_that_refer_to_them(stores: Stores) -> None:
    store = await stores.open(Lifetimes(log=60.0, conversation=600.0))
    name = conversation_of(store)
    result = await accepted(store, name, metadata=LARGE)
    request = await queued(store, result.response)
    assert request.details_id is not None
    key = keys.details(name, request.details_id)
    assert 86_900_000 < await store.client.pttl(key) <= 87_000_000
    await store.client.pexpire(key, 1000)
    await accepted(store, name, metadata=LARGE)
    assert 86_900_000 < await store.client.pttl(key) <= 87_000_000


# Instructions


async def test_instructions_are_stored_once_in_a_conversation(store: Store) -> None:
    conversation = Conversation(store)
    await conversation.prepare()
    text = "\u6f22" * 20_000
    first = await accepted(store, conversation.name, instructions=text)
    response = first.response
    for _ in range(3):
        await (await conversation.begin()).end(End("failed", retryable=True))
        retry = Retry(response=response, key=secrets.token_hex(8))
        result = await Submissions(store, None).retry(retry, ALICE)
        assert isinstance(result, Accepted)
        response = result.response
        entry = await queued(store, response)
        assert len(log_entries.encode(log_entries.QUEUED, entry)) < 400
        assert entry.instructions is None
        assert await history_instructions(store, conversation.name, entry) == text
    await accepted(store, conversation.name, instructions=text)
    pattern = keys.instructions(conversation.name, "*").replace("{", "\\{")
    stored = [key for client in store.servers.clients for key in await client.keys(pattern)]
    assert len(stored) == 1
    assert int(await store.client.get(keys.stored_in(conversation.name)) or 0) < 60_000 + 6 * (OVERHEAD_BYTES + 100)


async def history_instructions(store: Store, name: str, entry: Queued) -> str | None:
    return await history_log.instructions(store, name, entry)


async def test_renewal_keeps_instructions(stores: Stores) -> None:
    store = await stores.open(Lifetimes(log=60.0, conversation=60.0))
    conversation = Conversation(store)
    await conversation.prepare()
    result = await accepted(store, conversation.name, instructions="Be brief")
    identifier = (await queued(store, result.response)).instructions_id
    assert identifier is not None
    key = keys.instructions(conversation.name, identifier)
    job = await conversation.take()
    await store.client.pexpire(key, 1000)
    assert await jobs.renew(store, job, "w1") == "held"
    assert await store.client.pttl(key) <= 1000
    assert await jobs.renew(store, job, "w1", identifier) == "held"
    assert 3_600_000 < await store.client.pttl(key) <= 3_660_000


@pytest.mark.parametrize("mode", ["restart", "continue"])
async def test_retry_works_after_the_log_has_expired(store: Store, mode: Literal["restart", "continue"]) -> None:
    conversation = Conversation(store)
    await conversation.prepare()
    result = await accepted(store, conversation.name, instructions="Be brief", max_tokens=7)
    writer = await conversation.begin()
    await writer.write("Because")
    await writer.end(End("length", retryable=True))
    before = await queued(store, result.response)
    await store.client.delete(keys.log(result.response))
    submissions = Submissions(store, None)
    assert await submissions.conversation(result.response) == conversation.name
    retried = await submissions.retry(Retry(response=result.response, key="r", mode=mode), ALICE)
    assert isinstance(retried, Accepted)
    entry = await queued(store, retried.response)
    assert (entry.message, entry.replaces, entry.mode) == (before.message, result.response, mode)
    assert (entry.instructions_id, entry.max_tokens) == (before.instructions_id, 7)
    stopped = await submissions.stop(Stop(response=result.response), ALICE)
    assert stopped == Stopped(result.response, now=False)
    stranger = await submissions.retry(
        Retry(response=result.response, key="s"), Identity("bob", float("inf"), ("other",))
    )
    assert isinstance(stranger, Failure)
    assert stranger.code == "not_found"


async def test_retry_without_its_instructions_is_refused(store: Store) -> None:
    conversation = Conversation(store)
    await conversation.prepare()
    result = await accepted(store, conversation.name, instructions="Be brief")
    await stop(store, result.response)
    identifier = (await queued(store, result.response)).instructions_id
    assert identifier is not None
    await store.client.delete(keys.instructions(conversation.name, identifier))
    retry = Retry(response=result.response, key="r")
    failure = await Submissions(store, None).retry(retry, ALICE)
    assert isinstance(failure, Failure)
    assert failure.code == "not_found"
    # The client's own copy can be stored again.
    await accepted(store, conversation.name, instructions="Be brief")


async def test_retry_of_an_entry_with_its_instructions_inside_stores_them(store: Store) -> None:
    """As earlier releases wrote it."""
    conversation = Conversation(store)
    await conversation.prepare()
    result = await accepted(store, conversation.name)
    entry = Queued(conversation.name, result.message, "default", instructions="Be brief")
    await store.client.delete(keys.log(result.response))
    await store.client.xadd(
        keys.log(result.response), {log_entries.FIELD: log_entries.encode(log_entries.QUEUED, entry)}, id="5-1"
    )
    await stop(store, result.response)
    retried = await Submissions(store, None).retry(Retry(response=result.response, key="r"), ALICE)
    assert isinstance(retried, Accepted)
    assert await history_instructions(store, conversation.name, await queued(store, retried.response)) == "Be brief"


async def test_generator_is_told_who_asks(store: Store) -> None:
    submissions, name = Submissions(store, None), conversation_of(store)
    ann = Identity("ann", float("inf"), ("*",), {"plan": "gold"})
    bob = Identity("bob", float("inf"), ("*",), {})
    accepted = await submissions.send(Send(key="k", conversation=name, text="Why?", metadata={"page": "/"}), ann)
    assert isinstance(accepted, Accepted)
    asked = await queued(store, accepted.response)
    assert (asked.user, asked.claims, asked.metadata) == ("ann", {"plan": "gold"}, {"page": "/"})
    other = Send(key="k", conversation=name, text="Why?", metadata={"page": "/other"})
    conflict = await submissions.send(other, ann)
    assert isinstance(conflict, Failure)
    assert conflict.code == "key_conflict"
    await submissions.stop(Stop(response=accepted.response), ann)
    retried = await submissions.retry(Retry(response=accepted.response, key="r"), bob)
    assert isinstance(retried, Accepted)
    asked = await queued(store, retried.response)
    assert (asked.user, asked.claims, asked.metadata) == ("bob", None, {"page": "/"})
    anonymous = await submissions.send(Send(key="a", conversation=name, text="Why?"), ANONYMOUS)
    assert isinstance(anonymous, Accepted)
    asked = await queued(store, anonymous.response)
    assert (asked.user, asked.claims, asked.metadata) == (None, None, None)


def test_digest_of_a_submission_without_metadata_is_that_of_earlier_releases() -> None:
    """A client that repeats its message during an upgrade must not get a conflict."""
    submission = Submission(conversation="c", key="k", model="default", text="Why?")
    assert submission.digest == "b9a941c6cd05e0404412defbba105be46df2249cb0e30e19e6e6720285349b0c"


# A store that is nearly full


@pytest.fixture
def nearly_full() -> Any:
    with RealServer("valkey", "--maxmemory-policy", "noeviction") as server:
        yield server


async def test_store_refuses_messages_before_it_is_full_and_takes_ends(nearly_full: RealServer) -> None:
    store = await open_store(nearly_full.url)
    name = conversation_of(store)
    submissions = Submissions(store, None, limits=Limits(open_responses=100))
    request = Send(key="k", conversation=name, text="Why?")
    first = await submissions.send(request, ALICE)
    assert isinstance(first, Accepted)
    used = int((await store.client.info("memory"))["used_memory"])
    below = int(used / (free_memory.MAX_SHARE - 0.1))
    await asyncio.to_thread(nearly_full.command, "CONFIG", "SET", "maxmemory", below)
    assert not await FreeMemory(store).is_scarce()
    above = int(used / (free_memory.MAX_SHARE + 0.02))
    await asyncio.to_thread(nearly_full.command, "CONFIG", "SET", "maxmemory", above)
    second = Submissions(store, None, limits=Limits(open_responses=100))
    refusal = await second.send(Send(key="k2", conversation=name, text="Why?"), ALICE)
    assert isinstance(refusal, Failure)
    assert (refusal.code, refusal.retry_after) == ("store_full", 30.0)
    repeated = await second.send(request, ALICE)
    assert isinstance(repeated, Accepted)
    assert repeated.duplicate
    await asyncio.to_thread(nearly_full.command, "CONFIG", "SET", "maxmemory", 1)
    result = await second.stop(Stop(response=first.response), ALICE)
    assert not isinstance(result, Failure)
    assert await store.client.zcard(keys.open_of(keys.subject_digest("alice"))) == 0
    await asyncio.to_thread(nearly_full.command, "CONFIG", "SET", "maxmemory", used * 4)
    async with asyncio.timeout(10):
        while isinstance(await second.send(Send(key="k3", conversation=name, text="Why?"), ALICE), Failure):
            await asyncio.sleep(0.01)
    await store.close()


async def test_full_store_reserves_nothing(nearly_full: RealServer) -> None:
    """The store is full before this process has seen it."""
    store = await open_store(nearly_full.url)
    submissions = Submissions(store, None, limits=Limits(open_responses=100))
    name = conversation_of(store)
    assert isinstance(await submissions.send(Send(key="k", conversation=name, text="Why?"), ALICE), Accepted)
    await asyncio.to_thread(nearly_full.command, "CONFIG", "SET", "maxmemory", 1)
    refusal = await submissions.send(Send(key="k2", conversation=name, text="Why?"), ALICE)
    assert isinstance(refusal, Failure)
    assert refusal.code == "store_full"
    assert await store.client.zcard(keys.open_of(keys.subject_digest("alice"))) == 1
    await store.close()


# What another program writes


@pytest.mark.parametrize("key", [keys.history, keys.response_queue])
async def test_key_of_another_type_refuses_messages_of_its_conversation_and_lets_answers_end(
    store: Store, key: Any
) -> None:
    conversation = Conversation(store)
    response = (await accepted(store, conversation.name)).response
    await store.client.set(key(conversation.name), "x")
    assert (await refused(store, conversation.name)).code == "unavailable"
    stopped = await Submissions(store, None).stop(Stop(response=response), ALICE)
    assert isinstance(stopped, Stopped)
    assert await store.client.hexists(keys.open_responses(conversation.partition), response) is False
    await accepted(store, conversation_of(store))


async def test_history_id_without_a_successor_refuses_the_requests_of_its_conversation(store: Store) -> None:
    name = conversation_of(store)
    await store.client.xadd(keys.history(name), {"e": "x"}, id=f"{2**64 - 1}-1")
    refusal = await refused(store, name)
    # To repeat the request would not help.
    assert (refusal.code, refusal.retry_after) == ("forbidden", None)
