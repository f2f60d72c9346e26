"""`DirectSocket` under the real server: closing, backpressure, and a take-over with unread data."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
from uvicorn.protocols.utils import ClientDisconnected

from gateway.frame_batch import FrameBatch
from gateway.frame_codec import HEARTBEAT_FRAME
from gateway.transports.uvicorn_protocol import TAKE_OVER
from tests.live.test_rfc6455 import CLOSE, frame, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from gateway.transports.direct_socket import DirectSocket

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]

LARGE: Final = 1 << 22
HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class RecordingConnection:
    """A substitute for `Connection` that records the calls of its socket."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def receive(self, data: str | bytes) -> None:
        self.calls.append("received")

    def pause_writing(self) -> None:
        self.calls.append("paused")

    def resume_writing(self) -> None:
        self.calls.append("resumed")

    def closing(self) -> None:
        self.calls.append("closing")

    def connection_lost(self) -> None:
        self.calls.append("lost")


class Application:
    """Sends a large body for a request, and takes over every WebSocket."""

    def __init__(self) -> None:
        self.taken: list[tuple[DirectSocket, RecordingConnection]] = []
        self.refused = False
        self.port = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(b"content-length", b"%d" % LARGE)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": bytes(LARGE)})
            return
        await receive()
        await send({"type": "websocket.accept"})
        try:
            taken: DirectSocket = scope["extensions"][TAKE_OVER]()
        except ClientDisconnected:
            self.refused = True
            raise
        connection: Any = RecordingConnection()
        self.taken.append((taken, connection))
        await taken.serve(connection)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def application() -> AsyncIterator[Application]:
    """An application that is served."""
    made = Application()
    async with served(made) as made.port:
        yield made


async def connected(application: Application) -> socket.socket:
    """A client with a small buffer, that does not wait."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", application.port))
    return client


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_connection_is_detached_before_close_is_answered(application: Application) -> None:
    """No frame may follow a close frame (RFC 6455, section 5.5.1), and the connection writes frames."""
    loop = asyncio.get_running_loop()
    with await connected(application) as client:
        await loop.sock_sendall(client, HANDSHAKE)
        assert b" 101 " in await loop.sock_recv(client, 4096)
        taken, connection = application.taken[-1]
        taken.write(FrameBatch((HEARTBEAT_FRAME,)))
        await loop.sock_sendall(client, frame(CLOSE, (1000).to_bytes(2)))
        await until(lambda: "closing" in connection.calls)
        received = b""
        while piece := await loop.sock_recv(client, 4096):
            received += piece
        assert received.endswith(bytes((0x80 | CLOSE, 2)) + (1000).to_bytes(2))
        await until(lambda: "lost" in connection.calls)
        assert connection.calls == ["closing", "lost"]


async def test_unread_data_pauses_writing_until_it_is_read(application: Application) -> None:
    loop = asyncio.get_running_loop()
    with await connected(application) as client:
        await loop.sock_sendall(client, HANDSHAKE)
        assert b" 101 " in await loop.sock_recv(client, 4096)
        taken, connection = application.taken[-1]
        assert taken.direct_write is not None
        taken.direct_write(bytes(LARGE))
        assert connection.calls == ["paused"]
        left = LARGE
        while left:
            left -= len(await loop.sock_recv(client, 1 << 16))
        await until(lambda: connection.calls == ["paused", "resumed"])


async def test_transport_with_unread_response_is_not_taken_over(application: Application) -> None:
    """The transport paused the former protocol and would not pause the new one."""
    loop = asyncio.get_running_loop()
    before = len(application.taken)
    with await connected(application) as client:
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await loop.sock_recv(client, 16)
        await loop.sock_sendall(client, HANDSHAKE)
        # Nothing is read here, so the response stays in the write buffer.
        await until(lambda: application.refused)
    assert len(application.taken) == before
