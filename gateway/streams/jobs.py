"""Jobs and leases: which worker generates which response.

All coroutines are safe to cancel: each script and command takes effect completely or not at all, and a lease that is
acquired by a cancelled call expires.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from redis.exceptions import ResponseError

from gateway.streams import keys
from gateway.streams.liveness import RELEASED_MS
from gateway.streams.log_entries import parse_log_id
from gateway.streams.queued_jobs import Candidate, Job
from gateway.streams.store.store import Store, milliseconds
from gateway.streams.unreadable import TALLY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from gateway.streams.liveness import TakeOverRule
    from gateway.streams.log_entries import LogId

RENEW_TIMEOUT_S: Final = 2.0
ACQUIRE_TIMEOUT_S: Final = 2.0
"""A later reply says little about leases; the caller tries again."""


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


@dataclass(frozen=True, slots=True)
class Acquired:
    """Jobs that a worker holds now. `now`: seconds since 1970 by the store's clock; 0 if nothing was acquired."""

    jobs: list[Job]
    now: float


async def candidates(
    store: Store, partitions: Iterable[int], limit: int, rule: TakeOverRule, models: Collection[str] | None = None
) -> list[Candidate]:
    """Return jobs that may be taken: released and new ones of `models` (None: of all), and those `rule` allows.

    `limit`: of each partition and model, the oldest ones. Jobs without a readable request are of every model. Safe to
    cancel; raises StoreError, RedisError.
    """
    names = list(partitions)
    started_at = asyncio.get_running_loop().time()
    encoded = [msgspec.json.encode(model)[1:-1] for model in models or ()]
    replies: list[Any] = await asyncio.gather(
        *(
            store.call(
                "candidates",
                [keys.jobs(each)],
                keys.GROUP,
                rule.candidate_idle_ms,
                limit,
                keys.WAITING,
                keys.log_prefix(each),
                *encoded,
                timeout_s=ACQUIRE_TIMEOUT_S,
            )
            for each in names
        ),
        return_exceptions=True,
    )
    round_trip_s = asyncio.get_running_loop().time() - started_at
    found: list[Candidate] = []
    for partition, reply in zip(names, replies, strict=True):
        if await _is_unusable(store, keys.jobs(partition), reply):
            continue
        connected_s = store.connected_for_s(keys.jobs(partition))
        min_idle_ms = rule.min_idle_ms(round_trip_s=round_trip_s, connected_s=connected_s)
        for entry, owner, idle_ms, fields, subject in reply:
            job = _job(entry, fields)
            if job is None or _partition(job) != partition:
                await _delete(store, keys.jobs(partition), entry)
            elif not owner or idle_ms >= min_idle_ms:
                begun = bool(owner) or idle_ms >= RELEASED_MS
                found.append(Candidate(job, subject.decode(), min_idle_ms if owner else None, begun))
    return found


async def take(store: Store, consumer: str, chosen: Sequence[Candidate]) -> Acquired:
    """Acquire the leases of candidates, except of those that another worker has taken since.

    Safe to cancel: a job that was acquired by then is taken over one lease later. Raises StoreError, RedisError.
    """
    partitions: dict[int, dict[bytes, Candidate]] = {}
    for candidate in chosen:
        partitions.setdefault(_partition(candidate.job), {})[candidate.job.id.encode()] = candidate
    replies: list[Any] = await asyncio.gather(
        *(
            store.call(
                "take",
                [keys.jobs(partition)],
                keys.GROUP,
                consumer,
                keys.WAITING,
                *(
                    word
                    for name, candidate in named.items()
                    for word in (name, "" if candidate.min_idle_ms is None else candidate.min_idle_ms)
                ),
                timeout_s=ACQUIRE_TIMEOUT_S,
            )
            for partition, named in partitions.items()
        ),
        return_exceptions=True,
    )
    found: list[Job] = []
    now = 0.0
    for (partition, named), reply in zip(partitions.items(), replies, strict=True):
        if not await _is_unusable(store, keys.jobs(partition), reply):
            found += [named[each].job for each in reply[1:]]
            now = int(reply[0]) / 1000
    return Acquired(found, now)


