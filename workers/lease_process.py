"""The lease process: renews the leases of its worker while that is blocked.

A generator can hold the interpreter for longer than a lease, as a regular expression does. No thread of the worker gets
a turn then, so the renewals come from a process. It takes its orders from standard input, see `workers.lease_bridge`,
and ends with it: the leases of a dead worker expire as ever.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from redis.exceptions import RedisError

from gateway.streams import jobs
from gateway.streams.log_fields import error_fields
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import Lifetimes, Store, open_store
from workers.lease_bridge import Drop, Failed, Hold, LeaseBridge, Lines, Lost, Report, Start, encode, request

EXIT_WITHIN_S: Final = 3
"""Whole seconds after the end of the input in which connections are closed; then the kernel ends the process."""

IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A supervisor or a terminal sends them to all processes: this one is needed until its worker has drained."""

STOPPED: Final = ("T", "t")
"""States of a process that a signal or a debugger has stopped, in /proc/PID/stat."""


class _Input(asyncio.Protocol):
    """Applies what the worker tells."""

    def __init__(self) -> None:
        self.started: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        self.bridge: LeaseBridge | None = None
        self._lines = Lines()

    def data_received(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        for line in self._lines.split(data):
            match request(line):
                case Start() as start:
                    self.bridge = LeaseBridge(start.lease_s, start.max_blocked_s, now)
                    self.started.set_result(start)
                case Hold() | Drop() as change if self.bridge is not None:
                    self.bridge.apply(change)
        if self.bridge is not None:
            self.bridge.sign(now)

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set()


async def run() -> None:
    """Renew leases until the input ends. Not safe to cancel: connections stay open until the process ends."""
    loop = asyncio.get_running_loop()
    _, received = await loop.connect_read_pipe(_Input, sys.stdin)
    renewing = asyncio.create_task(_renew_leases(received))
    closing = asyncio.create_task(received.closed.wait())
    await asyncio.wait((renewing, closing), return_when=asyncio.FIRST_COMPLETED)
    signal.alarm(EXIT_WITHIN_S)
    renewing.cancel()
    closing.cancel()
    with suppress(asyncio.CancelledError):
        await renewing


async def _renew_leases(received: _Input) -> None:
    loop = asyncio.get_running_loop()
    start = await received.started
    bridge = received.bridge
    assert bridge is not None
    store: Store | None = None
    try:
        # The parent changes when the worker dies, also where a process that it forked keeps the pipe open.
        while os.getppid() == start.parent:
            if bridge.is_due(loop.time()) and not is_stopped(start.parent):
                bridge.renewing(loop.time())
                try:
                    if store is None:
                        lifetimes = Lifetimes(start.log_s, start.conversation_s, start.submission_s)
                        store = await open_store(start.store, lifetimes)
                    await _renew(store, start.consumer, bridge)
                except (StoreError, RedisError, OSError) as error:
                    _tell(Failed(type(error).__name__))
            await asyncio.sleep(bridge.wait_s(loop.time()))
    finally:
        if store is not None:
            await store.close()


async def _renew(store: Store, consumer: str, bridge: LeaseBridge) -> None:
    held = bridge.held
    results = await asyncio.gather(
        *(jobs.renew(store, each.job, consumer, each.instructions) for each in held), return_exceptions=True
    )
    for each, result in zip(held, results, strict=True):
        if isinstance(result, str) and result != "held":
            bridge.forget(each.id)
            _tell(Lost(each.id, result))
    for result in results:
        if isinstance(result, BaseException):
            raise result


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped: its leases expire, since it may never go on. Only Linux tells it."""
    try:
        _, _, status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return False
    return status.split()[0] in STOPPED


def _tell(message: Report) -> None:
    """Report to the worker. It reads nothing while it is blocked; what does not fit its own renewals find out."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), encode(message))


def main() -> int:
    """Run until the input ends; return the exit status."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(sys.stdout.fileno(), False)
    try:
        asyncio.run(run())
    except Exception as error:
        _tell(Failed(**error_fields(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
