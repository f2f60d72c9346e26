"""The tick that all answers of one worker share: between two ticks, provider output is coalesced and not read."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.batch import BatchingInterval

ADAPT_INTERVAL_S: Final = 0.1
"""Seconds between two adaptations of the batching interval."""

MAX_STEPS: Final = 40
"""This many adaptations narrow the widest interval to the narrowest."""

MAX_WAKEUPS: Final = 32
"""Tasks that are woken per event loop iteration: their appends are in flight while the next ones are woken."""


class SharedTick:
    """Wakes all tasks that wait for the next tick."""

    def __init__(self, interval: BatchingInterval, cpu_clock: Callable[[], float] = time.thread_time) -> None:
        """`cpu_clock`: returns the CPU seconds of this thread."""
        self._interval = interval
        self._cpu_clock = cpu_clock
        self._waiting: list[asyncio.Future[None]] = []
        self._due: list[asyncio.Future[None]] = []
        self._adapted_at = 0.0
        self._cpu_s = 0.0

    @property
    def number(self) -> int:
        """The number of the current tick."""
        return self._interval.tick_at(asyncio.get_running_loop().time())

    def next(self) -> asyncio.Future[None]:
        """Return a future that completes when the next tick starts. Safe to cancel."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._waiting:
            now = loop.time()
            self._interval.tick_at(now)
            loop.call_later(self._interval.ends_at - now, self._start)
        self._waiting.append(future)
        return future

    def _start(self) -> None:
        now = asyncio.get_running_loop().time()
        self._interval.start_tick(now)
        self._due += self._waiting
        self._waiting = []
        self._adapt(now)
        self._wake()

    def _wake(self) -> None:
        for future in self._due[:MAX_WAKEUPS]:
            if not future.done():
                future.set_result(None)
        del self._due[:MAX_WAKEUPS]
        if self._due:
            asyncio.get_running_loop().call_soon(self._wake)

    def _adapt(self, now: float) -> None:
        elapsed = now - self._adapted_at
        if elapsed < ADAPT_INTERVAL_S:
            return
        cpu_s = self._cpu_clock()
        cpu_share = (cpu_s - self._cpu_s) / elapsed
        # Several steps after a silence: without ticks there was no load, and no adaptation either.
        for _ in range(min(int(elapsed / ADAPT_INTERVAL_S), MAX_STEPS)):
            self._interval.adapt(cpu_share)
        self._adapted_at, self._cpu_s = now, cpu_s
