"""Free memory of the store: whether it has so little left that only ends and stops may still be written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.streams.store.store import Store

MAX_SHARE: Final = 0.95
"""Of the memory that the store may use. The rest is for the ends and texts of the answers that are open."""

POLL_INTERVAL_S: Final = 2.0
"""Seconds for which a reply of the store is used; a request does not wait for a newer one."""

SCARCE_INTERVAL_S: Final = 0.1
"""The same while memory is scarce: a message that would be refused waits for a newer reply."""

POLL_TIMEOUT_S: Final = 1.0


class FreeMemory:
    """The free memory of one store, as this process last saw it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._polled_at = float("-inf")
        self._share = 0.0
        self._poll: asyncio.Task[None] | None = None

    async def is_scarce(self) -> bool:
        """Tell whether new messages are to be refused. Safe to cancel; errors of the store count as enough memory."""
        waits = self._polled_at < 0 or self._share > MAX_SHARE
        interval_s = SCARCE_INTERVAL_S if waits else POLL_INTERVAL_S
        if self._poll is None and asyncio.get_running_loop().time() - self._polled_at >= interval_s:
            self._poll = asyncio.create_task(self._refresh())
        if waits and self._poll is not None:
            await asyncio.shield(self._poll)
        return self._share > MAX_SHARE

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(POLL_TIMEOUT_S):
                self._share = await self._store.memory_share()
        except Exception:
            # Any, and without an event: a user without INFO, or an emulated store. A full store itself refuses.
            self._share = 0.0
        finally:
            self._polled_at = asyncio.get_running_loop().time()
            self._poll = None
