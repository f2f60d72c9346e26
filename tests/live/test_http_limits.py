"""The limits of HTTP connections and requests, each from both sides: what a client without a token can reach."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from starlette.responses import PlainTextResponse

from gateway.connections import MAX_RESERVED, MIN_SILENT_S, Connections
from gateway.operations import metrics_server
from gateway.operations.metrics_server import MetricsServer
from gateway.origins import Hosts
from gateway.transports import client_transport, http_protocol
from gateway.transports.client_transport import CONNECTION
from gateway.transports.http_protocol import (
    MAX_BODY_BYTES,
    MAX_BODY_PIECES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_ITEMS,
    MAX_WAITING_REQUESTS,
)
from tests.live.test_rfc6455 import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

pytestmark = pytest.mark.live

SECONDS: Final = 10.0
REQUEST: Final = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Application:
    """Answers `/wait` when it is told to, `/stream` with an endless body, and everything else at once."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.started = 0
        self.body = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
            return
        self.started += 1
        if scope["path"] == "/wait":
            await self.go.wait()
        if scope["path"] == "/read":
            more = True
            while more:
                message = await receive()
                self.body += len(message.get("body", b""))
                more = message.get("more_body", False)
        beyond = scope["extensions"][CONNECTION].beyond
        text = beyond.value.encode() if beyond is not None else b"ok"
        headers = [] if scope["path"] == "/stream" else [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text, "more_body": scope["path"] == "/stream"})
        if scope["path"] == "/stream":
            while (await receive())["type"] != "http.disconnect":
                pass


class Raw:
    """An HTTP client that sends raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def status(self) -> int:
        """Return the status of the next response, and read it whole."""
        async with asyncio.timeout(SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            self.head, self.body = head, await self.reader.readexactly(length)
            return int(head.split(b" ")[1])

    async def closed(self, seconds: float = SECONDS) -> bytes:
        """Return what else is sent until the connection ends."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("more", [0, 1])
async def test_pipelined_requests_are_limited(more: int) -> None:
    application = Application()
    async with served(application) as port, client(port) as raw:
        raw.writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n" + REQUEST * (MAX_WAITING_REQUESTS + more))
        if more:
            assert await raw.status() == 429
            assert b"requests wait" in raw.body
            raw.writer.write_eof()
            assert await raw.closed() == b""
            assert application.started == 1
        else:
            await until(lambda: application.started)
            application.go.set()
            for _ in range(1 + MAX_WAITING_REQUESTS):
                assert await raw.status() == 200
        application.go.set()


async def test_pipelined_requests_are_read_in_pieces() -> None:
    """A flood of requests behind one that waits: the first piece that is too much ends the connection."""
    application = Application()
    async with served(application) as port, client(port) as raw:
        raw.writer.write(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await raw.reader.readuntil(b"ok\r\n")
        raw.writer.write(REQUEST * 20_000)
        # A response has begun, so no error can be sent within it.
        assert await raw.closed() == b""
        assert application.started == 1


@pytest.mark.parametrize(("size", "status"), [(MAX_HEAD_BYTES, 200), (MAX_HEAD_BYTES + 1, 431)])
@pytest.mark.parametrize("parts", [1, 8])
async def test_head_of_a_request_is_limited(size: int, status: int, parts: int) -> None:
    """The target, and the names and values of headers; in one header or in several."""
    left = size - len("/echo") - len("hostlocalhost")
    names = [f"x-{number}" for number in range(parts)]
    left -= sum(len(name) for name in names)
    values = ["v" * (left // parts)] * (parts - 1)
    values.append("v" * (left - sum(map(len, values))))
    head = "".join(f"{name}: {value}\r\n" for name, value in zip(names, values, strict=True))
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n" + head.encode() + b"\r\n")
        assert await raw.status() == status


@pytest.mark.parametrize(("count", "status"), [(MAX_HEADERS, 200), (MAX_HEADERS + 1, 431)])
async def test_number_of_headers_is_limited(count: int, status: int) -> None:
    head = b"".join(b"x-%d: v\r\n" % number for number in range(count - 1))
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
        assert await raw.status() == status


async def test_header_without_an_end_is_refused() -> None:
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(b"GET /echo HTTP/1.1\r\nHost: localhost\r\nx: " + b"v" * (3 * MAX_HEAD_BYTES))
        assert await raw.status() == 431


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES - 1000, MAX_HEAD_BYTES + 1])
async def test_head_of_a_handshake_has_the_same_limit(size: int) -> None:
    """The application refuses the handshake with 403: it has passed the limits."""
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(handshake(f"Cookie: {'c' * size}"))
        assert await raw.status() == (431 if size > MAX_HEAD_BYTES else 403)


def handshake(*headers: str, version: str = "Sec-WebSocket-Version: 13", http: str = "1.1") -> bytes:
    lines = [f"GET / HTTP/{http}", "Host: localhost", "Connection: Upgrade", "Upgrade: websocket", version]
    return "\r\n".join([*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers, "\r\n"]).encode()


@pytest.mark.parametrize("version", ["Sec-WebSocket-Version: 12", "Sec-WebSocket-Version: 8, 13", "X-None: 13"])
async def test_other_version_is_refused_with_the_right_one(version: str) -> None:
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(handshake(version=version))
        assert await raw.status() == 426
        assert b"sec-websocket-version: 13\r\n" in raw.head.lower()


async def test_upgrade_over_http_1_0_is_refused() -> None:
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(handshake(http="1.0"))
        assert await raw.status() == 400


async def test_upgrade_behind_an_open_request_is_refused() -> None:
    application = Application()
    async with served(application) as port, client(port) as raw:
        raw.writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n" + handshake())
        assert await raw.status() == 400
        application.go.set()


@pytest.mark.parametrize(("size", "status"), [(MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413)])
async def test_body_is_limited(size: int, status: int) -> None:
    application = Application()
    async with served(application) as port, client(port) as raw:
        raw.writer.write(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + b"b" * size)
        assert await raw.status() == status
        assert application.body <= MAX_BODY_BYTES


async def test_text_that_is_not_http_is_refused() -> None:
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert await raw.status() == 400


async def test_refused_client_that_sends_on_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_transport, "LINGER_WITHIN_S", 0.5)
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(b"\xff\r\n\r\n" + b"x" * (4 * client_transport.MAX_DISCARDED_BYTES))
        assert await raw.status() == 400
        await raw.closed()


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n\r\n"], ids=["nothing", "line", "lines"])
async def test_idle_connection_is_closed_whatever_it_sends(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("tests.live.test_rfc6455.IDLE_WITHIN_S", 1)
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(REQUEST)
        assert await raw.status() == 200
        raw.writer.write(sent)
        assert await raw.closed() == b""


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"G", REQUEST[:-2]], ids=["nothing", "line", "letter", "half"])
@pytest.mark.parametrize("served_before", [0, 1])
async def test_request_without_an_end_is_closed(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, served_before: int
) -> None:
    monkeypatch.setattr(http_protocol, "REQUEST_WITHIN_S", 0.5)
    monkeypatch.setattr("tests.live.test_rfc6455.IDLE_WITHIN_S", 1)
    async with served(Application()) as port, client(port) as raw:
        for _ in range(served_before):
            raw.writer.write(REQUEST)
            assert await raw.status() == 200
        raw.writer.write(sent)
        assert await raw.closed() == b""


