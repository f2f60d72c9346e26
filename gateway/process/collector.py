"""Runs the garbage collector in processes with many sockets, and returns freed memory to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.process.collection_policy import Due

if TYPE_CHECKING:
    from gateway.process.collection_policy import CollectionPolicy

CHECK_INTERVAL_S: Final = 5
"""Interval at which the resident memory is compared."""

_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell (not Linux)."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def collect_if_due(policy: CollectionPolicy) -> None:
    """Collect what the policy says of the objects that were created since `settle_collector`."""
    before, begun = resident_bytes(), time.monotonic()
    match policy.due(before, begun):
        case Due.YOUNG:
            gc.collect(0)
            policy.collected_young(resident_bytes())
        case Due.EVERYTHING:
            gc.collect()
            _trim()
            ended = time.monotonic()
            policy.collected_everything(before, resident_bytes(), ended - begun, ended)


def _trim() -> None:
    """Return free memory to the system: the allocator of glibc keeps what lies between used blocks."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def settle_collector() -> None:
    """Exclude the objects that exist now from collection, and collect rarely.

    A collection over the objects of ten thousand sockets stops every stream for tens of milliseconds and frees nothing,
    because a closed connection leaves no reference cycle. `collect_if_due` bounds what another cause may leave.
    """
    gc.collect()
    gc.freeze()
    if (3, 14, 0) <= sys.version_info < (3, 14, 5):
        # These versions collect in increments, whose size the other thresholds set (3.14.5 returned to generations).
        gc.set_threshold(50_000)
    else:
        gc.set_threshold(50_000, 50, 100)
