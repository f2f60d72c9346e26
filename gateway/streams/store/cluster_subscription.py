"""A subscription to a cluster: one connection to each node that owns the slot of a subscribed channel."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from gateway.streams.store.topology import ChannelPlacement, Endpoint

if TYPE_CHECKING:
    from gateway.streams.store.subscription import OnAcknowledged, OnMessage, OnRevoked, Subscription

logger = logging.getLogger(__name__)

RESUBSCRIBE_PAUSE_S: Final = 0.2
"""Seconds between two connections to one node: a node that rejects connections must not cause a busy loop."""


class Nodes(Protocol):
    """The part of `cluster.Cluster` that a subscription needs."""

    def owner(self, slot: int) -> Endpoint | None:
        """See `Cluster.owner`."""

    def schedule_refresh(self) -> asyncio.Task[None]:
        """See `Cluster.schedule_refresh`."""

    async def subscribe_at(
        self, endpoint: Endpoint, on_message: OnMessage, on_acknowledged: OnAcknowledged, on_revoked: OnRevoked
    ) -> Subscription:
        """See `Cluster.subscribe_at`."""


class ClusterSubscription:
    """See `subscription.Subscription`; its connections are replaced until it is closed."""

    def __init__(self, nodes: Nodes, on_message: OnMessage, on_acknowledged: OnAcknowledged) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._nodes = nodes
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._placement = ChannelPlacement()
        self._subscriptions: dict[Endpoint, Subscription] = {}
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._opened_at: dict[Endpoint, float] = {}

    def subscribe(self, *channels: bytes) -> None:
        """See `Subscription.subscribe`."""
        self._placement.add(channels)
        self.settle()

    def unsubscribe(self, channel: bytes) -> None:
        """See `Subscription.unsubscribe`."""
        endpoint = self._placement.remove(channel)
        if endpoint is not None and endpoint in self._subscriptions:
            self._subscriptions[endpoint].unsubscribe(channel)

    def settle(self) -> None:
        """Subscribe to each pending channel at the owner of its slot; call it when the slot map has changed."""
        if self.closed.done():
            return
        for endpoint, groups in self._placement.pending(self._nodes.owner).items():
            subscription = self._subscriptions.get(endpoint)
            if subscription is not None:
                for channels in groups:
                    subscription.subscribe(*channels)
                    self._placement.mark_subscribed(endpoint, channels)
            elif endpoint not in self._tasks:
                self._tasks[endpoint] = asyncio.create_task(self._keep_subscribed(endpoint))

    async def _keep_subscribed(self, endpoint: Endpoint) -> None:
        """Hold a connection to a node until it is lost."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._opened_at.get(endpoint, 0.0) + RESUBSCRIBE_PAUSE_S - loop.time())
        self._opened_at[endpoint] = loop.time()
        try:
            subscription = await self._nodes.subscribe_at(
                endpoint, self._on_message, self._on_acknowledged, partial(self._revoked, endpoint)
            )
            try:
                self._subscriptions[endpoint] = subscription
                self.settle()
                await subscription.closed
            finally:
                del self._subscriptions[endpoint]
                await subscription.close()
        except Exception as error:
            # Any: `settle` starts another task, and the channels of this node would be lost.
            logger.warning("cluster_subscription_failed", extra={"node": str(endpoint), "error": type(error).__name__})
        finally:
            del self._tasks[endpoint]
            self._placement.invalidate(endpoint)
        self._nodes.schedule_refresh()

    def _revoked(self, endpoint: Endpoint, channel: bytes) -> None:
        # The slot has moved to another node.
        self._placement.invalidate(endpoint, channel)
        self._nodes.schedule_refresh()

    async def close(self) -> None:
        """See `Subscription.close`."""
        if not self.closed.done():
            self.closed.set_result(None)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
