"""Loads logs from the store into the hub: whole logs, or the entries after the tail of a replica."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from gateway import metrics
from gateway.streams import history_log, keys, response_log
from gateway.streams.log_fields import error_fields
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.feed.health import StoreHealth
    from gateway.hub import Hub
    from gateway.room import Log, Room
    from gateway.streams.store.store import Store

logger = logging.getLogger(__name__)

MAX_READS: Final = 4
"""Concurrent reads per partition. The limit is per partition because a cluster node that hangs blocks its reads."""


class Loader:
    """Reads the logs that rooms need. Each log is read once, however many clients wait for it."""

    def __init__(self, store: Store, hub: Hub, health: StoreHealth, schedule_flush: Callable[[], None]) -> None:
        self._store = store
        self._hub = hub
        self._health = health
        self._schedule_flush = schedule_flush
        self._locks: dict[str, asyncio.Lock] = {}
        self._reads = tuple(asyncio.Semaphore(MAX_READS) for _ in range(keys.PARTITIONS))
        self._tasks: set[asyncio.Task[Any]] = set()

    async def load(self, room: Room) -> None:
        """Read all logs that a room needs. Safe to cancel: what was not read stays in `room.to_load`.

        Raises StoreUnavailableError.
        """
        async with self._locks.setdefault(room.name, asyncio.Lock()):
            while room.to_load:
                # Removed before the read: a log that is requested again during the read is read again.
                log = room.to_load.pop()
                try:
                    async with self._reads[keys.partition_of(room.name)]:
                        await self._read(room, log)
                except BaseException:
                    room.to_load.add(log)
                    raise
        if self._hub.dirty:
            self._schedule_flush()

    def load_soon(self, room: Room) -> None:
        """Load a room in a background task, unless a client is already loading it for the first time."""
        if room.to_load and room.loaded:
            task = asyncio.create_task(self._try_to_load(room))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def is_loading(self, room: Room) -> bool:
        """Tell whether a read for this room is running."""
        lock = self._locks.get(room.name)
        return lock is not None and lock.locked()

    def forget(self, room: Room) -> None:
        """Free the lock of a room that is evicted."""
        self._locks.pop(room.name, None)

    async def _read(self, room: Room, log: Log) -> None:
        if isinstance(log, str):
            response_cursor = self._hub.response_cursor(room, log)
            if response_cursor is None:
                metrics.READS.labels("response").inc()
            read = await response_log.read(self._store, log, response_cursor)
            self._hub.load_response(room, log, response_cursor, read)
        else:
            cursor = self._hub.history_cursor(room)
            if cursor is None:
                metrics.READS.labels("conversation").inc()
            self._hub.load_history(room, cursor, await history_log.read(self._store, room.name, cursor))

    async def _try_to_load(self, room: Room) -> None:
        fields: dict[str, Any] = {"conversation": room.name}
        try:
            await self.load(room)
        except StoreError as error:
            # The next reconciliation tries again. During an outage that would be an event for each room and try.
            if not self._health.is_unavailable(keys.partition_of(room.name)):
                logger.warning("log_read_failed", extra={**fields, "error": type(error).__name__})
        except Exception as error:
            logger.error("log_apply_failed", extra={**fields, **error_fields(error)})
