"""A group of child processes: start them, restart one that dies, end them together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from gateway.streams.log_fields import error_fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

logger = logging.getLogger(__name__)

STABLE_AFTER_S: Final = 5.0
"""A process that ran this long has started correctly: its death is not a mistake in the settings."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
MAX_FAILURES: Final = 3
PARENT_CHECK_S: Final = 1.0


class ProcessGroup:
    """The children of this process. It forks, so the process must have no thread and no event loop yet."""

    def __init__(self, count: int, work: Callable[[int], int]) -> None:
        """`work` runs in each child with the child's index from 0, and returns the exit status."""
        self._count = count
        self._work = work
        self._children: dict[int, tuple[int, float]] = {}
        """Process id to index and start time."""
        self._stopping = False
        self._failures = 0

    def run(self) -> int:
        """Keep all children running until SIGTERM or SIGINT; return an exit status when all have ended.

        After MAX_FAILURES failed starts in a row the other children are ended and the status is 1.
        """
        for number in SIGNALS:
            signal.signal(number, self._stop)
        for index in range(self._count):
            self._start(index)
        while self._children:
            child, status = os.wait()
            if (known := self._children.pop(child, None)) is None or self._stopping:
                continue
            index, started = known
            code = os.waitstatus_to_exitcode(status)
            logger.error("child_process_ended", extra={"pid": child, "index": index, "exit_status": code})
            # A killed child did not fail by itself, so it is not counted.
            failed = code != -signal.SIGKILL
            self._failures = self._failures + failed if time.monotonic() - started < STABLE_AFTER_S else 0
            if self._failures >= MAX_FAILURES:
                self._stop(signal.SIGTERM, None)
            else:
                self._start(index)
        return 1 if self._failures >= MAX_FAILURES else 0

    def _start(self, index: int) -> None:
        # A signal waits until the child is in the list, and until it has replaced this process's handler, which would
        # end its siblings.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        child = os.fork() if not self._stopping else -1
        if child:
            if child > 0:
                self._children[child] = (index, time.monotonic())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return
        status = 1
        try:
            for number in SIGNALS:
                signal.signal(number, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            status = self._work(index)
        except BaseException as error:
            logger.critical("process_failed", extra=error_fields(error))
        finally:
            # Without this the child would run the parent's clean-up again.
            os._exit(status)

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._stopping = True
        for child in self._children:
            os.kill(child, signal.SIGTERM)


async def orphaned() -> None:
    """Wait until the parent process has ended. Safe to cancel."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel sends no event for this
        await asyncio.sleep(PARENT_CHECK_S)
