"""Steps of gateways and workers on a store, as building blocks of tests."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gateway.streams import history_log, jobs, keys, log_entries, response_log
from gateway.streams.history_log import Accepted, Refused, Submission
from gateway.streams.liveness import TakeOverRule
from gateway.streams.log_entries import End, LogId, Start
from gateway.streams.response_log import Claimed, Ended, TailMismatch
from workers.attempt import Attempt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.streams.queued_jobs import Job
    from gateway.streams.store.store import Store

COMPLETE = End("complete", usage={"input_tokens": 3, "output_tokens": 5})
STOPPED = End("stopped", retryable=True)
START = Start("default", "w1")
LEASE = 60.0
"""Seconds. Longer than any test: a job is taken over only if a test arranges it."""


class FastRoundTrips(TakeOverRule):
    """A rule for which every round trip counts as fast, so that the speed of the machine decides nothing."""

    __slots__ = ()

    def min_idle_ms(self, *, round_trip_s: float, connected_s: float) -> int:
        return super().min_idle_ms(round_trip_s=0.0, connected_s=connected_s)


def text(*pieces: str) -> list[bytes]:
    """Return one text entry per piece."""
    return [log_entries.TEXT + log_entries.escape(piece) for piece in pieces]


def fold(entries: Sequence[tuple[LogId, bytes]]) -> str:
    """Return the text of a log."""
    text_bytes = b""
    for _, value in entries:
        if value[:1] == log_entries.START:
            text_bytes = b""
        elif value[:1] == log_entries.TEXT:
            text_bytes += value[1:]
    return log_entries.unescape(text_bytes)


@dataclass
class Conversation:
    """A new conversation."""

    store: Store
    name: str = field(default_factory=lambda: f"c-{secrets.token_hex(6)}")

    @property
    def partition(self) -> int:
        return keys.partition_of(self.name)

    @property
    def redis(self) -> Any:
        """The store's client, untyped: redis-py's types cover the replies of all settings."""
        return self.store.client

    async def prepare(self) -> None:
        """Create the consumer group of this conversation's partition."""
        await self.store.client.xgroup_create(keys.jobs(self.partition), keys.GROUP, id="0", mkstream=True)

    async def submit(
        self, text: str | None = "Why?", key: str | None = None, if_busy: history_log.IfBusy = "queue", **more: Any
    ) -> Accepted | Refused:
        submission = Submission(
            conversation=self.name,
            key=key or secrets.token_hex(4),
            model=more.pop("model", "default"),
            text=text,
            **more,
        )
        return await history_log.submit(self.store, submission, if_busy)

    async def ask(
        self, text: str | None = "Why?", key: str | None = None, if_busy: history_log.IfBusy = "queue", **more: Any
    ) -> Accepted:
        accepted = await self.submit(text, key, if_busy, **more)
        assert isinstance(accepted, Accepted)
        return accepted

    async def takes(self, worker: str, lease: float = LEASE, room: int = 100) -> list[Job]:
        return await jobs.acquire(self.store, worker, [self.partition], room, FastRoundTrips(lease))

    async def take(self, worker: str = "w1", lease: float = LEASE) -> Job:
        """Acquire the only job. With a lease of 0 it is taken over from its worker."""
        # Repeated: without a consumer group, the first call only creates it; and fakeredis lists no job that was
        # delivered within the same millisecond.
        for _ in range(100):
            if jobs_found := await self.takes(worker, lease):
                (job,) = jobs_found
                return job
            await asyncio.sleep(0.002)
        raise AssertionError("no job")

    async def begin(self, worker: str = "w1", *, lease: float = LEASE, keep_text: bool = False) -> Writer:
        """Acquire the only job, and claim its response."""
        return await claim(self.store, await self.take(worker, lease), worker, keep_text=keep_text)

    async def expire_lease(self, job: Job) -> None:
        """Make a job idle for longer than its lease."""
        holder = (await self.pending())[job.id]
        idle = int(LEASE * 2000)
        await self.redis.xclaim(keys.jobs(self.partition), keys.GROUP, holder, 0, [job.id], idle=idle, justid=True)

    async def stop(self, response: str, how: End = STOPPED) -> Ended | TailMismatch | None:
        return await response_log.end(self.store, self.name, response, how)

    async def history(self) -> list[log_entries.HistoryEntry | None]:
        return [log_entries.decode_history_entry(value) for _, value in await history_log.read(self.store, self.name)]

    async def settled(self, response: str) -> log_entries.Settled:
        """Return the settled entry of a response; there must be exactly one."""
        (entry,) = [
            entry
            for entry in await self.history()
            if isinstance(entry, log_entries.Settled) and entry.response == response
        ]
        return entry

    async def settled_text(self, response: str) -> str:
        return msgspec.json.decode(bytes((await self.settled(response)).text), type=str)

    async def queue(self) -> list[str]:
        return [name.decode() for name in await self.redis.lrange(keys.response_queue(self.name), 0, -1)]

    async def jobs(self) -> dict[str, str]:
        """Return the job stream: response to job id."""
        entries = await self.redis.xrange(keys.jobs(self.partition))
        return {fields[b"response"].decode(): entry.decode() for entry, fields in entries}

    async def pending(self) -> dict[str, str]:
        """Return the jobs that workers hold: job id to worker."""
        held = await self.redis.xpending_range(keys.jobs(self.partition), keys.GROUP, "-", "+", 1000)
        return {each["message_id"].decode(): each["consumer"].decode() for each in held}

    async def open(self) -> dict[str, str]:
        """Return the open responses: response to job id, '' if others are ahead."""
        values = await self.redis.hgetall(keys.open_responses(self.partition))
        return {name.decode(): value.decode().partition(" ")[2] for name, value in values.items()}


