"""The HTTP server under the gateway: its listening socket, its bounds, and how it leaves."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
import uvicorn

from gateway import app, wire
from gateway.drain import DrainSchedule
from gateway.transports.uvicorn_protocol import HttpProtocol, WebSocketProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.app import Gateway
    from gateway.process.signals import Signals
    from gateway.settings import Settings
    from gateway.transports.event_stream import EventStream
    from gateway.transports.websocket import Connection

FREED_WITHIN: Final = 15_000
"""Milliseconds after which the kernel drops a client that acknowledges nothing (TCP_USER_TIMEOUT, tcp(7))."""

SEND_BUFFER: Final = 65_536
"""Bytes that the kernel takes for one client (it doubles them for its own use): left to itself it takes megabytes, and
a client that has stopped reading is noticed only when they are full."""

BACKLOG: Final = 4096
CLOSE_WITHIN: Final = 1
"""Seconds that requests and sockets get which are still open when the drain is over."""

DEPART_EVERY: Final = 0.02
"""Seconds between two looks at who has to leave: so finely is the departure of all spread."""


def reserve(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """A socket bound to an address and not listening; raises ClickException.

    `shared`: others may bind to it and listen too, and the kernel deals the connections out (SO_REUSEPORT, socket(7)).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = socket.socket(family, socket.SOCK_STREAM)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        place.bind((host, port))
    except OSError as error:
        place.close()
        raise click.ClickException(f"{host}:{port} can not be listened on ({error.strerror}): set --port") from None
    return place


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket whose clients are let go of when they acknowledge nothing for a while; as `reserve`."""
    listener = reserve(host, port, shared=shared)
    # Accepted sockets inherit these. Without them a client that never reads keeps its descriptor for ever.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, FREED_WITHIN)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


class Server(uvicorn.Server):
    """uvicorn, with our bounds; it tells every client to move before it closes."""

    def __init__(self, gateway: Gateway, settings: Settings, signals: Signals, drain: float) -> None:
        """`drain`: seconds within which all clients have been sent away; 0 where there is no other gateway to go to."""
        super().__init__(
            uvicorn.Config(
                app.front(gateway, app.create(gateway, settings)),
                lifespan="on",
                log_config=None,
                access_log=False,
                http=HttpProtocol,
                ws=WebSocketProtocol,
                ws_max_size=wire.MAX_FRAME_BYTES,
                ws_per_message_deflate=False,
                # Heartbeats and the kernel's time-outs find a dead client, without two timers for each that lives.
                ws_ping_interval=None,
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=settings.proxies or None,
                server_header=False,
                timeout_graceful_shutdown=CLOSE_WITHIN,
                timeout_keep_alive=30,
            )
        )
        self._gateway = gateway
        self._signals = signals
        self._drain = drain
        self._notice = min(settings.notice, drain / 2)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server`, which raises a signal again once it has shut down: that would end the process before
        the rest of it has, the worker's hand-over and the embedded server.
        """
        yield

    async def on_tick(self, counter: int) -> bool:
        """See `uvicorn.Server`."""
        return await super().on_tick(counter) or self._signals.leave.is_set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        settle_collector()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        gateway = self._gateway
        gateway.leaving = True
        begin = time.monotonic()
        if not gateway.failed.is_set():
            if not self._signals.interrupted:
                # New clients are let in until load balancers have seen that it is not ready: until then they send them.
                await self._passed(begin + self._notice)
            gateway.admission.close()
            await self._depart(begin + self._drain)
        # uvicorn closes what is left, with 1012.
        if self._signals.now.is_set():
            self.config.timeout_graceful_shutdown = 0
        await super().shutdown(sockets)

    async def _depart(self, end: float) -> None:
        gateway = self._gateway
        clients: list[Connection | EventStream] = [*gateway.connections, *gateway.streams]
        now = time.monotonic()
        departure = DrainSchedule(clients, now, max(0.0, end - now))
        while (gateway.connections or gateway.streams) and not departure.over and not self._signals.now.is_set():
            now = time.monotonic()
            for client in departure.tell(now):
                client.move(departure.within)
            for client in departure.close(now):
                client.leave()
            await self._passed(now + DEPART_EVERY)

    async def _passed(self, moment: float) -> None:
        """Wait until then, or until the process is told to end at once."""
        try:
            async with asyncio.timeout(moment - time.monotonic()):
                await self._signals.now.wait()
        except TimeoutError:
            pass


def settle_collector() -> None:
    """Keep the garbage collector from looking at what lives as long as the process, and from looking often.

    A look at all that ten thousand sockets hold stops every stream for tens of milliseconds, and finds nothing: what a
    socket leaves behind is no cycle.
    """
    gc.collect()
    gc.freeze()
    if (3, 14, 0) <= sys.version_info < (3, 14, 5):
        # These collect in steps, whose size the other thresholds set (CPython 3.14.5 went back to generations).
        gc.set_threshold(50_000)
    else:
        gc.set_threshold(50_000, 50, 100)
