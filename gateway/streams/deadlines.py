"""Deadlines of answers that no worker gives: found in the store, and ended by any process.

All coroutines are safe to cancel: an end is one script, and the first one wins. They raise StoreError, RedisError.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.streams import jobs, keys, presence, response_log
from gateway.streams.liveness import RELEASED_MS
from gateway.streams.log_entries import End, Problem
from gateway.streams.response_log import Ended
from gateway.streams.store.store import Store, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_OVERDUE: Final = 100
"""Jobs that one look at a partition returns; the others are found by the next one."""

REQUEUE_INTERVAL_S: Final = 10.0
"""Seconds between two searches of a partition for lost jobs, by whichever process."""

CONSUMER_LEASES: Final = 10
"""Leases after which a consumer without a job is removed. A worker that was only slow creates it again."""

TIMEOUT_S: Final = 3.0
NONE: Final[Mapping[str, float]] = MappingProxyType({})
NO_WORKER: Final = End(
    "failed", error=Problem("no_worker", "The answer could not be given in time. Try again."), retryable=True
)
EXPIRED: Final = End("failed", error=Problem("expired", "The message waited too long to be answered."), retryable=True)


@dataclass(frozen=True, slots=True)
class Overdue:
    """Open responses as (conversation, response): past the deadline, and those whose worker missed renewals."""

    ended: Sequence[tuple[str, str]]
    silent: Sequence[tuple[str, str]]


async def look(
    store: Store, partition: int, deadline_s: float, silent_s: float, deadlines_s: Mapping[str, float] = NONE
) -> Overdue:
    """Return the jobs of a partition that no worker has taken or renewed for these times.

    `deadlines_s`: instead of `deadline_s`, of some model aliases. A job waits since it was queued or released. At most
    `MAX_OVERDUE` of each kind. Safe to cancel.
    """
    reply: Any = await store.call(
        "overdue",
        [keys.jobs(partition)],
        keys.GROUP,
        keys.WAITING,
        RELEASED_MS,
        milliseconds(deadline_s),
        milliseconds(silent_s),
        MAX_OVERDUE,
        keys.log_prefix(partition),
        *(
            argument
            for model, seconds in deadlines_s.items()
            for argument in (msgspec.json.encode(model)[1:-1], milliseconds(seconds))
        ),
        timeout_s=TIMEOUT_S,
    )
    overdue, silent = ([found for fields in part if (found := _names(fields))] for part in reply)
    return Overdue(overdue, silent)


def _names(fields: Sequence[bytes]) -> tuple[str, str] | None:
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    response, conversation = (values.get(each, b"").decode(errors="replace") for each in (b"response", b"conversation"))
    return (conversation, response) if keys.is_response_of(response, conversation) else None


async def end(store: Store, overdue: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """End overdue responses as `no_worker`; return those that this call ended.

    Without any worker, those that wait behind them in their conversations end too: their time would only begin now.
    Safe to cancel: some are ended then.
    """
    found = list(overdue)
    if not found:
        return []
    if (await presence.counts(store))["worker"] == 0:
        conversations = sorted({conversation for conversation, _ in found})
        queues: list[Any] = await asyncio.gather(
            *(store.send_command(name, "LRANGE", name, 0, -1) for name in map(keys.response_queue, conversations))
        )
        behind = [
            (conversation, name.decode(errors="replace"))
            for conversation, queue in zip(conversations, queues, strict=True)
            for name in queue
        ]
        # The last ones first: a response that becomes the head would get a job for a moment.
        found = [
            pair for pair in reversed(behind) if pair not in found and keys.is_response_of(*reversed(pair))
        ] + found
    ended = []
    for conversation, response in found:
        result = await response_log.end(store, conversation, response, NO_WORKER, timeout_s=TIMEOUT_S)
        if isinstance(result, Ended) and result.now:
            ended.append((conversation, response))
    return ended


async def requeue(store: Store, partition: int, lease_s: float) -> None:
    """Give the open responses of a partition that lost their jobs new ones; end those whose logs expired.

    At most one process does this for a partition in `REQUEUE_INTERVAL_S`. Safe to cancel.
    """
    found = await jobs.requeue_lost(store, partition, REQUEUE_INTERVAL_S, CONSUMER_LEASES * lease_s)
    for conversation, response in found:
        await response_log.end(store, conversation, response, EXPIRED)