@dataclass
class Writer:
    """A worker with a claimed attempt; reconciles refused appends as workers do."""

    store: Store
    job: Job
    worker: str
    attempt: Attempt
    start: LogId

    async def write(self, *pieces: str) -> bool:
        """Append text; return False if this attempt is fenced."""
        self.attempt.add(text(*pieces))
        return await self.flush()

    async def flush(self) -> bool:
        while (append := self.attempt.next()) is not None:
            result = await response_log.append(
                self.store, self.job.conversation, self.job.response, *append, timeout_s=10.0
            )
            if result == "appended":
                self.attempt.appended(append)
            elif not self.attempt.reconcile(result):
                return False
        return True

    async def end(self, how: End = COMPLETE) -> Ended | Literal["fenced"] | None:
        while await self.flush():
            result = await response_log.end(
                self.store, self.job.conversation, self.job.response, how, expected=self.attempt.tail
            )
            if not isinstance(result, TailMismatch):
                return result
            if not self.attempt.reconcile(result.last):
                break
        return "fenced"


async def claim(store: Store, job: Job, worker: str = "w1", *, keep_text: bool = False) -> Writer:
    """Claim an attempt; it must succeed."""
    claimed = await response_log.claim(store, job, worker, START, keep_text=keep_text, max_attempts=3)
    assert isinstance(claimed, Claimed), claimed
    kind = log_entries.CONTINUE if keep_text else log_entries.START
    attempt = Attempt(claimed.before, claimed.start, kind + msgspec.json.encode(START))
    return Writer(store, job, worker, attempt, claimed.start)


_DUMP = """
local held = {}
local names = redis.call('KEYS', 'tw:*')
table.sort(names)
for _, key in ipairs(names) do
  local kind = redis.call('TYPE', key)
  kind = kind.ok or kind
  local item = {key}
  if kind == 'stream' then
    item[2] = redis.call('XRANGE', key, '-', '+')
    item[3] = redis.call('XINFO', 'STREAM', key)
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      for _, job in ipairs(redis.call('XPENDING', key, group[2], '-', '+', 1000)) do
        item[#item + 1] = {job[1], job[2]}
      end
    end
  elseif kind == 'hash' then
    local fields = redis.call('HGETALL', key)
    local pairs = {}
    for each = 1, #fields, 2 do pairs[#pairs + 1] = fields[each] .. '=' .. fields[each + 1] end
    table.sort(pairs)
    item[2] = pairs
  elseif kind == 'list' then
    item[2] = redis.call('LRANGE', key, 0, -1)
  else
    item[2] = redis.call('GET', key)
  end
  held[#held + 1] = item
end
return held
"""


async def dump(store: Store) -> Any:
    """Return all data of the store, without expiry times."""
    return [await client.eval(_DUMP, 0) for client in store.servers.clients]


@asynccontextmanager
async def nothing_changes(store: Store) -> AsyncIterator[None]:
    """A block that must not change the data of the store."""
    before = await dump(store)
    yield
    assert await dump(store) == before


# One script: no writer must find the log missing.
LOSE_TAIL = """
local entries, life = redis.call('XRANGE', KEYS[1], '-', '+'), redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1])
for i = 1, #entries - ARGV[1] do redis.call('XADD', KEYS[1], entries[i][1], unpack(entries[i][2])) end
redis.call('PEXPIRE', KEYS[1], life)
"""


async def lose_tail(store: Store, response: str, count: int) -> None:
    """Delete the last `count` entries of a log, as a failover to a lagging replica does."""
    key = keys.log(response)
    await store.send_command(key, "EVAL", LOSE_TAIL, 1, key, count)


@dataclass
class Receiver:
    """Receives the feed of a conversation and the control channel of its partition, in order."""

    conversation: Conversation
    messages: asyncio.Queue[tuple[bytes, bytes]]
    acknowledged: asyncio.Queue[bytes]
    """Each channel, whenever a subscription to it is acknowledged."""
    closed: asyncio.Future[None]

    async def received(self) -> list[tuple[str, bytes]]:
        """Return all published messages since the last call, each with `feed` or `control`."""
        # Messages of one connection keep their order: those before the marker are all that there were.
        marker = secrets.token_bytes(8)
        await self.conversation.store.publish(keys.feed(self.conversation.name), marker)
        names = {
            keys.feed(self.conversation.name).encode(): "feed",
            keys.control(self.conversation.partition).encode(): "control",
        }
        messages: list[tuple[str, bytes]] = []
        async with asyncio.timeout(10):
            while True:
                channel, data = await self.messages.get()
                if data == marker:
                    return messages
                messages.append((names[channel], data))

    async def feed(self) -> list[bytes]:
        return [data for channel, data in await self.received() if channel == "feed"]


@asynccontextmanager
async def receiving(conversation: Conversation) -> AsyncIterator[Receiver]:
    """Receive everything that is published during the block."""
    messages: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
    acknowledged: asyncio.Queue[bytes] = asyncio.Queue()
    subscription = await conversation.store.subscribe(
        lambda *message: messages.put_nowait(message), acknowledged.put_nowait
    )
    subscription.subscribe(keys.feed(conversation.name).encode(), keys.control(conversation.partition).encode())
    async with asyncio.timeout(10):
        for _ in range(2):
            await acknowledged.get()
    yield Receiver(conversation, messages, acknowledged, subscription.closed)
    await subscription.close()


def lines(*parts: str | bytes) -> bytes:
    """Return a feed message of these lines."""
    return b"\n".join(part.encode() if isinstance(part, str) else part for part in parts)
