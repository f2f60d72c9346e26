"""When to collect reference cycles and return memory to the system: after growth, and while memory is above its least.

A collection stops every stream for some milliseconds, so one that frees nothing makes the next one rarer.

A core module: it reads no clock. Times are seconds of any steady clock, sizes are bytes of resident memory.
"""

from __future__ import annotations

from typing import Final

GROWTH_SHARE: Final = 0.1
GROWTH_BYTES: Final = 32 << 20
"""Growth since the last collection, both together, after which everything is collected at once."""

EXCESS_SHARE: Final = 0.02
"""Memory above the least seen, at which a collection is due after the pause. Less than this is no productive one."""

MIN_PAUSE_S: Final = 60.0
MAX_PAUSE_S: Final = 3600.0
"""Pause between collections without growth. It doubles with each one that freed nothing."""


class CollectionPolicy:
    """The memory after the last collection, the least memory seen, and when the next collection may be due."""

    def __init__(self, resident: int, now: float) -> None:
        """`resident`: bytes that the process has now."""
        self._base = self._least = resident
        self._pause_s = MIN_PAUSE_S
        self._next_at = now + MIN_PAUSE_S

    def due(self, resident: int, now: float) -> bool:
        """Tell whether everything must be collected now."""
        self._base = min(self._base, resident)
        self._least = min(self._least, resident)
        if resident > self._base * (1 + GROWTH_SHARE) + GROWTH_BYTES:
            # What has grown may become garbage soon.
            self._pause_s = MIN_PAUSE_S
            return True
        return now >= self._next_at and resident > self._least * (1 + EXCESS_SHARE)

    def collected(self, before: int, after: int, now: float) -> None:
        """Count from here on: what is left is in use."""
        productive = before - after > EXCESS_SHARE * before
        self._pause_s = MIN_PAUSE_S if productive else min(2 * self._pause_s, MAX_PAUSE_S)
        self._base = after
        self._least = min(self._least, after)
        self._next_at = now + self._pause_s