async def acquire(
    store: Store,
    consumer: str,
    partitions: Iterable[int],
    limit: int,
    rule: TakeOverRule,
    models: Collection[str] | None = None,
) -> list[Job]:
    """Acquire the leases of at most `limit` jobs, the oldest ones; see `candidates` and `take`, which it joins.

    Safe to cancel: a job that was acquired by then is taken over one lease later. Raises StoreError, RedisError.
    """
    found = await candidates(store, partitions, limit, rule, models)
    found.sort(key=lambda candidate: (not candidate.begun, candidate.job.queued_at))
    return (await take(store, consumer, found[:limit])).jobs if found else []


async def _is_unusable(store: Store, stream: str, reply: Any) -> bool:
    """Tell whether a job stream is of another type or has no group, which is created; raise any other exception."""
    if not isinstance(reply, BaseException):
        return False
    if isinstance(reply, ResponseError) and _is_foreign_key(reply):
        TALLY.add(stream)
    elif isinstance(reply, ResponseError) and "NOGROUP" in str(reply):
        await prepare(store)
    else:
        raise reply
    return True


async def _delete(store: Store, stream: str, entry: bytes) -> None:
    """Delete an entry of a job stream that is no job: each worker would find it again.

    A response whose job is deleted here gets a new one: see `requeue_lost`.
    """
    TALLY.add(stream)
    await store.send_command(stream, "XACK", stream, keys.GROUP, entry)
    await store.send_command(stream, "XDEL", stream, entry)


def _job(entry: bytes, fields: Sequence[bytes]) -> Job | None:
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    response = values.get(b"response", b"").decode(errors="replace")
    conversation = values.get(b"conversation", b"").decode(errors="replace")
    if not keys.is_response_of(response, conversation):
        return None
    return Job(entry.decode(), response, conversation)


async def renew(store: Store, job: Job, consumer: str, instructions_id: str | None = None) -> Renewal:
    """Renew a lease; any result but `held` means that this worker must stop. Safe to cancel."""
    result, _ = await renew_and_compare(store, job, consumer, instructions_id)
    return result


async def renew_and_compare(
    store: Store, job: Job, consumer: str, instructions_id: str | None = None
) -> tuple[Renewal, LogId | None]:
    """Renew a lease; return the result, and the last id of the log if it is `held`. Safe to cancel.

    `instructions_id`: the instructions that the response needs, which are kept as long. Raises StoreUnavailableError
    after `RENEW_TIMEOUT_S`.
    """
    reply: bytes = await store.call(
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
    result, _, last = reply.partition(b" ")
    match result:
        case b"held":
            return "held", parse_log_id(last)
        case b"ended":
            return "ended", None
        case b"expired":
            return "expired", None
        case _:
            return "lost", None


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
        keys.WAITING,
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


async def leave(store: Store, consumer: str) -> int:
    """Release every job of a worker and delete it from the consumer groups; return the number of released jobs.

    A job whose reply was lost is among them. Safe to cancel. Raises StoreError, RedisError.
    """
    replies = await asyncio.gather(
        *(
            store.call(
                "leave",
                [keys.jobs(partition)],
                keys.GROUP,
                consumer,
                RELEASED_MS,
                keys.control(partition),
                keys.WAITING,
                timeout_s=RENEW_TIMEOUT_S,
            )
            for partition in range(keys.PARTITIONS)
        )
    )
    return sum(map(int, replies))


async def _remove_consumers(store: Store, partition: int, min_idle_s: float) -> None:
    await store.call("consumers", [keys.jobs(partition)], keys.GROUP, milliseconds(min_idle_s))


def _partition(job: Job) -> int:
    return keys.partition_of(job.conversation)
