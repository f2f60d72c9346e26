"""The HTTP server under the gateway: its listening socket, its bounds, and how it leaves."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
import uvicorn

from gateway import app, wire
from gateway.uvicorn_protocol import HttpProtocol, WebSocketProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.app import Gateway
    from gateway.settings import Settings

FREED_WITHIN: Final = 15_000
"""Milliseconds after which the kernel drops a client that acknowledges nothing (TCP_USER_TIMEOUT, tcp(7))."""

SEND_BUFFER: Final = 65_536
"""Bytes that the kernel takes for one client (it doubles them for its own use): left to itself it takes megabytes, and
a client that has stopped reading is noticed only when they are full."""

BACKLOG: Final = 4096
CLOSE_WITHIN: Final = 5
LEAVE_WITHIN: Final = 3.0
"""Seconds over which clients spread their moves to another gateway, and for which they are served meanwhile."""


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

    def __init__(self, gateway: Gateway, settings: Settings, leave_within: float) -> None:
        """`leave_within`: seconds that clients get to move; 0 where there is no other gateway to move to."""
        super().__init__(
            uvicorn.Config(
                app.front(gateway, app.create(gateway, settings)),
                lifespan="on",
                log_config=None,
                access_log=False,
                http=HttpProtocol,
                ws=WebSocketProtocol,
                ws_max_size=wire.MOST_FRAME_BYTES,
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
        self._leave_within = leave_within

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server`, which raises a signal again once it has shut down: that would end the process before
        the rest of it has, the worker's hand-over and the embedded server.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        settle_collector()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        self._gateway.leave(self._leave_within)
        # uvicorn closes every socket that is left with 1012 next.
        over = time.monotonic() + self._leave_within
        while self._gateway.connections and time.monotonic() < over and not self.force_exit:  # noqa: ASYNC110 - uvicorn sets a flag
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


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
