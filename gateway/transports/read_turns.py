"""Turns of reads: what clients send is parsed for a bounded time in each iteration of the event loop.

One read costs 0.05 to 2 ms: a handshake, the check of a token, the chunks of a body. A thousand that arrive at one
moment would delay every stream by their sum.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from gateway.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MAX_WORK_S: Final = 0.004
"""Time for which reads are handled in one iteration. The others wait, one of each address in turn."""

WINDOW_S: Final = 0.02
"""Reads within MAX_WORK_S of this time are handled at once: a callback for each iteration would cost more."""


class ReadTurns:
    """The reads of one port."""

    __slots__ = ("_began", "_clock", "_scheduled", "_spent", "_waiting", "_window")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock`: in seconds."""
        self._clock = clock
        self._waiting: FairQueue[Callable[[], None]] = FairQueue()
        self._scheduled = False
        self._window = self._began = clock()
        self._spent = 0.0

    def begin(self) -> bool:
        """Tell whether a read may be handled now; then `end` must follow. Otherwise call `wait`."""
        if self._scheduled:
            return False
        now = self._clock()
        if now - self._window >= WINDOW_S:
            self._window, self._spent = now, 0.0
        if self._spent >= MAX_WORK_S:
            return False
        self._began = now
        return True

    def end(self) -> None:
        """Count the time of a read that was handled."""
        self._spent += self._clock() - self._began

    def wait(self, owner: Hashable, handle: Callable[[], None]) -> None:
        """Call `handle` in a later iteration; it must not raise. `owner`: of the read, usually its address."""
        self._waiting.put(owner, handle)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_iteration)

    def _next_iteration(self) -> None:
        began = self._clock()
        try:
            while self._waiting:
                self._waiting.pop()()
                if self._clock() - began >= MAX_WORK_S:
                    break
        finally:
            self._window, self._spent = began, MAX_WORK_S
            self._scheduled = bool(self._waiting)
            if self._scheduled:
                asyncio.get_running_loop().call_soon(self._next_iteration)
