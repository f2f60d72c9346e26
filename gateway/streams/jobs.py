"""Jobs and leases: which worker generates which response.

All coroutines are safe to cancel: each script and command takes effect completely or not at all, and a lease that is
acquired by a cancelled call expires.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import ResponseError

from gateway.streams import keys
from gateway.streams.liveness import RELEASED_MS
from gateway.streams.store.store import Store, milliseconds
from gateway.streams.store.topology import key_of
from gateway.streams.unreadable import TALLY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.streams.liveness import TakeOverRule
    from gateway.streams.store.pipeline import Argument

RENEW_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Job:
    """One response to generate; `id` is its entry in the job stream of the partition."""

    id: str
    response: str
    conversation: str

    @property
    def queued_at(self) -> float:
        """When it was queued, in seconds since 1970 by the store's clock."""
        return int(self.id.partition("-")[0]) / 1000


Renewal = Literal["held", "ended", "expired", "lost"]


async def prepare(store: Store) -> None:
    """Create the consumer group of every partition that has none. Safe to cancel.

    Raises StoreUnavailableError, StoreFullError.
    """
    for partition in range(keys.PARTITIONS):
        create = partial(store.client.xgroup_create, keys.jobs(partition), keys.GROUP, id="0", mkstream=True)
        try:
            await store.retry(create)
        except ResponseError as error:
            if _is_foreign_key(error):
                TALLY.add(keys.jobs(partition))
            elif "BUSYGROUP" not in str(error):
                raise


def _is_foreign_key(error: ResponseError) -> bool:
    """Tell whether a key holds another type: one partition cannot be used, and the others can."""
    return "WRONGTYPE" in str(error)


async def acquire(store: Store, consumer: str, partitions: Iterable[int], limit: int, rule: TakeOverRule) -> list[Job]:
    """Acquire the leases of at most `limit` jobs: released ones, those that `rule` allows to take over, and new ones.

    Safe to cancel: a job that was acquired by then is taken over one lease later. Raises RedisError, OSError.
    """
    names = list(partitions)
    started_at = asyncio.get_running_loop().time()
    # Not XAUTOCLAIM: it examines ten times COUNT jobs and stops, so leased jobs would hide a lost one.
    candidates = await _send(
        store,
        *(("XPENDING", keys.jobs(each), keys.GROUP, "IDLE", rule.candidate_idle_ms, "-", "+", limit) for each in names),
    )
    round_trip_s = asyncio.get_running_loop().time() - started_at
    remaining = limit
    claims: list[tuple[Argument, ...]] = []
    for partition, pending in zip(names, candidates, strict=False):
        connected_s = store.connected_for_s(keys.jobs(partition))
        min_idle_ms = rule.min_idle_ms(round_trip_s=round_trip_s, connected_s=connected_s)
        ids = [job for job, _, idle_ms, _ in pending if idle_ms >= min_idle_ms][:remaining]
        remaining -= len(ids)
        if ids:
            claims.append(("XCLAIM", keys.jobs(partition), keys.GROUP, consumer, min_idle_ms, *ids))
    found: list[Job] = []
    for claim, entries in zip(claims, await _send(store, *claims), strict=False):
        # An entry that was deleted is None, or has no fields.
        found += await _jobs(store, str(claim[1]), [entry for entry in entries if entry and entry[1]])
    for partition in names:
        if len(found) >= limit:
            break
        count = limit - len(found)
        read = ("XREADGROUP", "GROUP", keys.GROUP, consumer, "COUNT", count, "STREAMS", keys.jobs(partition), ">")
        for streams in await _send(store, read):
            # A mapping in RESP3, pairs in RESP2.
            for _, entries in streams.items() if isinstance(streams, dict) else streams or ():
                found += await _jobs(store, keys.jobs(partition), entries)
    return found


async def _send(store: Store, *commands: tuple[Argument, ...]) -> list[Any]:
    """Return the reply to each command; an empty one for a key of another type, and for all if a group is missing."""
    # Without retries: a job whose reply was lost is taken over one lease later.
    replies = await asyncio.gather(
        *(store.send_command(str(key_of(words)), *words) for words in commands), return_exceptions=True
    )
    for position, reply in enumerate(replies):
        if isinstance(reply, ResponseError) and _is_foreign_key(reply):
            TALLY.add(str(key_of(commands[position])))
            replies[position] = ()
        elif isinstance(reply, ResponseError) and "NOGROUP" in str(reply):
            await prepare(store)
            return []
        elif isinstance(reply, BaseException):
            raise reply
    return replies


