"""SIGTERM and SIGINT as two requests: shut down gracefully, then stop immediately."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

REPEAT_WITHIN_S: Final = 0.5
"""A signal that repeats within this time counts once: a terminal sends it to the process and to its group."""


class Signals:
    """The signals of this process. The first sets `leave`, the second sets `now`; neither ends the process."""

    def __init__(self) -> None:
        """Install the handlers in the running event loop."""
        self.leave = asyncio.Event()
        self.now = asyncio.Event()
        self.interrupted = False
        """Whether the first signal was SIGINT: a user at a keyboard waits, so there is no pre-drain delay."""
        self._first_at = 0.0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if not self.leave.is_set():
            self.leave.set()
            self.interrupted = number == signal.SIGINT
            self._first_at = time.monotonic()
        elif time.monotonic() - self._first_at > REPEAT_WITHIN_S:
            self.now.set()
