"""Jobs: which worker answers which response, for as long as it keeps its lease."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from redis.exceptions import ResponseError

from gateway.streams import keys
from gateway.streams.store.store import Store, milliseconds
from gateway.streams.store.topology import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.streams.store.pipeline import Argument

SLOW: Final = 0.2
"""Seconds of a round trip in which no worker, however short its lease, is taken for silent."""

_LONGER_THAN_EVERY_LEASE: Final = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Job:
    """One response that a worker is to answer; `id` is its entry in the partition's job stream."""

    id: str
    response: str
    conversation: str

    @property
    def queued_at(self) -> float:
        """When it was queued, in seconds since 1970 by the store's clock."""
        return int(self.id.partition("-")[0]) / 1000


Renewal = Literal["held", "ended", "expired", "lost"]


async def prepare(store: Store) -> None:
    """Make sure that every partition has its consumer group."""
    for partition in range(keys.PARTITIONS):
        create = partial(store.client.xgroup_create, keys.jobs(partition), keys.GROUP, id="0", mkstream=True)
        try:
            await store.retry(create)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


async def acquire(
    store: Store, consumer: str, partitions: Iterable[int], room: int, lease: float | None, connected_for_s: float = 0.0
) -> list[Job]:
    """Take at most `room` jobs: those that were given up, new ones, and those whose worker was silent for `lease`
    seconds, if that is given and the server has been known for so many seconds.
    """
    names = list(partitions)
    idle = _LONGER_THAN_EVERY_LEASE if lease is None else milliseconds(lease)
    begun = asyncio.get_running_loop().time()
    # Not XAUTOCLAIM: it looks at ten times COUNT jobs and no further, so jobs in good hands would hide a lost one.
    looked = await _ask(
        store, *(("XPENDING", keys.jobs(each), keys.GROUP, "IDLE", idle, "-", "+", room) for each in names)
    )
    # Where the store was away just now, those who hold jobs had no chance to say that they live.
    away = lease is not None and asyncio.get_running_loop().time() - begun > max(lease / 3, SLOW)
    left = room
    claims: list[tuple[Argument, ...]] = []
    for partition, silent in zip(names, looked, strict=False):
        # Nor had they at a server that has just become the primary, which may have lost what they had said.
        judges = not away and store.connected_for_s(keys.jobs(partition)) >= connected_for_s
        least = idle if judges else _LONGER_THAN_EVERY_LEASE
        ids = [job for job, _, silent_for, _ in silent if silent_for >= least][:left]
        left -= len(ids)
        if ids:
            claims.append(("XCLAIM", keys.jobs(partition), keys.GROUP, consumer, least, *ids))
    # An entry that was deleted is None there, or has no fields.
    found = [_job(*entry) for entries in await _ask(store, *claims) for entry in entries if entry and entry[1]]
    for partition in names:
        if len(found) >= room:
            break
        count = room - len(found)
        read = ("XREADGROUP", "GROUP", keys.GROUP, consumer, "COUNT", count, "STREAMS", keys.jobs(partition), ">")
        for streams in await _ask(store, read):
            # By name in RESP3, in pairs in RESP2.
            for _, entries in streams.items() if isinstance(streams, dict) else streams or ():
                found += [_job(*entry) for entry in entries]
    return found


async def _ask(store: Store, *commands: tuple[Argument, ...]) -> list[Any]:
    # Not repeated: a job that was taken by a call whose reply was lost is taken over after a lease.
    try:
        return await asyncio.gather(*(store.send_command(str(key_of(words)), *words) for words in commands))
    except ResponseError as error:
        if "NOGROUP" not in str(error):
            raise
        await prepare(store)
        return []


def _job(entry: bytes, fields: Sequence[bytes]) -> Job:
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return Job(entry.decode(), values[b"response"].decode(), values[b"conversation"].decode())


async def renew(store: Store, job: Job, consumer: str) -> Renewal:
    """Keep a job for another lease; anything but `held` means that this worker is to stop."""
    reply = await store.call(
        "renew",
        [
            keys.jobs(_partition(job)),
            keys.log(job.response),
            keys.conversation(job.conversation),
            keys.response_queue(job.conversation),
        ],
        keys.GROUP,
        consumer,
        job.id,
        milliseconds(store.lifetimes.log),
        milliseconds(store.lifetimes.conversation),
        timeout_s=2.0,
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
    """Give a job up unfinished, so that another worker takes it over at once."""
    partition = _partition(job)
    await store.call(
        "release",
        [keys.jobs(partition)],
        keys.GROUP,
        consumer,
        job.id,
        _LONGER_THAN_EVERY_LEASE,
        keys.control(partition),
        timeout_s=2.0,
    )


async def requeue_lost(store: Store, partition: int, interval: float) -> list[tuple[str, str]]:
    """Find the open responses of a partition that have lost their job or their log; return those without a log,
    each as conversation and response.

    At most one worker does so in `interval` seconds. Lost jobs are queued again here.
    """
    client = store.client
    if not await client.set(keys.requeue_lock(partition), "1", nx=True, px=milliseconds(interval)):
        return []
    open_responses: dict[Any, Any] = await client.hgetall(keys.open_responses(partition))
    without_log: list[tuple[str, str]] = []
    for name, value in open_responses.items():
        response = name.decode()
        conversation = value.decode().partition(" ")[0]
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
    return without_log


async def conversation_of(store: Store, response: str) -> str | None:
    """The conversation of an open response; None where it is not open."""
    value: bytes | None = await store.retry(
        lambda: store.client.hget(keys.open_responses(keys.partition_of_response(response)), response)
    )
    return value.decode().partition(" ")[0] if value else None


async def remove_consumer(store: Store, consumer: str) -> None:
    """Take a worker that holds no job any more off the books."""
    for partition in range(keys.PARTITIONS):
        held = await store.client.xpending_range(keys.jobs(partition), keys.GROUP, "-", "+", 1, consumer)
        if not held:
            await store.client.xgroup_delconsumer(keys.jobs(partition), keys.GROUP, consumer)


def _partition(job: Job) -> int:
    return keys.partition_of(job.conversation)
