"""Reconciliation: the anti-entropy check of replicas against the store's logs, once a second and partition.

Publishing is a hint that may be lost; reconciliation finds what was missed. It also detects outages of the store.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import TYPE_CHECKING, Final

from gateway import metrics
from gateway.feed.health import UNAVAILABLE_AFTER_S, Outage, Recovery
from gateway.streams import keys
from gateway.streams.log_fields import error_fields
from gateway.streams.log_throttle import LogThrottle
from gateway.streams.reconciliation import differing_logs
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.feed.health import StoreHealth, SubscriptionHealth
    from gateway.hub import Hub
    from gateway.room import Log, Room
    from gateway.streams.store.store import Store

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
"""Interval of the reconciliation: a lost publish is repaired within about this time."""

IDLE_INTERVALS: Final = 15
"""Intervals between two reconciliations of a conversation without an open response."""


class Reconciler:
    """Compares the replicas of watched rooms with the store, by partition."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        store_health: StoreHealth,
        subscription_health: SubscriptionHealth,
        load_soon: Callable[[Room], None],
    ) -> None:
        """`load_soon` reads the logs that a room needs."""
        self._store = store
        self._hub = hub
        self._store_health = store_health
        self._subscription_health = subscription_health
        self._throttle = LogThrottle()
        self._load_soon = load_soon
        self._rooms: tuple[dict[str, Room], ...] = tuple({} for _ in range(keys.PARTITIONS))

    def add(self, room: Room) -> None:
        """Reconcile a room from now on."""
        self._rooms[keys.partition_of(room.name)][room.name] = room

    def remove(self, room: Room) -> None:
        """Reconcile a room no longer."""
        self._rooms[keys.partition_of(room.name)].pop(room.name, None)

    async def run_partition(self, partition: int) -> None:
        """Reconcile one partition until cancelled. Safe to cancel.

        Partitions run independently, so a cluster node that does not reply does not delay the others. Each has its own
        moment of the interval, so a flush never waits for the reconciliation of all rooms.
        """
        moment = INTERVAL_S * partition / keys.PARTITIONS
        for number in count():
            await asyncio.sleep(INTERVAL_S - (asyncio.get_running_loop().time() - moment) % INTERVAL_S)
            try:
                await self._reconcile(partition, number)
            except StoreError as error:
                if not self._store_health.is_unavailable(partition):
                    logger.warning(
                        "reconciliation_failed", extra={"partition": partition, "error": type(error).__name__}
                    )
            except Exception as error:
                # A fault of one room must not end the process; the next interval compares the others again.
                logger.error("room_reconciliation_failed", extra={"partition": partition, **error_fields(error)})

    async def _reconcile(self, partition: int, number: int) -> None:
        compared: list[tuple[Room, Log]] = []
        lasts: list[tuple[str, str]] = []
        for index, room in enumerate(self._rooms[partition].values()):
            room.drop_ended_logs()
            if not room.loaded or not room.watched:
                continue
            self._load_soon(room)
            for log in self._hub.logs_to_reconcile(room, idle=(index + number) % IDLE_INTERVALS == 0):
                compared.append((room, log))
                if isinstance(log, str):
                    lasts.append((keys.log(log), str(self._hub.response_cursor(room, log) or "")))
                else:
                    lasts.append((keys.history(room.name), str(self._hub.history_cursor(room) or "")))
        for position in await self._differing(partition, lasts):
            room, log = compared[position]
            room.to_load.add(log)
            self._subscription_health.differing += 1
            metrics.REPAIRS.inc()
            response = log if isinstance(log, str) else None
            suppressed = self._throttle.admit("replica_repaired", asyncio.get_running_loop().time())
            if suppressed is not None:
                extra = {"conversation": room.name, "response": response, "suppressed": suppressed}
                logger.info("replica_repaired", extra=extra)
            self._load_soon(room)

    async def _differing(self, partition: int, lasts: Sequence[tuple[str, str]]) -> list[int]:
        """Return `differing_logs(lasts)`. Notify viewers of an outage if that takes too long."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        request = asyncio.create_task(differing_logs(self._store, lasts))
        try:
            # Twice: if this event loop was blocked, the reply may have arrived already.
            for timeout in (UNAVAILABLE_AFTER_S, UNAVAILABLE_AFTER_S / 10):
                await asyncio.wait((request,), timeout=timeout)
            if not request.done():
                self._notify(partition, self._store_health.delayed(partition, loop.time()))
            differing = await request
        finally:
            request.cancel()
        # A partition without logs to compare counts as available: all of them received entries.
        now = loop.time()
        self._notify(partition, self._store_health.completed(partition, now - begin, now))
        self._subscription_health.compared += len(lasts)
        return differing

    def _notify(self, partition: int, change: Outage | Recovery | None) -> None:
        match change:
            case None:
                return
            case Outage():
                logger.warning("store_unavailable", extra={"partition": partition})
            case Recovery(after_s=after):
                logger.info("store_recovered", extra={"partition": partition, "after_s": round(after, 1)})
        try:
            self._hub.notify_store_status(self._rooms[partition].values(), unavailable=isinstance(change, Outage))
        except Exception as error:
            logger.error("store_status_failed", extra={"partition": partition, **error_fields(error)})
