"""Which rooms without viewers to evict from memory: expired ones, and the oldest ones if memory is short.

A core module: it reads no clock. Times are seconds of any steady clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

KEEP_IDLE_S: Final = 30.0
"""Time that a room without viewers stays in memory, for clients that reconnect."""


MIN_IDLE_S: Final = 1.0
"""A room that has been idle for a shorter time is kept if memory is short: a client may subscribe in a moment."""


class IdleRooms:
    """The rooms without viewers, and since when."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: limit of the memory that all rooms hold together."""
        self._max_bytes = max_bytes
        self._idle_since: dict[str, float] = {}

    def remove(self, name: str) -> bool:
        """Remove a room that gets a viewer; return whether it was idle, so that nothing reconciled it."""
        return self._idle_since.pop(name, None) is not None

    def evict(self, sizes: Mapping[str, int], held: int, now: float) -> list[str]:
        """Remove and return the rooms to evict.

        `sizes`: the bytes of each room that is idle now. `held`: the bytes of all rooms, watched ones too.
        """
        self._idle_since = {name: self._idle_since.get(name, now) for name in sizes}
        evicted: list[str] = []
        for name, since in sorted(self._idle_since.items(), key=lambda item: item[1]):
            if now - since > KEEP_IDLE_S or (held > self._max_bytes and now - since >= MIN_IDLE_S):
                held -= sizes[name]
                del self._idle_since[name]
                evicted.append(name)
        return evicted
