"""Deadlines: what a gateway does for answers that no worker gives.

Every gateway looks once a second, so it needs no worker and no other gateway. It ends answers that are overdue, gives
new jobs to those that lost theirs, and shows viewers that the worker of an answer is silent.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from gateway import metrics
from gateway.streams import deadlines, keys
from gateway.streams.liveness import StoreObserver
from gateway.streams.log_fields import error_fields
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from gateway.hub import Hub
    from gateway.streams.store.store import Store

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S: Final = 1.0
LOOKS_PER_LEASE: Final = 5
SILENT_SHARE: Final = 2 / 3
"""Of a lease: a worker renews three times a lease, so two renewals are missing, and a take-over is near."""


class Deadlines:
    """The looks of one gateway."""

    def __init__(
        self, store: Store, hub: Hub, *, queue_s: float, lease_s: float, queues_s: Mapping[str, float] = deadlines.NONE
    ) -> None:
        """`queue_s`: how long a response may be without a worker; `queues_s`: of model aliases with an own timeout.
        `lease_s`: the lease of the workers.
        """
        self._store = store
        self._hub = hub
        self._queue_s = queue_s
        self._queues_s = queues_s
        self._lease_s = lease_s
        self._observer = StoreObserver(lease_s)
        self._silent: dict[int, set[tuple[str, str]]] = {}
        self._outage = False
        self._failed_at = float("-inf")

    async def run(self) -> None:
        """Look until cancelled. Safe to cancel."""
        loop = asyncio.get_running_loop()
        requeued_at = loop.time()
        while True:
            await asyncio.sleep(min(LOOK_INTERVAL_S, self._lease_s / LOOKS_PER_LEASE))
            looks = [self._handled(partition, self._look(partition)) for partition in range(keys.PARTITIONS)]
            failed = [error for error in await asyncio.gather(*looks) if error is not None]
            if loop.time() - requeued_at >= deadlines.REQUEUE_INTERVAL_S:
                requeued_at = loop.time()
                # One partition after another: at the same time each would open a connection to the store.
                for partition in range(keys.PARTITIONS):
                    work = deadlines.requeue(self._store, partition, self._lease_s)
                    failed += filter(None, [await self._handled(partition, work)])
            if failed and not self._outage:
                logger.warning("deadlines_not_checked", extra={"error": type(failed[0]).__name__})
            self._outage = bool(failed)

    async def _look(self, partition: int) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        found = await deadlines.look(
            self._store, partition, self._queue_s, SILENT_SHARE * self._lease_s, self._queues_s
        )
        self._observer.answered(started_at, loop.time())
        # While the store was slow, live workers could not renew either.
        reliable = self._observer.rule(loop.time()).lease_s is not None
        self._show(partition, set(found.silent) if reliable else set())
        # After an outage workers get a lease to renew and to take what waits: nothing could before.
        overdue = found.ended if started_at - self._failed_at > self._lease_s else ()
        for conversation, response in await deadlines.end(self._store, overdue):
            metrics.OVERDUE.inc()
            logger.warning("response_overdue", extra={"conversation": conversation, "response": response})

    async def _handled(self, partition: int, work: Awaitable[None]) -> Exception | None:
        """Await the work on a partition; return the error of an unavailable store."""
        try:
            await work
        except (StoreError, RedisError, OSError) as error:
            self._failed_at = asyncio.get_running_loop().time()
            self._observer.failed(self._failed_at)
            return error
        except Exception as error:
            # Clients of the gateway do not depend on this: a bug must not end the process.
            logger.error("deadlines_failed", extra={"partition": partition, **error_fields(error)})
        return None

    def _show(self, partition: int, silent: set[tuple[str, str]]) -> None:
        before = self._silent.get(partition, set())
        if silent or before:
            self._silent[partition] = silent
            self._hub.notify_silent_workers(before | silent, silent)
