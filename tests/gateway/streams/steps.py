"""The steps of a response's life as gateways and workers take them, for tests to tell stories with."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gateway.streams import history_log, jobs, keys, log_entries, response_log
from gateway.streams.history_log import Accepted, Refused, Submission
from gateway.streams.log_entries import End, LogId, Start
from gateway.streams.response_log import Claimed, Ended, TailMismatch
from workers.attempt import Attempt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.streams.jobs import Job
    from gateway.streams.store.store import Store

COMPLETE = End("complete", usage={"input_tokens": 3, "output_tokens": 5})
STOPPED = End("stopped", retryable=True)
START = Start("default", "w1")
LEASE = 60.0
"""Longer than any test: a job changes hands only where a test says so."""


def text(*pieces: str) -> list[bytes]:
    """Entries of text, one for each piece."""
    return [log_entries.TEXT + log_entries.escape(piece) for piece in pieces]


def fold(entries: Sequence[tuple[LogId, bytes]]) -> str:
    """The text that a log tells."""
    told = b""
    for _, value in entries:
        if value[:1] == log_entries.START:
            told = b""
        elif value[:1] == log_entries.TEXT:
            told += value[1:]
    return log_entries.unescape(told)


@dataclass
class Talk:
    """A conversation that nobody has used before."""

    store: Store
    name: str = field(default_factory=lambda: f"c-{secrets.token_hex(6)}")

    @property
    def partition(self) -> int:
        return keys.partition_of(self.name)

    @property
    def redis(self) -> Any:
        """The store's client; redis-py's types are of every reply that any setting may give."""
        return self.store.client

    async def prepare(self) -> None:
        """As `jobs.prepare`, for this conversation's partition alone."""
        await self.store.client.xgroup_create(keys.jobs(self.partition), keys.GROUP, id="0", mkstream=True)

    async def submit(
        self, said: str | None = "Why?", key: str | None = None, if_busy: history_log.IfBusy = "queue", **more: Any
    ) -> Accepted | Refused:
        submission = Submission(self.name, key or secrets.token_hex(4), more.pop("model", "default"), said, **more)
        return await history_log.submit(self.store, submission, if_busy)

    async def ask(
        self, said: str | None = "Why?", key: str | None = None, if_busy: history_log.IfBusy = "queue", **more: Any
    ) -> Accepted:
        accepted = await self.submit(said, key, if_busy, **more)
        assert isinstance(accepted, Accepted)
        return accepted

    async def takes(self, worker: str, lease: float = LEASE, room: int = 100) -> list[Job]:
        return await jobs.acquire(self.store, worker, [self.partition], room, lease)

    async def take(self, worker: str = "w1", lease: float = LEASE) -> Job:
        (job,) = await self.takes(worker, lease)
        return job

    async def begin(self, worker: str = "w1", *, lease: float = LEASE, keep_text: bool = False) -> Writer:
        """Take the only job there is, and claim it."""
        return await claim(self.store, await self.take(worker, lease), worker, keep_text=keep_text)

    async def silence(self, job: Job) -> None:
        """Let a job's worker have been silent for longer than its lease."""
        holder = (await self.pending())[job.id]
        idle = int(LEASE * 2000)
        await self.redis.xclaim(keys.jobs(self.partition), keys.GROUP, holder, 0, [job.id], idle=idle, justid=True)

    async def stop(self, response: str, how: End = STOPPED) -> Ended | TailMismatch | None:
        return await response_log.end(self.store, self.name, response, how)

    async def history(self) -> list[log_entries.HistoryEntry | None]:
        return [log_entries.decode_history_entry(value) for _, value in await history_log.read(self.store, self.name)]

    async def settled(self, response: str) -> log_entries.Settled:
        """The only word of the conversation on how a response ended."""
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
        """The job stream: each entry's response and id."""
        entries = await self.redis.xrange(keys.jobs(self.partition))
        return {fields[b"response"].decode(): entry.decode() for entry, fields in entries}

    async def pending(self) -> dict[str, str]:
        """The jobs that workers hold: each one's id and worker."""
        held = await self.redis.xpending_range(keys.jobs(self.partition), keys.GROUP, "-", "+", 1000)
        return {each["message_id"].decode(): each["consumer"].decode() for each in held}

    async def open(self) -> dict[str, str]:
        """The open responses: each one's job, '' where others are ahead."""
        values = await self.redis.hgetall(keys.open_responses(self.partition))
        return {name.decode(): value.decode().partition(" ")[2] for name, value in values.items()}


