"""Loads logs from the store into the hub: whole logs, or the entries after the tail of a replica."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from gateway import metrics
from gateway.history_replica import MAX_MESSAGES, MAX_SNAPSHOT_BYTES, HistoryReplica
from gateway.replica import Outcome
from gateway.response_replica import ResponseReplica
from gateway.room import HISTORY
from gateway.streams import history_log, keys, log_entries, response_log
from gateway.streams.log_entries import Queued
from gateway.streams.log_fields import error_fields
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.feed.health import StoreHealth
    from gateway.hub import Hub
    from gateway.room import Log, Room
    from gateway.streams.log_entries import HistoryId, LogId
    from gateway.streams.store.store import Store
    from gateway.wire import Message

logger = logging.getLogger(__name__)

MAX_READS: Final = 4
"""Concurrent reads per partition. The limit is per partition because a cluster node that hangs blocks its reads."""


MAX_COUNT: Final = 200
"""Entries of one read of a history. A read of a whole one at once would hold all of its messages in memory."""

PIECE_BYTES: Final = 1_048_576
"""Bytes of one read of a history, and the first and the last of its entries."""

LOG_COUNT: Final = 1_000
"""Entries of one read of a response log. They are small, and their bytes are bounded with those of the answer."""

MAX_ENTRIES_OF_PAGE: Final = 4 * MAX_MESSAGES
"""Entries that are searched for the messages of a page. About half of a history's entries are messages."""


class MemoryFullError(Exception):
    """The logs of watched conversations take all the memory that this gateway may use."""


class LogUnreadableError(StoreError):
    """A history cannot be applied: only its conversation is affected."""


