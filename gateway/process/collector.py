"""The garbage collector's policy for processes with many sockets."""

from __future__ import annotations

import gc
import sys


def settle_collector() -> None:
    """Exclude the objects that exist now from collection, and collect rarely.

    A collection over the objects of ten thousand sockets stops every stream for tens of milliseconds and frees nothing,
    because a closed socket leaves no reference cycle.
    """
    gc.collect()
    gc.freeze()
    if (3, 14, 0) <= sys.version_info < (3, 14, 5):
        # These versions collect in increments, whose size the other thresholds set (3.14.5 returned to generations).
        gc.set_threshold(50_000)
    else:
        gc.set_threshold(50_000, 50, 100)