async def test_request_in_progress_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "REQUEST_WITHIN_S", 0.2)
    monkeypatch.setattr("tests.live.test_rfc6455.IDLE_WITHIN_S", 0.2)
    application = Application()
    async with served(application) as port, client(port) as raw:
        raw.writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        asyncio.get_running_loop().call_later(1.0, application.go.set)
        assert await raw.status() == 200


async def test_connection_beyond_the_limit_has_one_request() -> None:
    application = Application()
    async with served(application, Connections(2)) as port, client(port) as first, client(port) as second:
        for raw in (first, second):
            raw.writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: application.started == 2)
        async with client(port) as third:
            third.writer.write(REQUEST * 2)
            assert await third.status() == 200
            assert third.body == b"total"
            assert b"connection: close" in third.head
            assert await third.closed() == b""
        application.go.set()
        for raw in (first, second):
            assert await raw.status() == 200


async def test_silent_connection_makes_room_for_a_newer_one() -> None:
    async with served(Application(), Connections(2)) as port, client(port) as first, client(port) as second:
        for raw in (first, second):
            raw.writer.write(REQUEST)
            assert await raw.status() == 200
        # As long as a silent connection keeps its place.
        await asyncio.sleep(MIN_SILENT_S)
        async with client(port) as third:
            third.writer.write(REQUEST)
            assert await third.status() == 200
            assert third.body == b"ok"
            assert await first.closed() == b""


async def test_reserved_connections_are_limited() -> None:
    """When one address holds every place, the newest connection is still answered."""
    application = Application()
    connections: Connections[Any] = Connections(3)
    async with served(application, connections) as port, AsyncExitStack() as stack:
        held = [await stack.enter_async_context(client(port)) for _ in range(3)]
        for raw in held:
            raw.writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: application.started == 3)
        for _ in range(2 * MAX_RESERVED):
            await stack.enter_async_context(client(port))
        await until(lambda: len(connections) == 3 + MAX_RESERVED)
        async with client(port) as last:
            last.writer.write(REQUEST)
            assert await last.status() == 200
        assert len(connections) <= 3 + MAX_RESERVED
        application.go.set()


async def test_connection_beyond_the_limit_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "BEYOND_WITHIN_S", 0.5)
    application = Application()
    async with served(application, Connections(1)) as port, client(port) as first, client(port) as second:
        first.writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: application.started)
        second.writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
        third = await asyncio.open_connection("127.0.0.1", port)
        assert await Raw(*third).closed() == b""
        third[1].close()
        application.go.set()