async def _jobs(store: Store, stream: str, entries: Iterable[Sequence[Any]]) -> list[Job]:
    """Return the jobs in entries of a job stream; delete the entries that are none.

    Left there, each worker would acquire them again after each lease. A response whose job is deleted here gets a new
    one: see `requeue_lost`.
    """
    found: list[Job] = []
    for entry, fields in entries:
        job = _job(entry, fields)
        if job is not None and keys.jobs(_partition(job)) == stream:
            found.append(job)
            continue
        TALLY.add(stream)
        await store.send_command(stream, "XACK", stream, keys.GROUP, entry)
        await store.send_command(stream, "XDEL", stream, entry)
    return found


def _job(entry: bytes, fields: Sequence[bytes]) -> Job | None:
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    response = values.get(b"response", b"").decode(errors="replace")
    conversation = values.get(b"conversation", b"").decode(errors="replace")
    if not keys.is_response_of(response, conversation):
        return None
    return Job(entry.decode(), response, conversation)


async def renew(store: Store, job: Job, consumer: str, instructions_id: str | None = None) -> Renewal:
    """Renew a lease; any result but `held` means that this worker must stop. Safe to cancel.

    `instructions_id`: the instructions that the response needs, which are kept as long. Raises StoreUnavailableError
    after `RENEW_TIMEOUT_S`.
    """
    reply = await store.call(
        "renew",
        [
            keys.jobs(_partition(job)),
            keys.log(job.response),
            keys.history(job.conversation),
            keys.response_queue(job.conversation),
            *([keys.instructions(job.conversation, instructions_id)] if instructions_id else ()),
        ],
        keys.GROUP,
        consumer,
        job.id,
        milliseconds(store.lifetimes.log),
        milliseconds(store.lifetimes.conversation),
        milliseconds(store.lifetimes.instructions),
        timeout_s=RENEW_TIMEOUT_S,
    )
    match reply:
        case b"held":
            return "held"
        case b"ended":
            return "ended"
        case b"expired":
            return "expired"
        case _:
            return "lost"


async def release(store: Store, job: Job, consumer: str) -> None:
    """Release a lease early, so that another worker acquires the job immediately. Safe to cancel.

    Raises StoreUnavailableError after `RENEW_TIMEOUT_S`.
    """
    partition = _partition(job)
    await store.call(
        "release",
        [keys.jobs(partition)],
        keys.GROUP,
        consumer,
        job.id,
        RELEASED_MS,
        keys.control(partition),
        timeout_s=RENEW_TIMEOUT_S,
    )


async def requeue_lost(
    store: Store, partition: int, interval_s: float, min_idle_s: float = float("inf")
) -> list[tuple[str, str]]:
    """Create new jobs for open responses of a partition that lost theirs; return (conversation, response) of those
    without a log, which the caller ends. Remove consumers that hold no job and did nothing for `min_idle_s` seconds.

    At most one worker per partition does this in `interval_s` seconds. Safe to cancel; raises StoreError, RedisError,
    OSError.
    """
    client = store.client
    if not await client.set(keys.requeue_lock(partition), "1", nx=True, px=milliseconds(interval_s)):
        return []
    if min_idle_s < float("inf"):
        await _remove_consumers(store, partition, min_idle_s)
    open_responses: dict[Any, Any] = await client.hgetall(keys.open_responses(partition))
    without_log: list[tuple[str, str]] = []
    for name, value in open_responses.items():
        response = name.decode(errors="replace")
        conversation = _conversation_in(value)
        if not keys.is_response_of(response, conversation):
            TALLY.add(keys.open_responses(partition))
            continue
        try:
            if not await client.exists(keys.log(response)):
                without_log.append((conversation, response))
                continue
            await store.call(
                "requeue",
                [keys.open_responses(partition), keys.jobs(partition), keys.response_queue(conversation)],
                response,
                conversation,
                keys.control(partition),
            )
        except ResponseError:
            # A key of this conversation has another type; the other responses are examined.
            TALLY.add(response)
    return without_log


def _conversation_in(value: bytes) -> str:
    """Return the conversation in a value of the hash of open responses."""
    return value.decode(errors="replace").partition(" ")[0]


async def conversation_of(store: Store, response: str) -> str | None:
    """Return the conversation of an open response, None for any other. Safe to cancel; raises StoreUnavailableError."""
    value: bytes | None = await store.retry(
        lambda: store.client.hget(keys.open_responses(keys.partition_of_response(response)), response)
    )
    conversation = _conversation_in(value) if value else ""
    return conversation if keys.is_response_of(response, conversation) else None


async def remove_consumer(store: Store, consumer: str) -> None:
    """Delete a worker from the consumer groups, except where it still holds a job. Safe to cancel.

    Raises StoreError, RedisError, OSError.
    """
    for partition in range(keys.PARTITIONS):
        await _remove_consumers(store, partition, 0.0, consumer)


async def _remove_consumers(store: Store, partition: int, min_idle_s: float, consumer: str = "") -> None:
    await store.call("consumers", [keys.jobs(partition)], keys.GROUP, milliseconds(min_idle_s), consumer)


def _partition(job: Job) -> int:
    return keys.partition_of(job.conversation)
