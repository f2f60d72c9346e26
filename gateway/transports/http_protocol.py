"""With `uvicorn_protocol` the one adapter to undocumented parts of uvicorn's protocols: the limits of HTTP requests."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets import http11

from gateway.streams import safe_writes
from gateway.transports.client_transport import CONNECTION, ClientTransport
from gateway.transports.read_turns import ReadTurns
from gateway.transports.refusals import refused

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from gateway.addresses import Proxies
    from gateway.connections import Connections

REQUEST_WITHIN_S: Final = 10.0
"""Time from the opening of a connection, or the first byte of a request, to the end of the request."""

BEYOND_WITHIN_S: Final = 5.0
"""Time for which a connection beyond a limit is open: it has one request."""

IDLE_WITHIN_S: Final = 30
"""Time from the end of a response to the first byte of the next request."""

MAX_HEAD_BYTES: Final = 32_768
"""Bytes of a request's target, header names and header values, over HTTP and for a WebSocket."""

MAX_HEADERS: Final = http11.MAX_NUM_HEADERS
"""Headers of a request."""

LISTS: Final = frozenset(
    (
        b"connection",
        b"upgrade",
        b"sec-websocket-protocol",
        b"sec-websocket-extensions",
        b"x-forwarded-for",
        b"if-none-match",
        b"range",
        b"access-control-request-headers",
    )
)
"""Headers that uvicorn, websockets, starlette or this package splits into a Python object for each item."""

MAX_ITEMS: Final = 64
"""Items of all headers in LISTS. A browser sends about eight; 16,000 names in one of them take 15 ms."""

MAX_BODY_BYTES: Final = 262_144
"""Bytes of a body that are read. Routes answer at a quarter of this; further data is that of a client that sends on."""

FRAMING_PER_BYTE: Final = 8
"""Bytes of chunk headers allowed per byte of a body: what a client needs that sends chunks of one byte."""

MAX_BODY_PIECES: Final = 1_000
"""Chunks and reads of a body, of which each is a call of Python. A body of 64 kB arrives in about fifty packets."""

MAX_WAITING_REQUESTS: Final = 16
"""Pipelined requests of a connection that wait for the response before them."""

# The handshake's parser has its own bound for a line, which 9 kB of cookies pass over HTTP and not for a WebSocket.
http11.MAX_LINE_LENGTH = 2 * MAX_HEAD_BYTES


