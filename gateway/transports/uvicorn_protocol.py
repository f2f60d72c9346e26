"""With `http_protocol` the one adapter to undocumented parts of uvicorn's protocols: access to the transport.

`OVERRIDDEN` and `ATTRIBUTES` list every method and attribute that is used here, there and in `gateway.process.server`.
uvicorn does not document them, so pyproject.toml bounds its version, and a test checks each name: an upgrade that
changes one fails in tests/gateway/transports/test_uvicorn_internals.py.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.streams import safe_writes
from gateway.streams.log_fields import error_fields
from gateway.streams.log_throttle import LogThrottle
from gateway.transports.client_transport import CONNECTION
from gateway.transports.direct_socket import LOW_WATER_BYTES, DirectSocket
from gateway.transports.refusals import refused

if TYPE_CHECKING:
    from websockets.http11 import Request

    from gateway.transports.client_transport import ClientTransport


logger = logging.getLogger(__name__)

_throttle: Final = LogThrottle()

OVERRIDDEN: Final = {
    "HttpToolsProtocol": (
        "connection_made",
        "data_received",
        "on_message_begin",
        "on_url",
        "on_header",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "on_response_complete",
        "handle_websocket_upgrade",
        "pause_writing",
        "resume_writing",
        "connection_lost",
    ),
    "WebSocketsSansIOProtocol": ("data_received", "handle_connect", "run_asgi"),
    "Server": ("capture_signals", "on_tick", "startup", "shutdown"),
}
"""Methods of uvicorn that subclasses of this package override."""

ATTRIBUTES: Final = {
    "HttpToolsProtocol": ("cycle", "headers", "parser", "pipeline", "scope", "transport"),
    "WebSocketsSansIOProtocol": (
        "app",
        "close_timer",
        "conn",
        "connections",
        "disconnected",
        "close_sent",
        "handshake_complete",
        "handshake_initiated",
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

PRIVATE: Final = {"HttpToolsProtocol": ("_should_upgrade", "_unset_keepalive_if_required")}
"""Private methods of uvicorn that subclasses of this package call."""

TAKE_OVER: Final = "tokenwire.take_over"
"""Extension of an ASGI scope: a function that, after the handshake, returns a `DirectSocket` for the transport."""


REFUSED_HANDSHAKE: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 87\r\nConnection: close\r\n\r\n"
    b'{"error":{"code":"bad_frame","message":"A handshake is a GET request without a body."}}'
)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol; after the handshake the application takes the transport over."""

    transport: ClientTransport

    _taken_over = False

    def data_received(self, data: bytes) -> None:
        """See `WebSocketsSansIOProtocol`. Refuse a handshake that the library rejects without an answer.

        The first bytes are one whole request, which the HTTP parser has read. The library is stricter, for example with
        a body, and would leave the connection open and unread.
        """
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            refused("handshake")
            self.handshake_initiated = self.handshake_complete = self.close_sent = True
            safe_writes.write(self.transport, REFUSED_HANDSHAKE)
            self.transport.linger()

    def handle_connect(self, event: Request) -> None:
        """See `WebSocketsSansIOProtocol`."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[TAKE_OVER] = self.take_over
            extensions[CONNECTION] = self.transport

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
        socket = DirectSocket(self.transport, self.conn, self.connections)
        self.transport.set_protocol(socket)
        safe_writes.resume_reading(self.transport)
        return socket

    async def run_asgi(self) -> None:
        """Run the application for this socket; see `WebSocketsSansIOProtocol`. Safe to cancel."""
        transport = self.transport
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception as error:
            suppressed = _throttle.admit(type(error).__name__, time.monotonic())
            if suppressed is not None:
                logger.error("websocket_failed", extra={**error_fields(error), "suppressed": suppressed})
            self.send_500_response()
        # They refer to this protocol, which refers to the scope.
        self.scope["extensions"].clear()
        if not self._taken_over and self.close_timer is None:
            transport.close()
