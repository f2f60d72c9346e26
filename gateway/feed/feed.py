"""The facade of the feed: opens rooms, flushes the hub, and runs the listener and the reconciler."""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway import metrics
from gateway.feed.eviction import IdleRooms
from gateway.feed.health import StoreHealth, SubscriptionHealth
from gateway.feed.latency import Latency
from gateway.feed.listener import Listener
from gateway.feed.loader import Loader, MemoryFullError
from gateway.feed.reconciler import Reconciler
from gateway.hub import Tally
from gateway.room import HISTORY
from gateway.streams import keys, log_entries
from gateway.streams.log_fields import error_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.frame_codec import Frame
    from gateway.hub import Hub
    from gateway.room import Position, Room, Viewer
    from gateway.streams.log_entries import HistoryId
    from gateway.streams.store.store import Store
    from gateway.watches import Watches
    from gateway.wire import Message

logger = logging.getLogger(__name__)

MONITOR_INTERVAL_S: Final = 1.0
"""Interval of the subscription check, the metrics and the eviction."""


REPORT_INTERVAL_S: Final = 60.0
"""Interval of the event `memory_full` while clients are refused."""

WATCHES_COUNT: Final = 0.5
"""Share of the memory from which on watches are measured each second: before, no subject can hurt another."""

MEMORY_RETRY_S: Final = 10.0
"""Time after which a client that was refused for want of memory should retry."""


