"""CPU and memory of processes, from the operating system, and the current speed of this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .processes import pinned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SPIN: Final = 0.05
"""Seconds that the canary loop runs on each CPU."""


def cpu(processes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the CPU seconds (user and system) that the processes of each role have used since their start.

    Read from the CPU-time clock of the process, which counts nanoseconds of all threads (clock_getcpuclockid(3)). The
    kernel derives the id of this clock from the process id as done here.
    """
    return {role: sum(time.clock_gettime(~pid << 3 | 2) for pid in pids) for role, pids in processes.items()}


def memory(pids: Iterable[int]) -> int:
    """Return the memory of processes in bytes; shared pages are divided by their users (Pss in smaps_rollup)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def cpu_wait(pids: Iterable[int]) -> float:
    """Return the seconds for which processes were ready to run and had no CPU (second number of schedstat)."""
    return sum(
        int(task.read_text().split()[1]) / 1e9 for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def canary(cpus: frozenset[int]) -> float:
    """Return the speed of the slowest of `cpus` in million iterations of an empty loop per second.

    It drops when other processes, stolen time or a lower clock slow this machine down.
    """
    slowest = float("inf")
    for cpu_number in cpus:
        with pinned(frozenset((cpu_number,))):
            iterations = 0
            started = time.perf_counter()
            while (spent := time.perf_counter() - started) < SPIN:
                for _ in range(1000):
                    pass
                iterations += 1000
        slowest = min(slowest, iterations / spent / 1e6)
    return slowest