class Loader:
    """Reads the logs that rooms need. Each log is read once, however many clients wait for it."""

    def __init__(
        self, store: Store, hub: Hub, health: StoreHealth, schedule_flush: Callable[[], None], max_bytes: float
    ) -> None:
        """`max_bytes`: limit of the memory that all rooms hold; see `load`."""
        self._store = store
        self._hub = hub
        self._health = health
        self._schedule_flush = schedule_flush
        self._max_bytes = max_bytes
        self._locks: dict[str, asyncio.Lock] = {}
        self._reads = tuple(asyncio.Semaphore(MAX_READS) for _ in range(keys.PARTITIONS))
        self._background: dict[Room, asyncio.Task[bool]] = {}
        """One task a room at most: the loads of a room follow each other, and each reads all that it needs."""

    async def load(self, room: Room) -> None:
        """Read all logs that a room needs. Safe to cancel: what was not read stays in `room.to_load`.

        A log that cannot be applied does not keep the others from being read. Raises StoreUnavailableError,
        LogUnreadableError for a history, and MemoryFullError beyond the limit, where a client names an ended response.
        """
        async with self._locks.setdefault(room.name, asyncio.Lock()):
            history_unreadable = False
            while room.to_load:
                # Removed before the read: a log that is requested again during the read is read again.
                log = room.next_log()
                if log is not HISTORY and self._hub.held >= self._max_bytes and not room.needs(log):
                    # `next_log` returns these last. Whoever still needs one requests it again.
                    room.to_load.clear()
                    raise MemoryFullError
                try:
                    async with self._reads[keys.partition_of(room.name)]:
                        before = room.size
                        await self._read(room, log)
                        self._hub.held += max(0, room.size - before)
                    room.unreadable.discard(log)
                except Exception as error:
                    if not _concerns_one_log(error):
                        room.to_load.add(log)
                        raise
                    history_unreadable |= log is HISTORY
                    if self._hub.discard_unreadable(room, log):
                        self._report(room, log, error)
                except BaseException:
                    room.to_load.add(log)
                    raise
        if self._hub.dirty:
            self._schedule_flush()
        if history_unreadable:
            raise LogUnreadableError("the history of a conversation has content that this release cannot read")

    def load_soon(self, room: Room) -> None:
        """Load a room in a background task, unless a client is already loading it for the first time."""
        if room.to_load and room.loaded and room not in self._background:
            task = self._background[room] = asyncio.create_task(self._try_to_load(room))
            task.add_done_callback(partial(self._loaded, room))

    def _loaded(self, room: Room, task: asyncio.Task[bool]) -> None:
        del self._background[room]
        if not task.cancelled() and task.result():
            # Logs that were requested after the last look at `to_load`.
            self.load_soon(room)

    def is_loading(self, room: Room) -> bool:
        """Tell whether a read for this room is running or about to."""
        lock = self._locks.get(room.name)
        return room in self._background or (lock is not None and lock.locked())

    def forget(self, room: Room) -> None:
        """Free the lock of a room that is evicted."""
        self._locks.pop(room.name, None)

    async def page(self, name: str, before: HistoryId) -> tuple[list[Message], HistoryId | None]:
        """Return the messages of a history before an entry, as `HistoryReplica.newest` does. Safe to cancel.

        They are read from the store, in pieces: a page holds about MAX_SNAPSHOT_BYTES. Raises StoreUnavailableError.
        """
        entries: list[tuple[HistoryId, bytes]] = []
        size, complete = 0, False
        pieces = history_log.read_backwards(self._store, name, MAX_SNAPSHOT_BYTES // 2, before=before)
        async with self._reads[keys.partition_of(name)], aclosing(pieces):
            async for piece in pieces:
                entries[:0] = piece
                if complete:
                    # One piece more than the page needs: an answer's opening is a few entries before it.
                    break
                size += _bytes(piece)
                complete = size > MAX_SNAPSHOT_BYTES or len(entries) > MAX_ENTRIES_OF_PAGE
        history = HistoryReplica(name)
        history.repair(None, entries)
        return history.newest()

    async def _read(self, room: Room, log: Log) -> None:
        if isinstance(log, str):
            await self._read_response(room, log)
            return
        cursor = self._hub.history_cursor(room)
        if cursor is None:
            metrics.READS.labels("conversation").inc()
            history = await self._whole_history(room.name)
            if history is None:
                room.to_load.add(HISTORY)
            else:
                self._hub.replace_history(room, history)
            return
        while True:
            piece, complete = await self._piece(room.name, cursor)
            self._hub.load_history(room, cursor, piece)
            if complete or room.stale:
                return
            cursor = piece[-1][0]

    async def _whole_history(self, name: str) -> HistoryReplica | None:
        """Return a replica of a history, read in pieces; None if a failover changed it meanwhile."""
        history, cursor = HistoryReplica(name), None
        while True:
            piece, complete = await self._piece(name, cursor)
            if history.repair(cursor, piece) is Outcome.CONFLICT:
                return None
            if complete:
                return history
            cursor = piece[-1][0]

    async def _piece(self, name: str, cursor: HistoryId | None) -> tuple[Sequence[tuple[HistoryId, bytes]], bool]:
        return await history_log.read_piece(self._store, name, cursor, PIECE_BYTES, count=MAX_COUNT)

    async def _read_response(self, room: Room, response: str) -> None:
        cursor = self._hub.response_cursor(room, response)
        if cursor is None:
            metrics.READS.labels("response").inc()
            replica = await self._whole_response(room, response)
            if replica is None:
                room.to_load.add(response)
            else:
                self._hub.put_response(room, replica)
            return
        while True:
            piece = await response_log.read(self._store, response, cursor, count=LOG_COUNT)
            self._hub.load_response(room, response, cursor, piece)
            known = room.responses.get(response)
            if len(piece) < LOG_COUNT or known is None or known.tail == cursor:
                return
            cursor = known.tail

    async def _whole_response(self, room: Room, response: str) -> ResponseReplica | None:
        """Return a replica of a log, read in pieces: empty without a log, None if a failover changed it meanwhile.

        The room gets all pieces together: to a replica with a part of them, a viewer that has more would seem to have
        lost it. Only the first entry is read of a log that a client names, and that is another conversation's.
        """
        replica = ResponseReplica(response)
        if not room.needs(response):
            first = await response_log.read(self._store, response, count=1)
            request = log_entries.decode_response_entry(first[0][1], response) if first else None
            if not isinstance(request, Queued) or request.conversation != room.name:
                return replica
        last: LogId | None = None
        while True:
            piece = await response_log.read(self._store, response, last, count=LOG_COUNT)
            if last is not None and (not piece or piece[0][0] != last):
                return None
            replica.extend(replica.tail, piece[1:] if last is not None else piece)
            if len(piece) < LOG_COUNT or replica.tail is None or replica.end is not None:
                return replica
            last = piece[-1][0]

    async def _try_to_load(self, room: Room) -> bool:
        """Load a room; return whether that succeeded."""
        try:
            await self.load(room)
        except LogUnreadableError:
            # Reported when it was found.
            pass
        except Exception as error:
            # The next reconciliation tries again. During an outage that would be an event for each room and try.
            if not self._health.is_unavailable(keys.partition_of(room.name)):
                logger.warning("log_read_failed", extra={"conversation": room.name, "error": type(error).__name__})
        else:
            return True
        return False

    def _report(self, room: Room, log: Log, error: Exception) -> None:
        response = log if isinstance(log, str) else None
        logger.error("log_apply_failed", extra={"conversation": room.name, "response": response, **error_fields(error)})


def _bytes(entries: Sequence[tuple[Any, bytes]]) -> int:
    return sum(len(value) for _, value in entries)


def _concerns_one_log(error: Exception) -> bool:
    """Tell whether other logs can be read: the error is in the content of this one, or its key is no stream."""
    if isinstance(error, RedisError):
        return "WRONGTYPE" in str(error)
    return not isinstance(error, (StoreError, OSError))