class Feed:
    """Keeps the replicas of the hub current."""

    def __init__(self, store: Store, hub: Hub, max_bytes: int, watches: Watches | None = None) -> None:
        """`max_bytes`: limit of the memory that all rooms hold; one more log may exceed it.

        `watches`: whose watches end when they alone hold too much.
        """
        self._hub = hub
        self._subscription_health = SubscriptionHealth()
        self._store_health = StoreHealth()
        self._max_bytes = max_bytes
        self._watches = watches
        self._idle = IdleRooms(max_bytes)
        self._reported_at = -math.inf
        """When `memory_full` was logged last."""
        self._latency = Latency()
        self._loader = Loader(store, hub, self._store_health, self.schedule_flush, max_bytes)
        self._listener = Listener(store, hub, self._subscription_health, self._received, self._loader.load_soon)
        self._reconciler = Reconciler(store, hub, self._store_health, self._subscription_health, self._loader.load_soon)
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._flush_scheduled = False
        self.received_per_s = self.delivered_per_s = 0.0
        """Entries per second in the last interval."""
        self._counted_at = 0.0

    async def run(self) -> None:
        """Receive and reconcile until cancelled. Safe to cancel."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listener.run())
            group.create_task(self._monitor())
            for partition in range(keys.PARTITIONS):
                group.create_task(self._reconciler.run_partition(partition))

    async def open(self, name: str, named: Mapping[str, str], after: str | None = None) -> Room:
        """Return the room of a conversation, with its logs loaded at least up to these cursors; see `Room.begin`.

        Concurrent calls share one read of each log. Safe to cancel: the read continues for other callers. Raises
        StoreError, and MemoryFullError instead of loading logs beyond the limit.
        """
        if name not in self._hub.rooms:
            self._require_memory()
        room = self._hub.open(name)
        if not room.loaded:
            opening = self._opening.get(name)
            if opening is None:
                opening = self._opening[name] = asyncio.create_task(self._open(room))
                opening.add_done_callback(partial(self._opened, name))
            await asyncio.shield(opening)
        missing = room.missing_logs(named, after)
        if missing - {HISTORY}:
            self._require_memory()
        if self._idle.remove(name):
            # An idle room is not reconciled, and a failover does not always close the subscription.
            missing |= {HISTORY, *room.history.open_responses()}
        if missing:
            room.to_load |= missing
            await self._loader.load(room)
        return room

    def _require_memory(self) -> None:
        """Make room for a log, by evicting idle rooms; raise MemoryFullError if watched ones alone hold too much."""
        if self._hub.held < self._max_bytes:
            return
        self._evict()
        if self._hub.held < self._max_bytes:
            return
        metrics.MEMORY_REFUSALS.inc()
        now = asyncio.get_running_loop().time()
        if now - self._reported_at > REPORT_INTERVAL_S:
            self._reported_at = now
            logger.warning("memory_full", extra={"bytes": self._hub.held})
        raise MemoryFullError

    async def page(self, name: str, before: HistoryId) -> tuple[list[Message], HistoryId | None]:
        """Return the messages of a conversation before an entry; see `Loader.page`. Safe to cancel.

        Raises StoreUnavailableError.
        """
        return await self._loader.page(name, before)

    async def _open(self, room: Room) -> None:
        self._reconciler.add(room)
        # Subscribe first, then read: an entry that is published in between arrives twice, and the overlap filter
        # ignores the second one.
        await self._listener.subscribe(room)
        room.to_load.add(HISTORY)
        await self._loader.load(room)
        room.loaded = True

    def _opened(self, name: str, task: asyncio.Task[None]) -> None:
        del self._opening[name]
        if not task.cancelled():
            # The callers raise the exception too, but all of them may have been cancelled.
            task.exception()

    def begin(self, room: Room, after: str | None, named: Mapping[str, str]) -> tuple[list[Frame], Position]:
        """Return `Room.begin` and count the watch."""
        frames, position = room.begin(after, named)
        if after is None:
            metrics.WATCHES.labels("new").inc()
            return frames, position
        cursor = log_entries.parse_history_id(after)
        if cursor is None or position.history != cursor:
            problem = "unknown" if cursor is None else "lost" if room.history.lost(cursor) else "behind"
            metrics.WATCHES.labels(problem).inc()
            return frames, position
        metrics.WATCHES.labels("resumed").inc()
        missed = room.history.tail.seq - cursor.seq
        for response, at in position.responses:
            replica = room.responses.get(response)
            if at is not None and response in named and replica is not None and replica.tail is not None:
                missed += replica.tail.seq - max(at.seq, 0)
        metrics.REPLAYED.inc(max(missed, 0))
        return frames, position

    def cost(self, room: Room, frames: Sequence[Frame], position: Position) -> int:
        """Return the bytes that a watch brings: of its first frames, and of what follows them now."""
        return sum(len(frame.body) for frame in frames) + room.backlog(position)

    def response_submitted(self, response: str, submitted_at: float) -> None:
        """Start to measure the time to first token; see `Latency.response_submitted`."""
        self._latency.response_submitted(response, submitted_at)

    def pause(self, viewer: Viewer) -> None:
        """Stop writing to a viewer (backpressure); see `Hub.pause`."""
        self._hub.pause(viewer)

    def resume(self, viewer: Viewer) -> None:
        """Continue writing to a viewer; see `Hub.resume`."""
        self._hub.resume(viewer)
        if self._hub.dirty:
            self.schedule_flush()

    def schedule_flush(self) -> None:
        """Flush the hub once at the end of this event loop iteration."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _received(self) -> None:
        if not self._flush_scheduled:
            self.schedule_flush()
        if not self._latency.received_at:
            self._latency.received_at = asyncio.get_running_loop().time()

    def _flush(self) -> None:
        self._flush_scheduled = False
        try:
            self._hub.flush()
        except Exception as error:
            # A failure of one room must not affect the others, which are still marked dirty.
            logger.error("flush_failed", extra=error_fields(error))
        if self._hub.dirty:
            # Rooms after one that failed, and viewers that got a piece of what they are missing.
            self.schedule_flush()
        if self._latency.received_at or self._hub.first_text_sent:
            self._latency.flushed(self._hub.first_text_sent, asyncio.get_running_loop().time())
        for room in self._hub.rooms_to_load:
            self._loader.load_soon(room)

    async def _monitor(self) -> None:
        while True:
            await asyncio.sleep(MONITOR_INTERVAL_S)
            try:
                metrics.MESSAGES.inc(self._subscription_health.messages)
                starved = self._subscription_health.end_interval()
                self._update_metrics()
                if starved:
                    await self._listener.replace_subscription()
                self._evict()
            except Exception as error:
                # A fault of one room or of the subscription must not end the process.
                logger.error("monitor_failed", extra=error_fields(error))

    def _update_metrics(self) -> None:
        rooms = self._hub.rooms.values()
        metrics.ROOMS.set(len(rooms))
        metrics.HELD.set(self._hub.held)
        metrics.VIEWERS.set(sum(room.viewers for room in rooms))
        metrics.LAGGING_VIEWERS.set(sum(len(room.lagging) for room in rooms))
        metrics.OPEN_LOGS.set(sum(replica.end is None for room in rooms for replica in room.responses.values()))
        tally, self._hub.tally = self._hub.tally, Tally()
        now = asyncio.get_running_loop().time()
        self.received_per_s = round(tally.received / (now - self._counted_at), 1)
        self.delivered_per_s = round(tally.delivered / (now - self._counted_at), 1)
        self._counted_at = now
        metrics.RECEIVED.inc(tally.received)
        metrics.DELIVERED.inc(tally.delivered)
        metrics.FRAMES.inc(tally.frames)
        metrics.GAPS.inc(tally.gaps)

    def _evict(self) -> None:
        self._hub.measure()
        sizes = {room.name: room.size for room in self._hub.rooms.values() if self._is_idle(room)}
        for name in self._idle.evict(sizes, self._hub.held, asyncio.get_running_loop().time()):
            room = self._hub.rooms[name]
            self._hub.held -= sizes[name]
            self._hub.close(room)
            self._reconciler.remove(room)
            self._loader.forget(room)
            self._listener.unsubscribe(room)
        if self._watches is not None and self._hub.held > WATCHES_COUNT * self._max_bytes:
            self._end_excess(self._watches)

    def _end_excess(self, watches: Watches) -> None:
        """End watches of the subjects that hold more than their share, if memory is short."""
        watches.measure(lambda name: self._hub.rooms[name].size)
        if self._hub.held >= self._max_bytes:
            for watcher, conversation in watches.excess():
                metrics.WATCHES_ENDED.inc()
                watcher.end_watch(conversation)

    def _is_idle(self, room: Room) -> bool:
        """Tell whether a room has no viewers, and no client that is about to subscribe."""
        return not room.watched and room.name not in self._opening and not self._loader.is_loading(room)
