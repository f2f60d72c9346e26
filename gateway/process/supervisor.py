"""Several processes that do the same work: started, started again when one dies, and ended together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

logger = logging.getLogger(__name__)

SETTLED_AFTER: Final = 5.0
"""Seconds after which a process has shown that it can do its work: its death is no mistake of the settings."""

MAX_FAILURES: Final = 3
ORPHANED_WITHIN: Final = 1.0


class ProcessGroup:
    """The children of this process; it must have no thread and no event loop yet, because it forks."""

    def __init__(self, count: int, work: Callable[[int], int]) -> None:
        """`work` runs in each child, is given the child's place among them from 0 on, and returns its exit status."""
        self._count = count
        self._work = work
        self._children: dict[int, tuple[int, float]] = {}
        """Each child's place, and when it was started."""
        self._leaving = False
        self._failures = 0

    def run(self) -> int:
        """Keep all of them running until SIGTERM or SIGINT has come and they are gone; return an exit status.

        When one after the other fails as soon as it starts, the rest is ended too, and the status is not 0.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)
        for place in range(self._count):
            self._start(place)
        while self._children:
            child, status = os.wait()
            if (known := self._children.pop(child, None)) is None or self._leaving:
                continue
            place, started = known
            code = os.waitstatus_to_exitcode(status)
            logger.error("process %d ended by itself (%d)", child, code)
            # One that is killed has made no mistake.
            failed = code != -signal.SIGKILL
            self._failures = self._failures + failed if time.monotonic() - started < SETTLED_AFTER else 0
            if self._failures >= MAX_FAILURES:
                self._leave(signal.SIGTERM, None)
            else:
                self._start(place)
        return 1 if self._failures >= MAX_FAILURES else 0

    def _start(self, place: int) -> None:
        child = os.fork()
        if child:
            self._children[child] = (place, time.monotonic())
            if self._leaving:
                # The word came while it was being born.
                os.kill(child, signal.SIGTERM)
            return
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.default_int_handler)
            status = self._work(place)
        finally:
            # Nothing of the parent's is to be done again here.
            os._exit(status)

    def _leave(self, _: int, __: FrameType | None) -> None:
        self._leaving = True
        for child in self._children:
            os.kill(child, signal.SIGTERM)


async def orphaned() -> None:
    """Wait until the process that started this one is gone."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(ORPHANED_WITHIN)
