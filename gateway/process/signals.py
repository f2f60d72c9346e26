"""What a process is told from outside: to leave, and then to end at once."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

SAME_WORD_WITHIN: Final = 0.5
"""Seconds in which a signal that comes again is the same word by another way: to a process, and to its group."""


class Signals:
    """SIGTERM and SIGINT of this process, which no longer end it: the first one says leave, the second one says now."""

    def __init__(self) -> None:
        """Heard from here on, in the loop that runs."""
        self.leave = asyncio.Event()
        self.now = asyncio.Event()
        self.interrupted = False
        """Whether the first one was SIGINT: somebody at a keyboard waits."""
        self._at = 0.0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heard, number)

    def _heard(self, number: signal.Signals) -> None:
        if not self.leave.is_set():
            self.leave.set()
            self.interrupted = number == signal.SIGINT
            self._at = time.monotonic()
        elif time.monotonic() - self._at > SAME_WORD_WITHIN:
            self.now.set()
