"""What a gateway reports: its heartbeat record, and the gauges of the whole fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import metrics
from gateway.operations import fleet
from gateway.streams import presence, records

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.feed.feed import Feed
    from gateway.hub import Hub
    from gateway.streams.store.store import Store


class GatewayReport:
    """The heartbeat of one gateway process."""

    def __init__(
        self,
        *,
        store: Store,
        hub: Hub,
        feed: Feed,
        count_connections: Callable[[], int],
        is_shutting_down: Callable[[], bool],
    ) -> None:
        self._store = store
        self._hub = hub
        self._feed = feed
        self._count_connections = count_connections
        self._is_shutting_down = is_shutting_down
        self._process = presence.ProcessStats()

    async def run(self) -> None:
        """Send heartbeats and update the gauges of the fleet until cancelled. Safe to cancel."""
        await presence.heartbeat_loop(self._store, self._record, self._update_gauges)

    async def _update_gauges(self) -> None:
        queue = await presence.queue(self._store)
        for state, count in (("waiting", queue.waiting), ("running", queue.running), ("behind", queue.behind)):
            metrics.QUEUE.labels(state).set(count)
        metrics.QUEUE_LAG.set(queue.lag)
        for kind, count in (await presence.counts(self._store)).items():
            metrics.FLEET.labels(kind).set(count)

    def _record(self) -> records.Gateway:
        process = self._process
        process.sample()
        watched = fleet.watched(self._hub.rooms.values())
        return records.Gateway(
            name=process.name,
            age=process.age,
            cpu=process.cpu,
            memory=process.memory,
            connections=self._count_connections(),
            viewers=sum(room.viewers for room in self._hub.rooms.values()),
            behind=sum(len(room.lagging) for room in self._hub.rooms.values()),
            open_logs=len(watched),
            received=self._feed.received_per_s,
            delivered=self._feed.delivered_per_s,
            responses=watched,
            leaving=self._is_shutting_down(),
        )
