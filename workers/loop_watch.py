"""The loop watch: notices that an event loop was blocked, for how long, and by what.

A callback of the loop measures the time. A thread sees the task that runs and its code, as soon as it gets a turn:
within milliseconds, except while an extension holds the interpreter; then at the end of that call, before the loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKS_PER_INTERVAL: Final = 2
LATE_INTERVALS: Final = 1.5
"""A loop this late may be blocked; two intervals without a beat are a block. A look falls between the two."""


MAX_FRAMES: Final = 4
"""Code locations of a block: the innermost one may be in a library that the generator calls."""


class Block(NamedTuple):
    """A time in which the event loop did not run."""

    seconds: float
    task: str
    """Name of the task that blocked it: of an answer, its response; '' if no task was seen."""
    where: str
    """Code locations at which it was seen, from the innermost one outwards; '' if it was not."""


class LoopWatch:
    """Watches the running event loop."""

    def __init__(
        self, interval_s: float, *, on_beat: Callable[[], None] | None, on_block: Callable[[Block], None]
    ) -> None:
        """`on_beat` is called in each interval, `on_block` after each block; both in the watched loop."""
        self._interval_s = interval_s
        self._on_beat = on_beat
        self._on_block = on_block
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._beat_at = 0.0
        self._seen: tuple[str, str] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look_again_and_again, name="loop-watch", daemon=True)

    def start(self) -> None:
        """Watch the running event loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat_at = time.monotonic()
        self._thread.start()
        self._beat()

    async def stop(self) -> None:
        """End the thread. Safe to cancel and to repeat."""
        if self._timer is not None:
            self._timer.cancel()
        self._stopped.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _beat(self) -> None:
        assert self._loop is not None
        now = time.monotonic()
        blocked_s = now - self._beat_at
        task, where = self._seen or ("", "")
        self._beat_at, self._seen = now, None
        self._timer = self._loop.call_later(self._interval_s, self._beat)
        if self._on_beat is not None:
            self._on_beat()
        if blocked_s > 2 * self._interval_s:
            self._on_block(Block(blocked_s, task, where))

    def _look_again_and_again(self) -> None:
        while not self._stopped.wait(self._interval_s / LOOKS_PER_INTERVAL):
            if self._seen is None and time.monotonic() - self._beat_at > LATE_INTERVALS * self._interval_s:
                self._seen = self._look()

    def _look(self) -> tuple[str, str]:
        """Return the task that runs in the watched loop, and the place at which its thread is."""
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._loop_thread)
        places: list[str] = []
        while frame is not None and len(places) < MAX_FRAMES:
            places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}:{frame.f_code.co_name}")
            frame = frame.f_back
        return task.get_name() if task is not None else "", " < ".join(places)
