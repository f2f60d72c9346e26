"""The beats that all answers of one worker share: between two, providers are not read, and pieces are gathered."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.batch import Window

OBSERVED_EVERY: Final = 0.1
"""Seconds after which the window is fitted to the load."""

MAX_STEPS: Final = 40
"""So many steps lead from the widest window to the narrowest."""

AT_ONCE: Final = 32
"""So many go on in one turn of the loop: what they have to append is on its way while the next ones go on."""


class SharedTick:
    """Wakes those who wait for the next beat."""

    def __init__(self, window: Window, computed: Callable[[], float] = time.thread_time) -> None:
        """`computed`: the seconds for which this thread has computed."""
        self._window = window
        self._clock = computed
        self._waiting: list[asyncio.Future[None]] = []
        self._due: list[asyncio.Future[None]] = []
        self._observed_at = 0.0
        self._computed = 0.0

    @property
    def number(self) -> int:
        """The number of the present beat."""
        return self._window.beat(asyncio.get_running_loop().time())

    def next(self) -> asyncio.Future[None]:
        """What is done when the next beat begins."""
        loop = asyncio.get_running_loop()
        begins = loop.create_future()
        if not self._waiting:
            now = loop.time()
            self._window.beat(now)
            loop.call_later(self._window.over_at - now, self._begin)
        self._waiting.append(begins)
        return begins

    def _begin(self) -> None:
        now = asyncio.get_running_loop().time()
        self._window.begin(now)
        self._due += self._waiting
        self._waiting = []
        self._observe(now)
        self._go_on()

    def _go_on(self) -> None:
        for begins in self._due[:AT_ONCE]:
            if not begins.done():
                begins.set_result(None)
        del self._due[:AT_ONCE]
        if self._due:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _observe(self, now: float) -> None:
        elapsed = now - self._observed_at
        if elapsed < OBSERVED_EVERY:
            return
        computed = self._clock()
        busy = (computed - self._computed) / elapsed
        # No beats, no load: what the window was before a silence is not what it has to be after.
        for _ in range(min(int(elapsed / OBSERVED_EVERY), MAX_STEPS)):
            self._window.observe(busy)
        self._observed_at, self._computed = now, computed
