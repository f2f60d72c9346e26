"""The garbage collector's policy for processes with many sockets."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Final

GROWTH_SHARE: Final = 0.1
GROWTH_BYTES: Final = 32 << 20
"""Growth of the resident memory since the last collection, both together, after which everything is collected."""

CHECK_INTERVAL_S: Final = 5
"""Interval at which the resident memory is compared."""

_STATM: Final = Path("/proc/self/statm")


class GrowthLimit:
    """Decides by the process's memory when to collect, so that unforeseen reference cycles are bounded."""

    def __init__(self, resident: int) -> None:
        """`resident`: bytes that the process has now."""
        self._resident = resident

    def exceeded(self, resident: int) -> bool:
        """Tell whether the memory has grown so much since the last collection that another one is due."""
        self._resident = min(self._resident, resident)
        return resident > self._resident * (1 + GROWTH_SHARE) + GROWTH_BYTES

    def collected(self, resident: int) -> None:
        """Count from here on: what is left is in use."""
        self._resident = resident


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell (not Linux)."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def collect_if_grown(limit: GrowthLimit) -> None:
    """Collect everything that was created since `settle_collector`, if the memory has grown beyond the limit."""
    if limit.exceeded(resident_bytes()):
        gc.collect()
        limit.collected(resident_bytes())


def settle_collector() -> None:
    """Exclude the objects that exist now from collection, and collect rarely.

    A collection over the objects of ten thousand sockets stops every stream for tens of milliseconds and frees nothing,
    because a closed connection leaves no reference cycle. `collect_if_grown` bounds what another cause may leave.
    """
    gc.collect()
    gc.freeze()
    if (3, 14, 0) <= sys.version_info < (3, 14, 5):
        # These versions collect in increments, whose size the other thresholds set (3.14.5 returned to generations).
        gc.set_threshold(50_000)
    else:
        gc.set_threshold(50_000, 50, 100)
