"""`/v1/ws`: accepts or rejects sockets and gives each accepted one a connection."""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from starlette.websockets import WebSocket

from gateway import frame_codec, metrics
from gateway.frame_batch import FrameBatch
from gateway.session import Session
from gateway.transports.asgi_socket import AsgiSocket
from gateway.transports.client_transport import CONNECTION
from gateway.transports.http_api import SOCKET_PATH, rejection_response
from gateway.transports.refusals import refused
from gateway.transports.uvicorn_protocol import TAKE_OVER
from gateway.transports.websocket import Connection
from gateway.wire import Close

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from gateway.admission import Admission
    from gateway.auth import Denied, Identity
    from gateway.feed.feed import Feed
    from gateway.frame_codec import Frame
    from gateway.hub import Hub
    from gateway.rate_limits import RateLimits
    from gateway.subject_connections import SubjectConnections
    from gateway.submissions import Submissions
    from gateway.timer_wheel import TimerWheel
    from gateway.token_limits import TokenLimits
    from gateway.transports.direct_socket import DirectSocket
    from gateway.watches import Watches

SUBPROTOCOL: Final = "tokenwire"
"""The one that is echoed to a client that offers it; a client need not offer any."""

DENIAL: Final = "websocket.http.response"
"""Extension of an ASGI scope: the application may reject a handshake with an HTTP status."""


class WebSocketEndpoint:
    """The sockets of one gateway."""

    def __init__(
        self,
        *,
        hub: Hub,
        feed: Feed,
        submissions: Submissions,
        authenticate: Callable[[str | None, float], Identity | Denied],
        admission: Admission,
        timers: TimerWheel[Connection],
        models: tuple[str, ...] | None,
        allows: Callable[[str | None], bool],
        limits: RateLimits,
        tokens: TokenLimits,
        subject_connections: SubjectConnections,
        watches: Watches,
    ) -> None:
        """All but `allows`: see `Session` and `Connection`. `allows` tells whether a page of an origin may connect."""
        self.connections: set[Connection] = set()
        self._hub = hub
        self._feed = feed
        self._submissions = submissions
        self._authenticate = authenticate
        self._admission = admission
        self._timers = timers
        self._models = models
        self._allows = allows
        self._limits = limits
        self._tokens = tokens
        self._subject_connections = subject_connections
        self._watches = watches

    def in_front_of(self, application: ASGIApp) -> ASGIApp:
        """Return an application that handles sockets first and passes everything else to `application`.

        Routes and middleware would add a seventh to the cost of accepting a socket.
        """

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket" and scope["path"] == SOCKET_PATH:
                await self.serve(WebSocket(scope, receive, send))
            else:
                await application(scope, receive, send)

        return app

    async def serve(self, socket: WebSocket) -> None:
        """Serve a socket. Safe to cancel: that closes the socket.

        A rejected socket is accepted first and then closed, because browsers hide the status of a failed handshake.
        """
        address = socket.client.host if socket.client else ""
        extensions = socket.scope.get("extensions", {})
        beyond = extensions[CONNECTION].beyond if CONNECTION in extensions else None
        if beyond is None:
            rejection = self._admission.accept(address, time.monotonic())
        else:
            rejection = self._admission.rejection(beyond)
        if rejection is not None:
            if rejection.shutting_down and DENIAL in extensions:
                # A proxy that gets this status tries another gateway, and the client does not notice.
                await socket.send_denial_response(rejection_response(rejection))
                return
            refused("address_connections" if rejection.address_full else "connections")
            retry_after = round(rejection.retry_after, 3)
            last = frame_codec.error("overloaded", "Too many connections.", retry_after=retry_after)
            await self._reject(socket, Close.OVERLOADED, rejection.reason, last)
            return
        connection: Connection | None = None
        try:
            if not self._allows(socket.headers.get("origin")):
                refused("origin")
                await self._reject(socket, Close.FORBIDDEN_ORIGIN, "this page may not connect")
                return
            opened = await _accept(socket)
            connection = Connection(
                socket=opened,
                session=Session(
                    secrets.token_hex(8),
                    self._authenticate,
                    self._models,
                    time.monotonic(),
                    limits=self._limits,
                    tokens=self._tokens,
                    connections=self._subject_connections,
                    address=address,
                ),
                hub=self._hub,
                feed=self._feed,
                submissions=self._submissions,
                timers=self._timers,
                watches=self._watches,
                lost=partial(self._lost, address),
            )
            self.connections.add(connection)
            metrics.WEBSOCKETS.inc()
            await opened.serve(connection)
        finally:
            if connection is None:
                self._admission.release(address)

    def _lost(self, address: str, connection: Connection) -> None:
        self.connections.discard(connection)
        metrics.WEBSOCKETS.dec()
        self._admission.release(address)

    async def _reject(self, socket: WebSocket, code: Close, reason: str, last: Frame | None = None) -> None:
        metrics.CLOSED.labels(str(int(code))).inc()
        opened = await _accept(socket)
        if isinstance(opened, AsgiSocket):
            if last is not None:
                await socket.send_text(last.body.decode())
            await socket.close(code, reason)
            return
        # Taken over, so that the limits of an open socket hold for what the client still sends.
        if last is not None:
            opened.write(FrameBatch((last,)))
        opened.close(code, reason)


async def _accept(socket: WebSocket) -> AsgiSocket | DirectSocket:
    """Complete the handshake; raises ClientDisconnected of the server."""
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", ()) else None)
    take_over = socket.scope.get("extensions", {}).get(TAKE_OVER)
    if take_over is None:
        return AsgiSocket(socket)
    opened: DirectSocket = take_over()
    return opened