async def test_connections_of_the_metrics_port_are_limited() -> None:
    async def ready() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    running = asyncio.create_task(MetricsServer(ready, Hosts(None)).run_on(listener))
    try:
        async with AsyncExitStack() as clients:
            for number in range(metrics_server.MAX_CONNECTIONS + MAX_RESERVED):
                raw = await clients.enter_async_context(client(port))
                raw.writer.write(request)
                assert await raw.status() == 200
                # Beyond the limit a connection has one request.
                assert (b"connection: close" in raw.head.lower()) == (number >= metrics_server.MAX_CONNECTIONS)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("loopback", "hosts", "status"),
    [
        (True, "Host: localhost\r\n", 200),
        (True, "Host: 127.0.0.1:9000\r\n", 200),
        (True, "Host: rebound.example\r\n", 403),
        (True, "Host: localhost\r\nHost: localhost\r\n", 403),
        (False, "Host: any.example\r\n", 200),
        (False, "Host: any.example\r\nHost: other.example\r\n", 403),
    ],
)
async def test_metrics_port_on_loopback_serves_its_own_names(loopback: bool, hosts: str, status: int) -> None:
    async def ready() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    running = asyncio.create_task(MetricsServer(ready, Hosts(() if loopback else None)).run_on(listener))
    try:
        async with client(port) as raw:
            raw.writer.write(f"GET /metrics HTTP/1.1\r\n{hosts}\r\n".encode())
            assert await raw.status() == status
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


UPGRADE: Final = (
    "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize(
    ("method", "headers", "body", "status"),
    [
        ("GET", "Content-Length: 5\r\n", b"hello", 400),
        ("GET", "Content-Length: 5\r\n", b"", 400),
        ("GET", "Content-Length: 00\r\n", b"", 400),
        ("GET", "Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", 400),
        ("POST", "", b"", 405),
        ("PUT", "Content-Length: 5\r\n", b"hello", 400),
    ],
)
async def test_handshake_with_a_body_is_refused_and_closed(method: str, headers: str, body: bytes, status: int) -> None:
    """The library leaves it open, without an answer and unread: each took a descriptor for ever."""
    connections: Connections[Any] = Connections(10)
    async with served(Application(), connections) as port, client(port) as raw:
        raw.writer.write(f"{method} /v1/ws HTTP/1.1\r\n{UPGRADE}{headers}\r\n".encode() + body)
        assert await raw.status() == status
        raw.writer.close()
        await until(lambda: not len(connections))


async def test_reset_connection_is_freed_at_once() -> None:
    """Not after the 30 seconds that an idle connection may stay open: without a token 48,000 took 330 MB."""

    def protocols() -> int:
        return sum(type(each) is http_protocol.HttpProtocol for each in gc.get_objects())

    before = protocols()
    async with served(Application()) as port:
        for _ in range(50):
            async with client(port) as raw:
                raw.writer.write(REQUEST)
                assert await raw.status() == 200
                raw.writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
        await until(lambda: protocols() <= before)


@pytest.mark.parametrize("name", ["Connection", "Sec-WebSocket-Protocol", "X-Forwarded-For", "Range"])
@pytest.mark.parametrize("more", [0, 1])
async def test_items_of_headers_that_are_lists_are_limited(name: str, more: int) -> None:
    """Each item is an object of Python: 16,000 names take 15 ms, before a request has its turn."""
    items = ",".join(["a"] * (MAX_ITEMS + more))
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(f"GET /echo HTTP/1.1\r\nHost: localhost\r\n{name}: {items}\r\n\r\n".encode())
        assert await raw.status() == (431 if more else 200)
        if more:
            assert b"items" in raw.body


@pytest.mark.parametrize("name", ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Upgrade"])
async def test_items_of_a_handshake_are_limited(name: str) -> None:
    head = "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(f"{head}{name}: {';'.join(['a'] * MAX_ITEMS)}\r\n\r\n".encode())
        assert await raw.status() == 431


@pytest.mark.parametrize("more", [0, 1])
async def test_pieces_of_a_body_are_limited(more: int) -> None:
    """A body in chunks of one byte: each is a call of Python."""
    application = Application()
    async with served(application) as port, client(port) as raw:
        chunks = b"1\r\na\r\n" * (MAX_BODY_PIECES - 50 + 100 * more)
        raw.writer.write(b"POST /read HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        if not more:
            raw.writer.write(b"0\r\n\r\n")
        assert await raw.status() == (413 if more else 200)
        assert b"pieces" in raw.body or not more


async def test_connection_serves_the_next_request_after_a_body_that_came_late() -> None:
    """`/echo` answers before the body is complete: many clients send it in a separate packet."""
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        assert await raw.status() == 200
        raw.writer.write(b"x" * 999 + REQUEST)
        assert await raw.status() == 200


async def test_body_that_came_late_has_the_same_limits_and_no_second_response() -> None:
    async with served(Application()) as port, client(port) as raw:
        raw.writer.write(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await raw.status() == 200
        raw.writer.write(b"1\r\nx\r\n" * (http_protocol.MAX_BODY_PIECES + 1) + b"0\r\n\r\n" + REQUEST)
        raw.writer.write_eof()
        assert await raw.closed() == b""
