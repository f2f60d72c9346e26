"""RFC 6455, case by case: the protocol class of `/v1/ws` with an application that sends back what it receives.

Framing, pings, reserved bits, opcodes, fragmentation, UTF-8, the closing handshake, limits; each also with data that
arrives byte by byte. The cases of the Autobahn test suite are in test_autobahn.py.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from websockets.frames import Frame, Opcode

from gateway import frame_budget
from gateway.connections import Connections
from gateway.frame_batch import FrameBatch
from gateway.transports.http_protocol import IDLE_WITHIN_S, http_protocol
from gateway.transports.uvicorn_protocol import TAKE_OVER, WebSocketProtocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.websockets import WebSocket

    from gateway.transports.direct_socket import DirectSocket

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
LARGEST: Final = 1 << 20
KEY: Final = bytes((0x37, 0xFA, 0x21, 0x3D))
UTF8: Final = "Hello-µ@ßöäüàá-UTF-8!! κόσμε 😀".encode()


class Message(FrameBatch):
    """A message as it was received."""

    def __init__(self, data: str | bytes) -> None:
        super().__init__()
        opcode = Opcode.TEXT if isinstance(data, str) else Opcode.BINARY
        self._encoded = Frame(opcode, data.encode() if isinstance(data, str) else data).serialize(mask=False)


class Echo:
    """A substitute for `Connection` that sends each message back."""

    def __init__(self, socket: DirectSocket) -> None:
        self._socket = socket

    def receive(self, data: str | bytes) -> None:
        self._socket.write(Message(data))

    def pause_writing(self) -> None:
        pass

    def closing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self) -> None:
        pass


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    direct: DirectSocket = socket.scope["extensions"][TAKE_OVER]()
    connection: Any = Echo(direct)
    await direct.serve(connection)


@asynccontextmanager
async def served(application: Any, connections: Connections[Any] | None = None) -> AsyncIterator[int]:
    """Serve an ASGI application with the protocols of the gateway; yield the port."""
    config = uvicorn.Config(
        application,
        port=0,
        log_config=None,
        access_log=False,
        lifespan="off",
        http=http_protocol(Connections(1000) if connections is None else connections),
        ws=WebSocketProtocol,
        ws_max_size=LARGEST,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=IDLE_WITHIN_S,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@pytest.fixture(autouse=True)
def no_frame_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases send more frames at once than clients may; tests/live/test_bad_input.py reaches that limit."""
    monkeypatch.setattr(frame_budget, "MAX_FRAMES_BEFORE_MESSAGE", 1 << 30)
    monkeypatch.setattr(frame_budget, "MAX_BURST_FRAMES", 1 << 30)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port() -> AsyncIterator[int]:
    """The port of the echo application."""
    async with served(Starlette(routes=[WebSocketRoute("/", echo)])) as where:
        yield where


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """Return a frame of a client (RFC 6455, section 5.2)."""
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    mask = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mask | len(payload)])
    elif len(payload) < 1 << 16:
        head += struct.pack("!BH", mask | 126, len(payload))
    else:
        head += struct.pack("!BQ", mask | 127, len(payload))
    if not masked:
        return head + payload
    return head + KEY + bytes(byte ^ KEY[number % 4] for number, byte in enumerate(payload))


class Raw:
    """A client that sends raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *frames: bytes, chop: int = 0) -> None:
        data = b"".join(frames)
        for begin in range(0, len(data), chop or len(data)):
            self._writer.write(data[begin : begin + (chop or len(data))])
            if chop:
                await asyncio.sleep(0)
        await self._writer.drain()

    async def receive(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame, which is final and not masked."""
        async with asyncio.timeout(10):
            first, length = await self._reader.readexactly(2)
            assert first & 0xF0 == 0x80
            assert not length & 0x80
            if length == 126:
                (length,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
            return first & 0x0F, await self._reader.readexactly(length)

    async def closed(self) -> int | None:
        """Return the code of the close frame; the connection must end after it."""
        opcode, payload = await self.receive()
        assert opcode == CLOSE, (opcode, payload[:100])
        try:
            async with asyncio.timeout(10):
                assert await self._reader.read(1) == b""
        except ConnectionResetError:
            # Data that followed the cause of the close was not read.
            pass
        return int(struct.unpack("!H", payload[:2])[0]) if payload else None

    async def close(self) -> None:
        self._writer.transport.abort()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    raw = Raw(reader, writer)
    try:
        yield raw
    finally:
        await raw.close()


@pytest.mark.parametrize("chop", [0, 1, 997])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65_535, 65_536])
async def test_message_of_any_length_is_echoed(port: int, opcode: int, size: int, chop: int) -> None:
    if chop == 1 and size > 1000:
        chop = 8191
    payload = b"*" * size if opcode == TEXT else bytes(number % 256 for number in range(size))
    async with client(port) as raw:
        await raw.send(frame(opcode, payload), chop=chop)
        assert await raw.receive() == (opcode, payload)


