"""Subscribes to the channels of watched conversations and applies what is published to the hub."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from gateway import metrics
from gateway.room import HISTORY
from gateway.streams import keys, log_entries
from gateway.streams.log_fields import error_fields
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.feed.health import SubscriptionHealth
    from gateway.hub import Hub
    from gateway.room import Room
    from gateway.streams.store.store import Store
    from gateway.streams.store.subscription import Subscription

logger = logging.getLogger(__name__)

ACKNOWLEDGE_WITHIN_S: Final = 5.0
"""Time in which the store has to acknowledge a subscription."""

MIN_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 0.25
"""Pause between two attempts to subscribe. Entries published during it are shown this much later."""

PLACEHOLDER: Final = b"tw:gateways"
"""A channel without messages, so that the subscription always has one."""


class Listener:
    """The one subscription of this process, which is replaced when it ends."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        health: SubscriptionHealth,
        received: Callable[[], None],
        load_soon: Callable[[Room], None],
    ) -> None:
        """`received` is called after each message; `load_soon` reads the logs that a room needs."""
        self._store = store
        self._hub = hub
        self._health = health
        self._received = received
        self._load_soon = load_soon
        self._subscription: Subscription | None = None
        self._rooms: dict[bytes, Room] = {}
        self._acknowledged: dict[bytes, asyncio.Future[None]] = {}
        self._lost_at: float | None = None

    async def run(self) -> None:
        """Subscribe until cancelled. Safe to cancel."""
        pause = MIN_PAUSE_S
        while True:
            try:
                subscription = await self._store.subscribe(self._receive, self._acknowledge)
            except Exception as error:
                # Any: without a subscription this process could serve nobody, and the next attempt may succeed.
                self._report_loss(type(error).__name__)
            else:
                try:
                    self._subscription = subscription
                    subscription.subscribe(PLACEHOLDER, *self._rooms)
                    metrics.SUBSCRIPTIONS.inc()
                    self._report_recovery()
                    await subscription.closed
                    self._report_loss("connection closed")
                    pause = pause if self._health.starved else MIN_PAUSE_S
                except Exception as error:
                    # Such as uvloop's RuntimeError for a write to a connection that was lost in this moment.
                    self._report_loss(type(error).__name__)
                finally:
                    self._subscription = None
                    try:
                        await subscription.close()
                    except Exception as error:
                        # The connection is discarded in any case.
                        logger.debug("subscription_close_failed", extra={"error": type(error).__name__})
            self._health.reset()
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_S)

    def _report_loss(self, error: str) -> None:
        # Once per outage: attempts follow several times a second.
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()
            logger.warning("subscription_lost", extra={"error": error})

    def _report_recovery(self) -> None:
        if self._lost_at is not None:
            after = asyncio.get_running_loop().time() - self._lost_at
            self._lost_at = None
            logger.info("subscription_recovered", extra={"after_s": round(after, 1)})

    async def subscribe(self, room: Room) -> None:
        """Subscribe to a conversation's channel and wait for the acknowledgement.

        Safe to cancel: the channel stays subscribed until `unsubscribe`. Raises StoreError.
        """
        channel = keys.feed(room.name).encode()
        self._rooms[channel] = room
        future = self._acknowledged.get(channel)
        if future is None:
            future = self._acknowledged[channel] = asyncio.get_running_loop().create_future()
        if self._subscription is not None:
            self._subscription.subscribe(channel)
        try:
            async with asyncio.timeout(ACKNOWLEDGE_WITHIN_S):
                await asyncio.shield(future)
        except TimeoutError:
            raise StoreError("the store did not acknowledge a subscription") from None

    def unsubscribe(self, room: Room) -> None:
        """Unsubscribe from the channel of a conversation."""
        channel = keys.feed(room.name).encode()
        self._rooms.pop(channel, None)
        if (future := self._acknowledged.pop(channel, None)) is not None:
            future.cancel()
        if self._subscription is not None:
            self._subscription.unsubscribe(channel)

    async def replace_subscription(self) -> None:
        """Close the subscription; `run` opens another. Not safe to cancel: the connection may stay open."""
        if self._subscription is not None:
            await self._subscription.close()

    def _receive(self, channel: bytes, data: bytes) -> None:
        room = self._rooms.get(channel)
        if room is None:
            return
        self._health.messages += 1
        try:
            self._hub.apply(room, log_entries.parse_published(data))
        except Exception as error:
            logger.error("publish_apply_failed", extra={"conversation": room.name, **error_fields(error)})
            self._hub.invalidate(room)
        self._received()

    def _acknowledge(self, channel: bytes) -> None:
        future = self._acknowledged.pop(channel, None)
        if future is not None and not future.done():
            future.set_result(None)
        room = self._rooms.get(channel)
        if room is not None and room.loaded:
            # A repeated subscription: entries that were published in between are only in the logs.
            room.to_load.update({HISTORY, *room.responses})
            self._load_soon(room)
