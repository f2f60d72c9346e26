"""Turns of requests: few start in each iteration of the event loop, so that many at once do not delay streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Hashable

MAX_STARTS: Final = 8
"""Requests and handshakes that start in one iteration: 2 to 6 ms of work. The others wait, addresses in turn."""


class Turns:
    """The requests of one process that are about to start; at most one for each connection."""

    def __init__(self) -> None:
        self._left = MAX_STARTS
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._scheduled = False

    def take(self, owner: Hashable = None) -> asyncio.Future[None] | None:
        """Return a future to wait for, or None if the request may start now. Safe to cancel.

        `owner`: of the request, usually its address. A request waits for at most one of each other owner, and for those
        of its own before it.
        """
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_iteration)
        if self._left and not self._waiting:
            self._left -= 1
            return None
        turn = asyncio.get_running_loop().create_future()
        self._waiting.put(owner, turn)
        return turn

    def _next_iteration(self) -> None:
        self._left = MAX_STARTS
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next_iteration)
        while self._left and self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
