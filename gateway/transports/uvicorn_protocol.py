"""The one adapter to undocumented parts of uvicorn's protocols: request deadlines, and access to the transport.

`OVERRIDDEN` and `ATTRIBUTES` list every method and attribute that is used here and in `gateway.process.server`. uvicorn
does not document them, so pyproject.toml bounds its version, and tests/gateway/transports/test_uvicorn_internals.py
checks each name: an upgrade that changes one fails there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.streams.log_fields import error_fields
from gateway.transports.direct_socket import LOW_WATER_BYTES, DirectSocket

if TYPE_CHECKING:
    import asyncio

    from websockets.http11 import Request

logger = logging.getLogger(__name__)

OVERRIDDEN: Final = {
    "HttpToolsProtocol": (
        "connection_made",
        "data_received",
        "on_message_begin",
        "on_body",
        "on_message_complete",
        "handle_websocket_upgrade",
        "connection_lost",
    ),
    "WebSocketsSansIOProtocol": ("data_received", "handle_connect", "run_asgi"),
    "Server": ("capture_signals", "on_tick", "startup", "shutdown"),
}
"""Methods of uvicorn that subclasses of this package override."""

ATTRIBUTES: Final = {
    "HttpToolsProtocol": ("loop", "transport"),
    "WebSocketsSansIOProtocol": (
        "app",
        "close_timer",
        "conn",
        "connections",
        "disconnected",
        "handshake_complete",
        "handshake_initiated",
        "queue",
        "read_paused",
        "receive",
        "response",
        "scope",
        "send",
        "send_500_response",
        "stop_keepalive",
        "transport",
    ),
    "Server": ("config", "should_exit"),
}
"""Attributes of uvicorn that subclasses of this package use. `response` and `scope` are set by the handshake."""

TAKE_OVER: Final = "tokenwire.take_over"
"""Extension of an ASGI scope: a function that, after the handshake, returns a `DirectSocket` for the transport."""

REQUEST_WITHIN_S: Final = 10.0
"""Time from the opening of a connection, or the first byte of a request, to the end of the request."""

MAX_HEAD_BYTES: Final = 65_536
FRAMING_PER_BYTE: Final = 8
"""Bytes of chunk headers allowed per byte of a body: what a client needs that sends chunks of one byte."""


BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a deadline for each request and a limit for what is not its body."""

    _deadline: asyncio.TimerHandle | None = None
    _budget = MAX_HEAD_BYTES
    """Bytes that the request may still send."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._budget -= len(data)
        super().data_received(data)
        if self._budget < 0:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """See `httptools.HttpRequestParser`."""
        super().on_message_begin()
        if self._deadline is None:
            self._start_deadline()

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._budget += (1 + FRAMING_PER_BYTE) * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._stop_deadline()
        self._budget = MAX_HEAD_BYTES
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """See `HttpToolsProtocol`."""
        self._stop_deadline()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_deadline()
        super().connection_lost(exc)

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_WITHIN_S, self.transport.abort)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol; after the handshake the application may take the transport over."""

    _taken_over = False

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. Unlike uvicorn, close a connection whose handshake the parser rejected."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(BAD_REQUEST)
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        """See `WebSocketsSansIOProtocol`."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[TAKE_OVER] = self.take_over

    def take_over(self) -> DirectSocket:
        """Return a socket that replaces this protocol; raise ClientDisconnected if the client has disconnected.

        The ASGI call may then return without closing the socket, and everything that it holds is freed.
        """
        if self.transport.get_write_buffer_size() > LOW_WATER_BYTES:
            # The client did not read the responses to requests before the upgrade. The transport called pause_writing
            # of the former protocol and would not call it again.
            self.transport.abort()
        if self.disconnected or self.transport.is_closing() or not self.handshake_complete:
            raise ClientDisconnected
        self.stop_keepalive()
        self._taken_over = True
        self.connections.discard(self)
        early: list[str | bytes] = []
        while not self.queue.empty():
            message = self.queue.get_nowait()
            if message["type"] == "websocket.receive":
                early.append(message.get("text") or message.get("bytes") or "")
        socket = DirectSocket(self.transport, self.conn, early, self.connections)
        self.transport.set_protocol(socket)
        if self.read_paused:
            self.transport.resume_reading()
        return socket

    async def run_asgi(self) -> None:
        """Run the application for this socket; see `WebSocketsSansIOProtocol`. Safe to cancel."""
        transport = self.transport
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception as error:
            logger.error("websocket_failed", extra=error_fields(error))
            self.send_500_response()
        if not self._taken_over and self.close_timer is None:
            transport.close()
