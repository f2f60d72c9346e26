"""uvicorn's protocols, with bounds on a request that is never finished and a way to take an open WebSocket over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.transports.direct_socket import LOW_WATER, DirectSocket

if TYPE_CHECKING:
    import asyncio

    from websockets.http11 import Request

TAKE_OVER: Final = "tokenwire.take_over"
"""The extension of an ASGI scope: called after the handshake, returns the `DirectSocket` that stands in its place."""

REQUEST_WITHIN: Final = 10.0
"""Seconds from a connection's first byte, or its opening, to the end of its request."""

MAX_HEAD_BYTES: Final = 65_536
FRAMING_PER_BYTE: Final = 8
"""Bytes of chunk headers that a byte of a body may come with: the least that a sender of single bytes needs."""


BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class HttpProtocol(HttpToolsProtocol):
    """As uvicorn's, but a request has to come to its end in time, and to its body within a bound."""

    _deadline: asyncio.TimerHandle | None = None
    _spare = MAX_HEAD_BYTES

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._spare -= len(data)
        super().data_received(data)
        if self._spare < 0:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """See `httptools.HttpRequestParser`."""
        super().on_message_begin()
        if self._deadline is None:
            self._begin()

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._spare += (1 + FRAMING_PER_BYTE) * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._end()
        self._spare = MAX_HEAD_BYTES
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """See `HttpToolsProtocol`."""
        self._end()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_WITHIN, self.transport.abort)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """As uvicorn's up to the accepted handshake, from which on the application may take the transport over."""

    _taken = False

    def data_received(self, data: bytes) -> None:
        """See `WebSocketsSansIOProtocol`, which leaves a handshake that the parser refused unanswered and open."""
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
        """Let go of the transport; raises ClientDisconnected if the client has gone.

        The ASGI call may then return without the socket being closed, and all that it held is free.
        """
        if self.transport.get_write_buffer_size() > LOW_WATER:
            # It has not read what it asked for before the upgrade. The transport told another protocol that it is full,
            # and would not say so again.
            self.transport.abort()
        if self.disconnected or self.transport.is_closing() or not self.handshake_complete:
            raise ClientDisconnected
        self.stop_keepalive()
        self._taken = True
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
        """See `WebSocketsSansIOProtocol`."""
        transport = self.transport
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception as error:
            self.logger.error("a WebSocket failed (%s)", type(error).__name__)
            self.send_500_response()
        if not self._taken and self.close_timer is None:
            transport.close()
