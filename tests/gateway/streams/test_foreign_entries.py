"""What another program writes to the store is skipped where it stands: the other jobs, logs and conversations go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from gateway.streams import history_log, jobs, keys, log_entries, response_log
from gateway.streams.log_entries import End, Queued, Settled, UserMessage
from gateway.streams.reconciliation import differing_logs
from gateway.streams.store.memory_store import MemoryServer
from gateway.streams.unreadable import TALLY
from tests.gateway.streams.steps import START, Conversation, FastRoundTrips
from tests.gateway.streams.test_jobs import requeue_lost
from workers import prompt

if TYPE_CHECKING:
    from gateway.streams.store.store import Store

FAILED: Final = End("failed", retryable=True)

FIELDS: Final[list[dict[Any, Any]]] = [
    {"foo": "bar"},
    {"response": "r00aaaaaaaaaaaaaaaa"},
    {"response": b"\xff", "conversation": b"\xff"},
    {"response": "r99aaaaaaaaaaaaaaaa", "conversation": "c"},
    {"response": "../../x", "conversation": "c"},
]


@pytest.fixture
async def conversation(store: Store) -> Conversation:
    conversation = Conversation(store)
    await conversation.prepare()
    TALLY.take()
    return conversation


async def begun(conversation: Conversation) -> tuple[str, Any]:
    """Return a response with one piece of text, and its writer."""
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Because")
    return accepted.response, writer


async def read_as(conversation: Conversation, consumer: str) -> None:
    """Read the job stream as a worker that does nothing with it."""
    stream = keys.jobs(conversation.partition)
    await conversation.store.send_command(
        stream, "XREADGROUP", "GROUP", keys.GROUP, consumer, "COUNT", 10, "STREAMS", stream, ">"
    )


@pytest.mark.parametrize("fields", FIELDS, ids=str)
async def test_entry_that_is_no_job_is_deleted_and_the_next_job_is_acquired(
    conversation: Conversation, fields: dict[Any, Any]
) -> None:
    stream = keys.jobs(conversation.partition)
    await conversation.redis.xadd(stream, fields)
    accepted = await conversation.ask()
    (job,) = await conversation.takes("w1")
    assert job.response == accepted.response
    assert TALLY.take() == (1, stream)
    assert await conversation.pending() == {job.id: "w1"}
    assert await conversation.redis.xlen(stream) == 1


async def test_entry_that_is_no_job_is_deleted_where_a_dead_worker_holds_it(conversation: Conversation) -> None:
    stream = keys.jobs(conversation.partition)
    await conversation.redis.xadd(stream, {"foo": "bar"})
    await read_as(conversation, "w0")
    for _ in range(100):
        # Repeated: fakeredis lists no job that was delivered within the same millisecond.
        assert await conversation.takes("w1", lease=0.0) == []
        if not await conversation.pending():
            break
    assert await conversation.pending() == {}
    assert await conversation.redis.xlen(stream) == 0


async def test_job_of_another_partition_is_deleted_and_its_response_keeps_its_own(conversation: Conversation) -> None:
    other = next(
        each
        for each in (Conversation(conversation.store, f"c{number}") for number in range(100))
        if each.partition != conversation.partition
    )
    await other.prepare()
    accepted = await other.ask()
    await conversation.redis.xadd(
        keys.jobs(conversation.partition), {"response": accepted.response, "conversation": other.name}
    )
    assert await conversation.takes("w1") == []
    assert (await other.take()).response == accepted.response


async def test_job_stream_of_another_type_leaves_the_other_partitions(store: Store) -> None:
    if isinstance(store.servers, MemoryServer):
        pytest.skip("fakeredis does not answer XREADGROUP on a key of another type")
    first, second = Conversation(store, "c1"), Conversation(store, "c3")
    assert first.partition != second.partition
    await first.redis.set(keys.jobs(first.partition), "x")
    await jobs.prepare(store)
    accepted = await second.ask()
    found = await jobs.acquire(store, "w1", range(keys.PARTITIONS), 10, FastRoundTrips(60.0))
    assert [job.response for job in found] == [accepted.response]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"\xff", b"\xff"),
        (b"x", b"y/y z"),
        (b"r99aaaaaaaaaaaaaaaa", b"a/b 1-1"),
        (b"r00aaaaaaaaaaaaaaaa", b"\xff"),
        (b"r00aaaaaaaaaaaaaaaa", b""),
    ],
)
async def test_unreadable_open_response_is_skipped_and_the_next_gets_its_job(
    conversation: Conversation, name: bytes, value: bytes
) -> None:
    accepted = await conversation.ask()
    await conversation.redis.hset(keys.open_responses(conversation.partition), name, value)
    await conversation.redis.delete(keys.jobs(conversation.partition))
    assert await requeue_lost(conversation) == []
    assert list(await conversation.jobs()) == [accepted.response]
    assert TALLY.take() == (1, keys.open_responses(conversation.partition))
    response = f"r{conversation.partition:02d}aaaaaaaaaaaaaaaa"
    await conversation.redis.hset(keys.open_responses(conversation.partition), response, value)
    assert await jobs.conversation_of(conversation.store, response) is None


async def test_queue_of_another_type_leaves_the_other_responses(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await conversation.redis.set(keys.response_queue(conversation.name), "x")
    await conversation.redis.delete(keys.jobs(conversation.partition))
    assert await requeue_lost(conversation) == []
    assert TALLY.take() == (1, accepted.response)


@pytest.mark.parametrize("fields", [{"e": "W{}"}, {"other": "x"}, {"e": 'T"'}, {"e": b"T\xff"}])
async def test_unreadable_entry_leaves_the_rest_of_a_log(conversation: Conversation, fields: dict[Any, Any]) -> None:
    response, writer = await begun(conversation)
    tail = writer.attempt.tail
    bad = log_entries.LogId(tail.attempt + 1, tail.seq + 1)
    await conversation.redis.xadd(keys.log(response), fields, id=str(bad))
    assert not await writer.write(" it is so"), "the attempt is fenced"
    second = await conversation.begin("w2", lease=0.0, keep_text=True)
    await second.write(".")
    await second.end()
    read = await response_log.read(conversation.store, response)
    assert [entry.seq for entry, _ in read] == list(range(1, 8))
    before = log_entries.LogText(read[-1][0])
    before.add(read)
    assert before.escaped == b"Because."
    if fields != {"e": b"T\xff"}:
        # The script cannot check UTF-8: readers skip such a message of the history.
        assert await conversation.settled_text(response) == "Because."


@pytest.mark.parametrize("value", ["T", "E{}", "Ex", "?", 'E{"reason":"complete"}'])
async def test_log_with_a_foreign_id_is_dropped_and_its_answer_settled(conversation: Conversation, value: str) -> None:
    response, writer = await begun(conversation)
    await conversation.redis.xadd(keys.log(response), {"e": value})
    assert not await writer.write(" it is so")
    job = await conversation.take("w2", lease=0.0)
    claimed = await response_log.claim(conversation.store, job, "w2", START, keep_text=False, max_attempts=100)
    assert claimed == "unreadable"
    ended = await response_log.end(conversation.store, conversation.name, response, FAILED, owner=(job.id, "w2"))
    assert isinstance(ended, response_log.Ended)
    assert ended.now
    assert await conversation.settled_text(response) == "Because"
    assert not await conversation.redis.exists(keys.log(response))
    assert await conversation.open() == {}
    accepted = await conversation.ask()
    assert (await conversation.take()).response == accepted.response, "the conversation goes on"


async def test_stop_of_a_log_with_a_foreign_id_settles_the_answer_once(conversation: Conversation) -> None:
    response, _ = await begun(conversation)
    await conversation.redis.xadd(keys.log(response), {"e": "x"})
    stopped = await conversation.stop(response)
    assert isinstance(stopped, response_log.Ended)
    assert stopped.now
    assert (await conversation.settled(response)).reason == "stopped"
    assert await conversation.stop(response) is None


async def test_foreign_entry_after_an_end_does_not_open_the_log_again(conversation: Conversation) -> None:
    response, writer = await begun(conversation)
    await writer.end()
    await conversation.redis.xadd(keys.log(response), {"e": "x"})
    assert await conversation.stop(response) is None
    assert (await conversation.settled(response)).reason == "complete"


async def test_unreadable_text_is_left_out_of_the_settled_message(conversation: Conversation) -> None:
    """As readers of the log do; a text with every valid escape stays."""
    response, writer = await begun(conversation)
    valid = ' "\\/\b\f\n\r\t\x01\x7f é 漢 \U0001f600'
    await writer.write(valid)
    for body in ('"', "\\", "\\x", "\\u12", "a\nb"):
        tail = writer.attempt.tail
        writer.attempt.add([log_entries.TEXT + body.encode()])
        assert await writer.flush()
        assert writer.attempt.tail > tail
    await writer.end()
    assert await conversation.settled_text(response) == "Because" + valid


async def test_unreadable_entries_leave_the_rest_of_a_history(conversation: Conversation) -> None:
    await conversation.ask("One")
    stream = keys.history(conversation.name)
    await conversation.redis.xadd(stream, {"foo": "bar"})
    await conversation.redis.xadd(stream, {"e": 'X{"usage":{"cost":0.5}}'})
    accepted = await conversation.ask("Two")
    read = await history_log.read(conversation.store, conversation.name)
    assert len(read) == 6
    texts = [entry.text for entry in await conversation.history() if isinstance(entry, UserMessage)]
    assert texts == ["One", "Two"]
    asked = prompt.History(Queued(conversation.name, accepted.message, "default"), 1000)
    asked.add_older([value for _, value in read])
    assert [each["content"] for each in asked.messages()] == ["One\n\nTwo"]
    await conversation.stop((await conversation.take()).response)
    assert [entry.reason for entry in await conversation.history() if isinstance(entry, Settled)] == ["stopped"]


async def test_log_of_another_type_leaves_the_reconciliation_of_the_others(conversation: Conversation) -> None:
    response, _ = await begun(conversation)
    wrong = keys.log(f"r{conversation.partition:02d}aaaaaaaaaaaaaaaa")
    await conversation.redis.set(wrong, "x")
    assert await differing_logs(conversation.store, [(wrong, ""), (keys.log(response), "")]) == [1]


async def test_request_that_cannot_be_read_is_none(conversation: Conversation) -> None:
    response = f"r{conversation.partition:02d}aaaaaaaaaaaaaaaa"
    await conversation.redis.xadd(keys.log(response), {"foo": "bar"})
    assert await response_log.request(conversation.store, response) is None
    await conversation.redis.delete(keys.log(response))
    await conversation.redis.xadd(keys.log(response), {"e": b"Q" + msgspec.json.encode({"conversation": 5})})
    assert await response_log.request(conversation.store, response) is None


# Consumers of workers that were killed


async def consumers(conversation: Conversation) -> set[str]:
    found = await conversation.redis.xinfo_consumers(keys.jobs(conversation.partition), keys.GROUP)
    return {name for each in found if not (name := each["name"].decode()).startswith(keys.WAITING)}


async def swept(conversation: Conversation, min_idle_s: float) -> set[str]:
    await conversation.redis.delete(keys.requeue_lock(conversation.partition))
    await jobs.requeue_lost(conversation.store, conversation.partition, 60.0, min_idle_s)
    return await consumers(conversation)


async def test_consumer_without_a_job_is_removed_once_it_was_idle_for_long(conversation: Conversation) -> None:
    await conversation.ask()
    (job,) = await conversation.takes("busy")
    await conversation.redis.xgroup_createconsumer(keys.jobs(conversation.partition), keys.GROUP, "dead")
    assert await swept(conversation, 3600.0) == {"busy", "dead"}
    assert await swept(conversation, 0.0) == {"busy"}
    assert await conversation.pending() == {job.id: "busy"}


async def test_consumer_that_was_removed_acquires_jobs_again(conversation: Conversation) -> None:
    await conversation.takes("slow")
    assert await swept(conversation, 0.0) == set()
    accepted = await conversation.ask()
    assert [job.response for job in await conversation.takes("slow")] == [accepted.response]


async def test_job_that_arrives_after_the_removal_is_taken_over(conversation: Conversation) -> None:
    """A read that was sent before the worker left, and reaches the store after it."""
    accepted = await conversation.ask()
    await jobs.leave(conversation.store, "leaving")
    await read_as(conversation, "leaving")
    assert (await conversation.take("w2", lease=0.0)).response == accepted.response


async def test_job_that_arrives_before_the_removal_keeps_its_consumer(conversation: Conversation) -> None:
    accepted = await conversation.ask()
    await read_as(conversation, "leaving")
    await jobs.leave(conversation.store, "leaving")
    assert (await conversation.take("w2", lease=0.0)).response == accepted.response


@pytest.mark.parametrize("last", ["18446744073709551615-1", "9007199254740001-1"])
async def test_history_with_the_largest_id_lets_an_answer_end_and_accepts_nothing(
    conversation: Conversation, last: str
) -> None:
    response, _ = await begun(conversation)
    await conversation.redis.xadd(keys.history(conversation.name), {"e": "x"}, id=last)
    stopped = await conversation.stop(response)
    assert isinstance(stopped, response_log.Ended)
    assert stopped.now
    assert await conversation.redis.hgetall(keys.open_responses(conversation.partition)) == {}
    before = sorted(await conversation.redis.keys("*"))
    submission = history_log.Submission(conversation=conversation.name, key="later", model="default", text="x")
    assert await history_log.submit(conversation.store, submission) == history_log.Refused("closed")
    assert sorted(await conversation.redis.keys("*")) == before


async def test_history_with_a_smaller_foreign_id_goes_on(conversation: Conversation) -> None:
    await begun(conversation)
    await conversation.redis.xadd(keys.history(conversation.name), {"e": "x"}, id="9007199254739990-1")
    submission = history_log.Submission(conversation=conversation.name, key="later", model="default", text="x")
    assert isinstance(await history_log.submit(conversation.store, submission), history_log.Accepted)
