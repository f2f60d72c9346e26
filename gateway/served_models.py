"""Models that workers serve, for a gateway whose own settings do not name them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from gateway.streams import presence
from gateway.streams.records import Worker
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from gateway.streams.store.store import Store

SEEN_S: Final = 600.0
"""Seconds for which a model counts as served after it was seen: its workers may be restarting."""

GRACE_S: Final = 2.0
"""Seconds until a model is refused: a worker that starts sends its first record after one."""

MIN_INTERVAL_S: Final = 0.5
"""Seconds between two readings of the workers' records, whatever clients ask for."""


class ServedModels:
    """The models that live workers list in their records."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen_at: dict[str, float] = {}
        self._read_at = float("-inf")
        self._workers = 0
        self._lock = asyncio.Lock()

    async def serves(self, model: str) -> bool:
        """Return False if workers are alive and none has served the model lately. Safe to cancel.

        It takes `GRACE_S` to return False. Without a worker, or without the store, every model may be served.
        """
        if self._was_seen(model):
            return True
        deadline = _now() + GRACE_S
        while True:
            async with self._lock:
                if _now() - self._read_at >= MIN_INTERVAL_S:
                    await self._read()
            if not self._workers or self._was_seen(model):
                return True
            if _now() >= deadline:
                return False
            await asyncio.sleep(MIN_INTERVAL_S)

    def _was_seen(self, model: str) -> bool:
        return _now() - self._seen_at.get(model, float("-inf")) < SEEN_S

    async def _read(self) -> None:
        try:
            records = await presence.live_processes(self._store)
        except (StoreError, RedisError, OSError):
            records = []
        # After the reply: in an outage the submits that waited here must not wait one after the other.
        now = self._read_at = _now()
        workers = [record for record in records if isinstance(record, Worker)]
        self._workers = len(workers)
        for worker in workers:
            self._seen_at.update(dict.fromkeys(worker.models, now))
        for model in [each for each, at in self._seen_at.items() if now - at >= SEEN_S]:
            del self._seen_at[model]


def _now() -> float:
    return asyncio.get_running_loop().time()