@dataclass
class Writer:
    """A worker that holds a claim, and does with a refusal what workers do."""

    store: Store
    job: Job
    worker: str
    attempt: Attempt
    start: LogId

    async def write(self, *pieces: str) -> bool:
        """Append text; False: this attempt is fenced."""
        self.attempt.add(text(*pieces))
        return await self.flush()

    async def flush(self) -> bool:
        while (append := self.attempt.next()) is not None:
            result = await response_log.append(
                self.store, self.job.conversation, self.job.response, *append, timeout_s=10.0
            )
            if result == "appended":
                self.attempt.appended(append)
            elif not self.attempt.refused(result):
                return False
        return True

    async def end(self, how: End = COMPLETE) -> Ended | Literal["fenced"] | None:
        while await self.flush():
            result = await response_log.end(
                self.store, self.job.conversation, self.job.response, how, expected=self.attempt.tail
            )
            if not isinstance(result, TailMismatch):
                return result
            if not self.attempt.refused(result.last):
                break
        return "fenced"


async def claim(store: Store, job: Job, worker: str = "w1", *, keep_text: bool = False) -> Writer:
    """Begin an attempt that nothing stands in the way of."""
    claimed = await response_log.claim(store, job, worker, START, keep_text=keep_text, most_attempts=3)
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
    """All that the store holds, but for how long it is kept."""
    return [await client.eval(_DUMP, 0) for client in store.servers.clients]


@asynccontextmanager
async def nothing_changes(store: Store) -> AsyncIterator[None]:
    """A block after which the store holds what it held before."""
    before = await dump(store)
    yield
    assert await dump(store) == before


# At once: no writer finds the log gone.
LOSE_TAIL = """
local entries, life = redis.call('XRANGE', KEYS[1], '-', '+'), redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1])
for i = 1, #entries - ARGV[1] do redis.call('XADD', KEYS[1], entries[i][1], unpack(entries[i][2])) end
redis.call('PEXPIRE', KEYS[1], life)
"""


async def lose_tail(store: Store, response: str, count: int) -> None:
    """Let the last `count` entries of a log be lost, as a failover to a replica that lagged behind loses them."""
    key = keys.log(response)
    await store.send_command(key, "EVAL", LOSE_TAIL, 1, key, count)


@dataclass
class Ear:
    """Hears a conversation's feed and its partition's control channel, in the order in which they speak."""

    talk: Talk
    messages: asyncio.Queue[tuple[bytes, bytes]]
    acknowledged: asyncio.Queue[bytes]
    """Each channel whenever it is subscribed to."""
    closed: asyncio.Future[None]

    async def heard(self) -> list[tuple[str, bytes]]:
        """All that was published and not heard yet: `feed` or `control`, and what was said."""
        # Messages of one connection keep their order: what comes before our own word is all that there was.
        word = secrets.token_bytes(8)
        await self.talk.store.publish(keys.feed(self.talk.name), word)
        names = {keys.feed(self.talk.name).encode(): "feed", keys.control(self.talk.partition).encode(): "control"}
        messages: list[tuple[str, bytes]] = []
        async with asyncio.timeout(10):
            while True:
                channel, data = await self.messages.get()
                if data == word:
                    return messages
                messages.append((names[channel], data))

    async def feed(self) -> list[bytes]:
        return [data for channel, data in await self.heard() if channel == "feed"]


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[Ear]:
    """Hear all that is published from now on."""
    messages: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
    acknowledged: asyncio.Queue[bytes] = asyncio.Queue()
    subscription = await talk.store.subscribe(lambda *message: messages.put_nowait(message), acknowledged.put_nowait)
    subscription.subscribe(keys.feed(talk.name).encode(), keys.control(talk.partition).encode())
    async with asyncio.timeout(10):
        for _ in range(2):
            await acknowledged.get()
    yield Ear(talk, messages, acknowledged, subscription.closed)
    await subscription.close()


def lines(*parts: str | bytes) -> bytes:
    """A feed message of these lines."""
    return b"\n".join(part.encode() if isinstance(part, str) else part for part in parts)
