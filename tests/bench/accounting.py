"""What processes cost, from the operating system; and whether this machine is steady enough to say so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .processes import pinned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SPIN: Final = 0.05
"""Seconds that a canary spins on each CPU."""


def cpu(processes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Seconds of CPU, user and system, that each role's processes have used since they began.

    Read from the CPU-time clock of the process, which counts nanoseconds and every thread (clock_getcpuclockid(3); the
    kernel builds the clock's id from the process's as here).
    """
    return {role: sum(time.clock_gettime(~pid << 3 | 2) for pid in pids) for role, pids in processes.items()}


def memory(pids: Iterable[int]) -> int:
    """Bytes of memory of processes, shared pages divided by their users (Pss of smaps_rollup, proc(5))."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def waited(pids: Iterable[int]) -> float:
    """Seconds for which processes were ready to run and had no CPU (the second number of schedstat)."""
    return sum(
        int(task.read_text().split()[1]) / 1e9 for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def canary(cpus: frozenset[int]) -> float:
    """How many million turns of an empty loop a second each of `cpus` does, the slowest of them.

    It says how fast this machine is at this moment: others' work, stolen time and lowered clocks make it fall.
    """
    slowest = float("inf")
    for each in cpus:
        with pinned(frozenset((each,))):
            turns = 0
            begun = time.perf_counter()
            while (spent := time.perf_counter() - begun) < SPIN:
                for _ in range(1000):
                    pass
                turns += 1000
        slowest = min(slowest, turns / spent / 1e6)
    return slowest