@pytest.mark.parametrize("size", [LARGEST // 16, LARGEST // 4, LARGEST])
@pytest.mark.parametrize("pieces", [1, 64])
async def test_message_size_limit(port: int, size: int, pieces: int) -> None:
    payload = b"x" * size
    step = size // pieces
    async with client(port) as raw:
        for number in range(pieces):
            part = payload[number * step : (number + 1) * step]
            await raw.send(frame(CONTINUATION if number else BINARY, part, fin=number == pieces - 1))
        assert await raw.receive() == (BINARY, payload)
        await raw.send(frame(BINARY, b"x" * LARGEST + b"y"))
        assert await raw.closed() == 1009


@pytest.mark.parametrize("payload", [b"", b"Hello", bytes((0, 255, 254, 253)), b"\xfe" * 125])
@pytest.mark.parametrize("chop", [0, 1])
async def test_pings_are_answered(port: int, payload: bytes, chop: int) -> None:
    async with client(port) as raw:
        # An unsolicited pong is ignored.
        await raw.send(frame(PONG, b"?"), *[frame(PING, payload)] * 10, chop=chop)
        for _ in range(10):
            assert await raw.receive() == (PONG, payload)


@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
async def test_reserved_bits_are_closed_with_1002(port: int, opcode: int, reserved: int) -> None:
    async with client(port) as raw:
        await raw.send(frame(TEXT, b"before"))
        assert await raw.receive() == (TEXT, b"before")
        await raw.send(frame(opcode, b"\x03\xe8" * (opcode == CLOSE), reserved=reserved))
        assert await raw.closed() == 1002


BROKEN: Final = {
    **{f"opcode {opcode}": frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a ping of 126 bytes": frame(PING, b"x" * 126),
    "a ping in two fragments": frame(PING, b"x", fin=False) + frame(CONTINUATION, b"y"),
    "a pong in two fragments": frame(PONG, b"x", fin=False) + frame(CONTINUATION, b"y"),
    "a continuation of nothing": frame(CONTINUATION, b"x"),
    "the first fragment's continuation was the last": frame(TEXT, b"x") + frame(CONTINUATION, b"y"),
    "a message within a message": frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"),
    "no mask": frame(TEXT, b"x", masked=False),
    "a close of one byte": frame(CLOSE, b"\x03"),
    "a close of 126 bytes": frame(CLOSE, b"\x03\xe8" + b"x" * 124),
    **{
        f"close code {code}": frame(CLOSE, struct.pack("!H", code))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("name", BROKEN)
async def test_protocol_violation_is_closed_with_1002(port: int, name: str) -> None:
    async with client(port) as raw:
        await raw.send(BROKEN[name])
        received: Any = None
        while received is None or received[0] != CLOSE:
            received = await raw.receive()
        assert struct.unpack("!H", received[1][:2]) == (1002,)


@pytest.mark.parametrize("chop", [0, 1])
async def test_fragmented_message_is_echoed(port: int, chop: int) -> None:
    async with client(port) as raw:
        await raw.send(
            frame(TEXT, UTF8[:7], fin=False),
            frame(PING, b"between"),
            frame(CONTINUATION, b"", fin=False),
            frame(CONTINUATION, UTF8[7:]),
            frame(BINARY, b"", fin=False),
            frame(CONTINUATION, b""),
            chop=chop,
        )
        # A pong leaves before the answer to a message that ends after its ping.
        received = [await raw.receive() for _ in range(3)]
        assert received == [(PONG, b"between"), (TEXT, UTF8), (BINARY, b"")]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_utf8_may_be_split_anywhere(port: int, size: int) -> None:
    parts = [UTF8[begin : begin + size] for begin in range(0, len(UTF8), size)]
    async with client(port) as raw:
        last = len(parts) - 1
        frames = [frame(CONTINUATION if n else TEXT, part, fin=n == last) for n, part in enumerate(parts)]
        await raw.send(*frames)
        assert await raw.receive() == (TEXT, UTF8)


VALID: Final = [
    "",
    "\x00",
    "\x7f",
    "\x80",
    "\u07ff",
    "\u0800",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U00010000",
    "\U0010ffff",
]
INVALID: Final = [
    *(b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited", b"\xf4\x90\x80\x80", b"\x80", b"\xbf", b"\xc0\xaf", b"\xe0\x80\xaf"),
    *(
        b"\xf0\x80\x80\xaf",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xfe",
        b"\xff",
        b"\xce",
        b"\xe1\xbd",
    ),
    *(b"\xf0\x90\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80", b"\xc1\xbf", b"ok\xce"),
]


@pytest.mark.parametrize("text", VALID)
async def test_valid_utf8_is_echoed(port: int, text: str) -> None:
    async with client(port) as raw:
        await raw.send(frame(TEXT, text.encode()))
        assert await raw.receive() == (TEXT, text.encode())


@pytest.mark.parametrize("data", INVALID)
@pytest.mark.parametrize("where", ["message", "fragments", "close reason"])
async def test_invalid_utf8_is_closed_with_1007(port: int, data: bytes, where: str) -> None:
    frames = {
        "message": [frame(TEXT, data)],
        "fragments": [frame(TEXT, data[:1], fin=False), frame(CONTINUATION, data[1:])],
        "close reason": [frame(CLOSE, b"\x03\xe8" + data)],
    }
    async with client(port) as raw:
        await raw.send(*frames[where])
        assert await raw.closed() == 1007


@pytest.mark.parametrize("code", [None, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
@pytest.mark.parametrize("reason", [b"", b"Hello World!", b"*" * 123])
async def test_close_is_answered_with_same_code(port: int, code: int | None, reason: bytes) -> None:
    async with client(port) as raw:
        said = struct.pack("!H", code) + reason if code is not None else b""
        await raw.send(frame(TEXT, b"Hello"))
        assert await raw.receive() == (TEXT, b"Hello")
        # Frames after a close are ignored.
        await raw.send(frame(CLOSE, said), frame(PING), frame(TEXT, b"?"))
        assert await raw.closed() == code
