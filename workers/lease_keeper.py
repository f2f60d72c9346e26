"""The lease keeper: starts the lease process of a worker, tells it which jobs the worker holds, and restarts it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from workers.lease_bridge import MAX_BLOCKED_S, SIGN, Failed, Hold, Lines, Lost, Start, Told, encode, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.streams.store.store import Lifetimes

logger = logging.getLogger(__name__)

COMMAND: Final = (sys.executable, "-P", "-m", "workers.lease_process")
"""Without secrets, which every user of the machine could read; they go through the pipe."""

RESTART_PAUSE_S: Final = 1.0
STOP_WITHIN_S: Final = 2.0
READ_BYTES: Final = 65_536


class StoreAddress(NamedTuple):
    """Where the lease process finds the store."""

    url: str
    lifetimes: Lifetimes


class LeaseKeeper:
    """The lease process as its worker's event loop sees it. Nothing here waits for that process."""

    def __init__(
        self,
        *,
        store: StoreAddress,
        consumer: str,
        lease_s: float,
        held: Callable[[], Iterable[Hold]],
        on_lost: Callable[[Lost], None],
    ) -> None:
        """`on_lost` gets each renewal whose result was not `held`, once the event loop runs again."""
        self._start = Start(
            store=store.url,
            log_s=store.lifetimes.log,
            conversation_s=store.lifetimes.conversation,
            submission_s=store.lifetimes.submission,
            consumer=consumer,
            parent=os.getpid(),
            lease_s=lease_s,
            max_blocked_s=MAX_BLOCKED_S,
        )
        self._held = held
        self._on_lost = on_lost
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = float("-inf")
        self._is_connected = False
        self._told = Told()
        self._lines = Lines()
        self._unsent = b""
        self._failed = False

    @property
    def pid(self) -> int | None:
        """The id of the lease process; None while there is none."""
        return self._process.pid if self._process is not None else None

    def hold(self, new: Iterable[Hold]) -> None:
        """Tell the process about new jobs at once: the first step of one may block the event loop."""
        if self._is_connected and not self._unsent:
            self._unsent = self._told.hold(new)
            self._send()

    def beat(self) -> None:
        """Give the process a sign of life and the changes since the last one; start it if there is none."""
        if self._process is None:
            if asyncio.get_running_loop().time() - self._started_at >= RESTART_PAUSE_S:
                self._spawn()
        elif not self._is_connected:
            self._reap(self._process)
        if self._is_connected:
            self._failed = False
            if not self._unsent:
                # Otherwise the process reads late; the next changes are those to the newest state.
                self._unsent = self._told.changes(self._held()) or SIGN
            self._send()

    async def stop(self) -> None:
        """End the process. Safe to cancel and to repeat: a thread waits for its end."""
        if self._process is not None:
            process, self._process = self._process, None
            self._disconnect(process)
            await asyncio.to_thread(_end, process)

    def _spawn(self) -> None:
        self._started_at = asyncio.get_running_loop().time()
        try:
            self._process = subprocess.Popen(
                COMMAND,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # The modules of this process, whatever its current directory holds.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # The signals of a terminal go to its foreground group.
                process_group=0,
            )
        except OSError as error:
            logger.warning("lease_process_ended", extra={"error": type(error).__name__, "exit_status": None})
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(self._process.stdout.fileno(), False)
        self._told, self._lines = Told(), Lines()
        self._unsent = encode(self._start) + self._told.changes(self._held())
        self._is_connected = True
        asyncio.get_running_loop().add_reader(self._process.stdout.fileno(), self._read, self._process)

    def _send(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._process.stdin.fileno(), self._unsent) :]
        except BlockingIOError:
            # It goes on at the next sign of life.
            return
        except OSError:
            # The end of the process is seen at its output.
            return

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        try:
            data = os.read(process.stdout.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._disconnect(process)
            self._reap(process)
            return
        for line in self._lines.split(data):
            match report(line):
                case Lost() as lost:
                    self._on_lost(lost)
                case Failed() as failed if not self._failed:
                    # One event for a block.
                    self._failed = True
                    logger.warning("lease_renewal_failed", extra={"error": failed.error, "where": failed.where})

    def _disconnect(self, process: subprocess.Popen[bytes]) -> None:
        if not self._is_connected:
            return
        self._is_connected = False
        assert process.stdin is not None
        assert process.stdout is not None
        asyncio.get_running_loop().remove_reader(process.stdout.fileno())
        process.stdin.close()
        process.stdout.close()

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        """Forget a process that has ended; one that only closed its output is ended."""
        status = process.poll()
        if status is None:
            process.kill()
            return
        logger.warning("lease_process_ended", extra={"error": None, "exit_status": status})
        self._process = None


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
