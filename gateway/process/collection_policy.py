"""When to collect reference cycles and return memory to the system: after growth, and while memory is above its least.

A collection of everything stops every stream: about 200 ms with 5,000 sockets. So growth, which is mostly new clients,
is answered by a collection of young objects, and the next collection of everything comes later, the longer the last one
took and if it freed nothing.

A core module: it reads no clock. Times are seconds of any steady clock, sizes are bytes of resident memory.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

GROWTH_SHARE: Final = 0.1
GROWTH_BYTES: Final = 32 << 20
"""Growth since the last collection, both together, after which young objects are collected."""

EXCESS_SHARE: Final = 0.02
"""Memory above the least seen, at which a collection is due after the pause. One that frees less is not productive."""

MIN_PAUSE_S: Final = 60.0
MAX_PAUSE_S: Final = 240.0
"""Pause between collections of everything. It doubles with each one that freed nothing. Longer, and what a long attack
left would stay for as long."""

PAUSE_PER_SECOND: Final = 1000.0
"""Pause for each second that the last collection took: at most a thousandth of the time is spent."""


class Due(Enum):
    """What to collect."""

    NOTHING = "nothing"
    YOUNG = "young"
    EVERYTHING = "everything"


class CollectionPolicy:
    """The memory after the last collection, the least memory seen, and when everything may be collected next."""

    def __init__(self, resident: int, now: float) -> None:
        """`resident`: bytes that the process has now."""
        self._base = self._least = resident
        self._pause_s = MIN_PAUSE_S
        self._next_at = now + MIN_PAUSE_S

    def due(self, resident: int, now: float) -> Due:
        """Return what must be collected now."""
        self._base = min(self._base, resident)
        self._least = min(self._least, resident)
        if now >= self._next_at and resident > self._least * (1 + EXCESS_SHARE):
            return Due.EVERYTHING
        if resident > self._base * (1 + GROWTH_SHARE) + GROWTH_BYTES:
            return Due.YOUNG
        return Due.NOTHING

    def collected_young(self, after: int) -> None:
        """Count growth from here on: what is left is in use, or old enough for the next collection of everything."""
        self._base = after

    def collected_everything(self, before: int, after: int, took_s: float, now: float) -> None:
        """Count from here on: what is left is in use. `took_s`: seconds for which the streams stopped."""
        productive = before - after > EXCESS_SHARE * before
        self._pause_s = MIN_PAUSE_S if productive else min(2 * self._pause_s, MAX_PAUSE_S)
        self._base = after
        self._least = min(self._least, after)
        self._next_at = now + max(self._pause_s, PAUSE_PER_SECOND * took_s)
