"""The circuit breakers of all targets of a worker, shared with other workers through the store."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from gateway.streams import keys
from gateway.streams.store.errors import StoreError
from workers import metrics
from workers.breaker import Breaker

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from gateway.streams.store.store import Store
    from workers.providers import ProviderError, Served

logger = logging.getLogger(__name__)

POLL_INTERVAL_S: Final = 1.0
"""Seconds between two looks at what other workers found."""


class Breakers:
    """One breaker for each target; aliases that lead to the same target share it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._breakers: dict[str, Breaker] = {}
        self._sharing: set[asyncio.Task[None]] = set()

    def of(self, target: Served) -> Breaker:
        """Return the breaker of a target."""
        breaker = self._breakers.get(target.label)
        if breaker is None:
            breaker = self._breakers[target.label] = Breaker(random.random)
        return breaker

    def blocked_s(self, targets: Sequence[Served], now: float) -> list[float]:
        """Return for each target the seconds until it may be called."""
        return [self.of(target).blocked_s(now) for target in targets]

    def succeeded(self, target: Served) -> None:
        """Close the breaker of a target, here and for other workers."""
        if self.of(target).succeeded():
            logger.info("target_recovered", extra={"target": target.label})
            self._share(self._forget(target.label))

    def failed(self, target: Served, error: ProviderError, user: str, now: float) -> None:
        """Count the failure of a call; share it if it opens the breaker."""
        pause_s = self.of(target).failed(error, user, now)
        if pause_s:
            metrics.BREAKER_OPENINGS.labels(target.name, target.model).inc()
            fields = {"target": target.label, "code": error.code, "pause_s": round(pause_s, 1)}
            logger.warning("target_paused", extra=fields)
            self._share(self._publish(target.label, pause_s))

    async def watch(self) -> None:
        """Open the breakers that other workers opened. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            for label, breaker in list(self._breakers.items()):
                try:
                    if await self._store.client.exists(keys.breaker(label)):
                        breaker.opened_elsewhere(loop.time() + 1.5 * POLL_INTERVAL_S)
                except (StoreError, RedisError, OSError):
                    # Without the store each worker still has its own breakers.
                    break

    def _share(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._sharing.add(task)
        task.add_done_callback(self._sharing.discard)

    async def _publish(self, label: str, pause_s: float) -> None:
        try:
            await self._store.client.set(keys.breaker(label), "1", px=max(1, round(pause_s * 1000)))
        except (StoreError, RedisError, OSError):
            return

    async def _forget(self, label: str) -> None:
        try:
            await self._store.client.delete(keys.breaker(label))
        except (StoreError, RedisError, OSError):
            return