class RefusedRequestError(Exception):
    """Stops the parser in the middle of what was read: a limit of this module is reached."""

    def __init__(self, status: HTTPStatus, reason: str, message: str) -> None:
        """`reason`: for `refusals.refused`. `message`: for the client."""
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.message = message


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a deadline for each request, and limits of its head, its body and its followers."""

    transport: ClientTransport

    _budget = 2 * MAX_HEAD_BYTES
    """Bytes that may still be read, before the parser has made a header or a part of a body of them."""
    _head_bytes = 0
    _body_bytes = 0
    _body_pieces = 0
    _items = 0
    _receives = False
    """Whether a request has begun and is not complete."""
    _answered_early = False
    """Whether it was answered all the same: another response would be that of the next request."""
    _running: RequestResponseCycle | None = None
    """The request whose response is sent; others wait in `pipeline`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.transport.set_deadline(BEYOND_WITHIN_S if self.transport.beyond is not None else REQUEST_WITHIN_S)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. Unlike uvicorn, keep the time limit of an idle connection until a request begins."""
        self._budget -= len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, RefusedRequestError):
                cause = RefusedRequestError(HTTPStatus.BAD_REQUEST, "not_http", "The request is not valid HTTP.")
            self._refuse(cause)
        else:
            if self._budget < 0:
                self._refuse(_head_too_large())

    def on_message_begin(self) -> None:
        """See `httptools.HttpRequestParser`."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._head_bytes = self._body_bytes = self._body_pieces = self._items = 0
        self._receives, self._answered_early = True, False
        extensions: dict[str, Any] = {CONNECTION: self.transport}
        self.scope["extensions"] = extensions
        if not self.transport.has_deadline:
            self.transport.set_deadline(REQUEST_WITHIN_S)

    def on_url(self, url: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._count_head(len(name) + len(value))
        if name.lower() in LISTS:
            self._items += 1 + value.count(b",") + value.count(b";")
            if self._items > MAX_ITEMS:
                text = f"Headers that are lists have more than {MAX_ITEMS} items."
                raise RefusedRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_items", text)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        super().on_headers_complete()
        if len(self.pipeline) > MAX_WAITING_REQUESTS:
            text = f"More than {MAX_WAITING_REQUESTS} requests wait on this connection."
            raise RefusedRequestError(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests_wait", text)
        if not self.pipeline:
            self._running = self.cycle
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and self.transport.beyond is not None:
            cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._budget += (1 + FRAMING_PER_BYTE) * len(body)
        self._body_bytes += len(body)
        self._body_pieces += 1
        if self._body_pieces > MAX_BODY_PIECES:
            raise RefusedRequestError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "too_many_pieces",
                f"The body arrived in more than {MAX_BODY_PIECES} pieces: send larger chunks.",
            )
        if self._body_bytes > MAX_BODY_BYTES:
            raise RefusedRequestError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", f"The body has more than {MAX_BODY_BYTES} bytes."
            )
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        if self.transport.beyond is None:
            self.transport.set_deadline(None)
        if self._answers:
            self.transport.busy()
        self._budget = 2 * MAX_HEAD_BYTES
        self._receives = self._answered_early = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        self._running = self.pipeline[-1][0] if self.pipeline else None
        if self._running is None:
            self.transport.silent()
        super().on_response_complete()
        self._answered_early = self._receives and self._running is None

    def handle_websocket_upgrade(self) -> None:
        """See `HttpToolsProtocol`. Refuse all but version 13 over HTTP/1.1 (RFC 6455, section 4.2)."""
        versions = [value for name, value in self.headers if name == b"sec-websocket-version"]
        if self.scope["http_version"] != "1.1":
            self._refuse(RefusedRequestError(HTTPStatus.BAD_REQUEST, "old_http", "A WebSocket needs HTTP/1.1."))
        elif self._answers:
            text = "A WebSocket cannot be opened while a request on this connection is answered."
            self._refuse(RefusedRequestError(HTTPStatus.BAD_REQUEST, "pipelined_upgrade", text))
        elif versions != [b"13"]:
            text = "The version of the WebSocket protocol must be 13."
            self._refuse(RefusedRequestError(HTTPStatus.UPGRADE_REQUIRED, "websocket_version", text))
        else:
            if self.transport.beyond is None:
                self.transport.set_deadline(None)
                self.transport.busy()
            # Nothing is read until the socket is taken over: uvicorn's parser has no limits.
            safe_writes.pause_reading(self.transport)
            super().handle_websocket_upgrade()
            # The parser refers to this protocol, and nothing would end the reference cycle.
            self.parser = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`. A client that reads a response slowly is served; one that does not read is not."""
        super().pause_writing()
        self.transport.require_progress()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        self.transport.stop_requiring_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        super().connection_lost(exc)
        # After a reset uvicorn leaves its timer, which would keep this protocol for half a minute.
        self._unset_keepalive_if_required()
        # Each request that still waits refers to this protocol, and nothing would end the reference cycle.
        self.pipeline.clear()
        self.cycle = self._running = None  # type: ignore[assignment]

    @property
    def _answers(self) -> bool:
        """Whether a request has no complete response yet."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            raise _head_too_large()

    def _refuse(self, refusal: RefusedRequestError) -> None:
        """Answer with an error and close the connection; only close it if a response is being sent."""
        if self.transport.is_closing():
            return
        refused(refusal.reason)
        running = self._running
        if self._answered_early:
            self.transport.linger()
            return
        if running is not None and running.response_started and not running.response_complete:
            self.transport.abort()
            return
        body = msgspec.json.encode({"error": {"code": "bad_frame", "message": refusal.message}})
        upgrade = b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        head = (
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n%b\r\n"
            % (
                refusal.status,
                refusal.status.phrase.encode(),
                len(body),
                upgrade if refusal.status is HTTPStatus.UPGRADE_REQUIRED else b"",
            )
        )
        safe_writes.write(self.transport, head + body)
        self.transport.linger()


def _head_too_large() -> RefusedRequestError:
    text = f"The request has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers before its body."
    return RefusedRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", text)


def http_protocol(connections: Connections[ClientTransport], proxies: Proxies | None = None) -> Any:
    """Return what `uvicorn.Config(http=...)` takes: a function that makes the protocol of each new connection."""

    turns = ReadTurns()

    def make(**arguments: Any) -> ClientTransport:
        return ClientTransport(HttpProtocol(**arguments), connections, proxies, turns)

    return make
