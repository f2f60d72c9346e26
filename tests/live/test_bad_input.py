"""Bad input at a real gateway: each kind has its answer, other clients are unaffected, and no secret is logged.

One gateway for the whole module logs at debug level. A witness reads one long answer over one socket from the first
test to the last; after each test it must have received the next words exactly.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import socket
import statistics
import struct
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jwt
import pytest
import pytest_asyncio

from gateway import session, wire
from gateway.frame_budget import MAX_BURST_FRAMES, MAX_FRAMES_BEFORE_MESSAGE
from gateway.streams.history_log import MAX_AHEAD
from gateway.transports import websocket
from tests.live.client import Client
from tests.live.conftest import MODELS, entries, text_of
from tests.live.processes import GatewayProcess, Process, WorkerProcess
from tests.provider_server import ProviderServer, Scenario
from tests.stores import RealServer
from workers.providers import demo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="module")]

SEED: Final = 20261122
FUZZED: Final = 3000
JWT_KEY: Final = "planted-key-" + "k" * 32
PROVIDER_KEY: Final = "sk-planted-secret"
PLANTED_TEXT: Final = "planted-text-of-a-person"
ORIGINS: Final = ("https://good.example", "http://good.example:8080")
MAX_PER_ADDRESS: Final = 40
WITNESSED: Final = "/long 100000"
SHOWN: Final = demo.answer(WITNESSED)
IMMEDIATELY_S: Final = 5.0
"""Seconds within which an immediate effect must be visible, on a busy machine too."""

MAX_GROWTH_MIB: Final = 3.0
"""Memory that one client may add to the gateway; 0.0 to 1.8 MiB were measured."""

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
ABNORMAL: Final = 1006
"""The close code of a socket that ends without a close frame."""


@dataclass
class GuardedGateway:
    """A gateway with a key, its store, its worker, and every token that it received."""

    server: RealServer
    gateway: GatewayProcess
    worker: WorkerProcess
    provider: ProviderServer
    tokens: list[str] = field(default_factory=list)
    opened: float = field(default_factory=time.monotonic)

    @property
    def port(self) -> int:
        return int(self.gateway.url.rsplit(":", 1)[1])

    def token(self, subject: str = "ann", *conversations: str, key: str = JWT_KEY, **claims: Any) -> str:
        """Return a token that opens `conversations`, by default those that begin with the name of the subject."""
        fields = {
            "sub": subject,
            "exp": time.time() + 600,
            "conversations": list(conversations or [f"{subject}-*"]),
            **claims,
        }
        made = {name: value for name, value in fields.items() if value is not None}
        return self.shown(jwt.encode(made, key, algorithm="HS256"))

    def shown(self, token: str) -> str:
        """Register a token, which no process may print."""
        self.tokens.append(token)
        return token

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.gateway.pid}/fd").iterdir()))

    @property
    def sockets(self) -> float:
        return self.gateway.counts("tokenwire_connections").get('kind="websocket"', 0.0)

    @property
    def memory(self) -> float:
        """Memory of the gateway in MiB."""
        pages = int(Path(f"/proc/{self.gateway.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def complaints(process: Process, planted: list[str]) -> list[str]:
    """Return the output since the last call that a process must not print."""
    printed = process.output[:]
    del process.output[: len(printed)]
    return [
        line
        for line in printed
        if "Traceback" in line or "Exception" in line or any(secret in line for secret in planted)
    ]


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedGateway]:
    with ExitStack() as stack:
        server = stack.enter_context(RealServer())
        provider = stack.enter_context(ProviderServer())
        planted = {"OPENAI_API_KEY": PROVIDER_KEY, "OPENAI_BASE_URL": f"{provider.url}/v1"}
        gateway = stack.enter_context(
            GatewayProcess(
                server.url,
                *("--origins", ",".join(ORIGINS), "--log-level", "debug"),
                *("--sockets-per-address", str(MAX_PER_ADDRESS), "--models", json.dumps(MODELS)),
                TOKENWIRE_JWT_KEY=JWT_KEY,
                # All clients of these tests are one subject; test_http.py reaches its limit.
                TOKENWIRE_REQUESTS="0",
                **planted,
            )
        )
        worker = stack.enter_context(
            WorkerProcess(server.url, "--models", json.dumps(MODELS), "--log-level", "debug", **planted)
        )
        yield GuardedGateway(server, gateway, worker, provider)


@dataclass
class Witness:
    """A client that reads one long answer during all tests."""

    client: Client
    response: str

    @property
    def text(self) -> str:
        return self.client.answer(self.response).text

    async def continues(self) -> None:
        """Wait for the next words; the text so far is right and was received over one socket."""
        seen = len(self.text)
        await self.client.until(lambda: len(self.text) > seen, IMMEDIATELY_S)
        assert self.text == SHOWN[: len(self.text)]
        assert self.client.answer(self.response).resets == []
        assert self.client.transcript.snapshots == 1
        assert self.client.close_code is None
        assert self.client.errors == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def witness(guarded: GuardedGateway) -> AsyncIterator[Witness]:
    async with Client("witness-1", guarded.token("witness")) as client:
        await client.connect(guarded.gateway.socket_url)
        response = await client.ask(WITNESSED)
        seen = Witness(client, response)
        await seen.continues()
        yield seen
        await client.stop(response)
        await client.settled(response)
        assert seen.text == text_of(await entries(guarded.server.url, response))


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def other_clients_are_unaffected(guarded: GuardedGateway, witness: Witness) -> AsyncIterator[None]:
    """After each test: the witness receives more, both processes run, and neither printed a secret or an error."""
    yield
    await witness.continues()
    assert guarded.gateway.running
    assert guarded.worker.running
    # Short texts occur in log lines without being secrets.
    signatures = [signature for token in guarded.tokens if len(signature := token.rpartition(".")[2]) > 20]
    planted = [PROVIDER_KEY, JWT_KEY, PLANTED_TEXT, *guarded.tokens, *signatures]
    for process in (guarded.gateway, guarded.worker):
        assert complaints(process, [secret for secret in planted if secret]) == []


@pytest.fixture
def conversation() -> str:
    """A conversation that the tokens of ann open."""
    return f"ann-{secrets.token_hex(6)}"


def spelled(
    opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, length: int | None = None
) -> bytes:
    """Return a WebSocket frame (RFC 6455, section 5.2), optionally with a false length."""
    claimed = len(payload) if length is None else length
    first, mask = (0x80 if fin else 0) | opcode, 0x80 if masked else 0
    if claimed < 126:
        head = struct.pack("!BB", first, mask | claimed)
    elif claimed < 2**16:
        head = struct.pack("!BBH", first, mask | 126, claimed)
    else:
        head = struct.pack("!BBQ", first, mask | 127, claimed)
    # A zero mask does not change the payload.
    return head + (bytes(4) if masked else b"") + payload


class RawSocket:
    """A WebSocket that sends raw bytes, valid or not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, frame: dict[str, Any] | str | bytes) -> None:
        data = json.dumps(frame) if isinstance(frame, dict) else frame
        self.write(spelled(TEXT, data.encode() if isinstance(data, str) else data))

    async def next(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame; a close frame with 1006 at the end of the connection."""
        try:
            first, second = await self._reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
            return first & 0x0F, await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return CLOSE, struct.pack("!H", ABNORMAL)

    async def received(self, *kinds: str, seconds: float = IMMEDIATELY_S) -> dict[str, Any]:
        """Return the next frame of one of these types."""
        async with asyncio.timeout(seconds):
            while True:
                opcode, payload = await self.next()
                assert opcode != CLOSE, f"closed with {payload!r}"
                if opcode == TEXT:
                    frame: dict[str, Any] = json.loads(payload)
                    if frame["type"] in kinds:
                        return frame

    async def closed(self, seconds: float = IMMEDIATELY_S) -> int:
        """Return the close code of the server."""
        async with asyncio.timeout(seconds):
            while True:
                opcode, payload = await self.next()
                if opcode == CLOSE:
                    return int(struct.unpack("!H", payload[:2])[0])

    async def disconnected(self, seconds: float = IMMEDIATELY_S) -> None:
        """Wait until the connection itself has ended."""
        async with asyncio.timeout(seconds):
            try:
                while await self._reader.read(65_536):
                    pass
            except ConnectionError:
                pass

    async def stays(self, conversation: str) -> None:
        """Check that the socket can still be used."""
        self.send({"type": "watch", "conversation": conversation})
        assert (await self.received("snapshot"))["conversation"] == conversation


def handshake(*headers: str, path: str = "/v1/ws") -> bytes:
    return "\r\n".join(
        [
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *headers,
            "\r\n",
        ]
    ).encode("latin-1")


def events(conversation: str, token: str, *headers: str) -> bytes:
    """Return the request for the event stream of a conversation."""
    lines = [
        f"GET /v1/conversations/{conversation}/events HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
    ]
    return "\r\n".join([*lines, *headers, "\r\n"]).encode()


@asynccontextmanager
async def tcp(
    guarded: GuardedGateway, source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded.port, local_addr=(source, 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def raw(
    guarded: GuardedGateway, *headers: str, source: str = "127.0.0.1", token: str | None = ""
) -> AsyncIterator[RawSocket]:
    """Open a socket after hello with the token of ann, with another one, or (None) before hello."""
    async with tcp(guarded, source) as (reader, writer):
        writer.write(handshake(*headers))
        async with asyncio.timeout(IMMEDIATELY_S):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        opened = RawSocket(reader, writer)
        if token is not None:
            opened.send({"type": "hello", "token": token or guarded.token()})
            await opened.received("ready")
        yield opened


async def until(condition: Callable[[], Any], seconds: float = IMMEDIATELY_S) -> None:
    """Wait for a condition that no frame reports."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


HELD: Final = {
    "nothing": b"",
    "half-a-handshake": handshake()[:40],
    "too-long-a-path": handshake(path="/v1/ws?" + "x" * 10_000),
    "too-many-headers": handshake(*(f"X-{number}: x" for number in range(200))),
    "half-a-body": (
        b"POST /v1/conversations/ann-1/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer TOKEN\r\n"
        b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    ),
}


GARBAGE: Final = {"noise": b"\xff" * 4096, "pings": spelled(PING, b"p") * 1000, "frames": spelled(TEXT, b"{}") * 1000}


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def held(guarded: GuardedGateway) -> AsyncIterator[dict[str, RawSocket]]:
    """Useless connections, opened at the first test; later tests check that they were closed."""
    async with AsyncExitStack() as stack:
        opened = {}
        for name, data in HELD.items():
            opened[name] = RawSocket(*await stack.enter_async_context(tcp(guarded)))
            opened[name].write(data.replace(b"TOKEN", guarded.token().encode()))
        for name, data in GARBAGE.items():
            opened[name] = await stack.enter_async_context(raw(guarded))
            opened[name].write(spelled(BINARY, b"x"))
            assert await opened[name].closed() == wire.Close.NOT_THE_PROTOCOL
            opened[name].write(data)
        yield opened


# F37: size


async def test_message_of_maximum_size_is_read(guarded: GuardedGateway, conversation: str) -> None:
    frame = json.dumps({"type": "watch", "conversation": conversation, "x": ""}).encode()
    padded = frame[:-2] + b"p" * (wire.MAX_FRAME_BYTES - len(frame)) + frame[-2:]
    async with raw(guarded) as opened:
        opened.send(padded)
        await opened.received("snapshot")


@pytest.mark.parametrize("length", [wire.MAX_FRAME_BYTES + 1, 2**31, 2**40, 2**62])
async def test_length_above_limit_is_refused_before_payload(guarded: GuardedGateway, length: int) -> None:
    before = guarded.memory
    async with raw(guarded) as opened:
        opened.write(spelled(TEXT, b"{", length=length))
        assert await opened.closed() == wire.Close.TOO_BIG
    assert guarded.memory - before < MAX_GROWTH_MIB


async def test_length_with_high_bit_is_refused(guarded: GuardedGateway) -> None:
    async with raw(guarded) as opened:
        opened.write(spelled(TEXT, b"{", length=2**63 + 1))
        assert await opened.closed() == wire.Close.TOO_BIG


async def test_fragments_above_size_limit_are_refused(guarded: GuardedGateway) -> None:
    before = guarded.memory
    async with raw(guarded) as opened:
        opened.write(spelled(TEXT, b'{"type":"', fin=False))
        for _ in range(wire.MAX_FRAME_BYTES // 4096):
            opened.write(spelled(CONTINUATION, b"x" * 4096, fin=False))
        assert await opened.closed() == wire.Close.TOO_BIG
    assert guarded.memory - before < MAX_GROWTH_MIB


async def test_message_in_hundred_fragments_is_read(guarded: GuardedGateway, conversation: str) -> None:
    frame = json.dumps({"type": "watch", "conversation": conversation, "x": "y" * 900}).encode()
    begin = len(frame) - 100
    async with raw(guarded) as opened:
        opened.write(spelled(TEXT, frame[:begin], fin=False))
        for byte in frame[begin:-1]:
            opened.write(spelled(CONTINUATION, bytes([byte]), fin=False) + spelled(PING, b"between"))
        opened.write(spelled(CONTINUATION, frame[-1:]))
        assert (await opened.received("snapshot"))["conversation"] == conversation


FLOODS: Final = {
    "empty-fragments": spelled(CONTINUATION, b"", fin=False),
    "fragments-of-a-byte": spelled(CONTINUATION, b"x", fin=False),
    "pings": spelled(PING, b""),
    "pongs": spelled(PONG, b"p"),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("token", ["", None], ids=["after-hello", "before-hello"])
async def test_flood_of_frames_is_refused_and_costs_little(
    guarded: GuardedGateway, witness: Witness, flood: bytes, token: str | None
) -> None:
    held, most, delays = guarded.memory, 0.0, []
    for _ in range(4):
        async with raw(guarded, token=token) as opened:
            opened.write(spelled(TEXT, b"", fin=False))
            try:
                for _ in range(20):
                    opened.write(flood * 5_000)
                    await opened.writer.drain()
                    begun = time.monotonic()
                    await witness.continues()
                    delays.append(time.monotonic() - begun)
                    most = max(most, guarded.memory)
            except ConnectionError:
                # Reset, with the close frame unread, after the time for the closing handshake.
                pass
    print(f"at most {most - held:.1f} MiB more were held; the witness waited {max(delays):.3f} s at most")
    assert most - held < MAX_GROWTH_MIB


@pytest.mark.parametrize("token", ["", None], ids=["after-hello", "before-hello"])
async def test_frames_are_counted_of_any_kind(guarded: GuardedGateway, token: str | None) -> None:
    """As many as the limit allows are served; one more is refused."""
    # `hello` is the first of the frames that count after it.
    allowed = MAX_FRAMES_BEFORE_MESSAGE if token is None else MAX_BURST_FRAMES - 1
    async with raw(guarded, token=token) as opened:
        opened.write(spelled(PING, b"p") * allowed)
        for _ in range(allowed):
            assert await opened.next() == (PONG, b"p")
        opened.write(spelled(PING, b"p") * (1 if token is None else MAX_BURST_FRAMES))
        assert await opened.closed() == wire.Close.TOO_FAST


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("tokenwire", b"tokenwire"), ("chat, tokenwire", b"tokenwire"), ("chat", None), (None, None)],
)
async def test_known_subprotocol_is_echoed(guarded: GuardedGateway, offered: str | None, chosen: bytes | None) -> None:
    async with tcp(guarded) as (reader, writer):
        writer.write(handshake(*([f"Sec-WebSocket-Protocol: {offered}"] if offered else [])))
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    found = [line.partition(b": ")[2] for line in lines if line.startswith(b"sec-websocket-protocol")]
    assert found == ([chosen] if chosen else [])


async def test_frames_of_a_rejected_socket_are_not_parsed_without_end(guarded: GuardedGateway) -> None:
    """A socket beyond a connection limit gets its close frame; what it sends meanwhile is limited like any other's."""
    async with AsyncExitStack() as stack:
        for _ in range(MAX_PER_ADDRESS):
            await stack.enter_async_context(raw(guarded, source="127.0.5.1", token=None))
        async with tcp(guarded, "127.0.5.1") as (reader, writer):
            writer.write(handshake())
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(spelled(PING, b"") * 20_000)
            opened = RawSocket(reader, writer)
            assert await opened.closed() == wire.Close.OVERLOADED
            await opened.disconnected(10.0)


@pytest.mark.parametrize(
    "data",
    [
        spelled(TEXT, b"{}", masked=False),
        spelled(3, b"{}"),
        spelled(0x41, b"{}"),
        spelled(CONTINUATION, b"{}"),
        spelled(TEXT, b"{", fin=False) + spelled(TEXT, b"}"),
        spelled(PING, b"p" * 126),
        spelled(PING, b"p", fin=False),
        spelled(CLOSE, b"\x03"),
        spelled(CLOSE, struct.pack("!H", 999)),
    ],
    ids=[
        "unmasked",
        "opcode",
        "reserved-bit",
        "continues-nothing",
        "interleaved",
        "long-ping",
        "split-ping",
        "c1",
        "c2",
    ],
)
async def test_invalid_websocket_frame_is_a_protocol_error(guarded: GuardedGateway, data: bytes) -> None:
    async with raw(guarded) as opened:
        opened.write(data)
        assert await opened.closed() == 1002


# F38 to F40: content


async def test_binary_frame_is_closed_with_4400(guarded: GuardedGateway) -> None:
    async with raw(guarded) as opened:
        opened.write(spelled(BINARY, b'{"type":"watch","conversation":"ann-1"}'))
        assert await opened.closed() == wire.Close.NOT_THE_PROTOCOL


@pytest.mark.parametrize(
    "data",
    [b"\xff", b'{"type":"\xc3\x28"}', b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b'{"type":"hello"}\xe2\x82'],
    ids=["ff", "broken", "surrogate", "too-high", "overlong", "cut-off"],
)
async def test_text_that_is_not_utf8_is_closed_with_1007(guarded: GuardedGateway, data: bytes) -> None:
    for token in ("", None):
        async with raw(guarded, token=token) as opened:
            opened.write(spelled(TEXT, data))
            assert await opened.closed() == 1007


async def test_close_reason_that_is_not_utf8_is_answered_with_1007(guarded: GuardedGateway) -> None:
    async with raw(guarded) as opened:
        opened.write(spelled(CLOSE, struct.pack("!H", 1000) + b"\xff\xfe"))
        assert await opened.closed() == 1007


def send(**fields: Any) -> str:
    return json.dumps({"type": "send", "key": "k", "conversation": "ann-1", "text": PLANTED_TEXT, **fields})


DEEP: Final = {
    f"{name}-{levels}": frame
    for levels in (1_000, 10_000, 32_000)
    for name, frame in {
        "lists": "[" * levels + "]" * levels,
        "objects": ('{"a":' * levels)[: wire.MAX_FRAME_BYTES],
        "in-text": f'{{"type":"send","key":"k","conversation":"ann-1","text":{"[" * levels}{"]" * levels}}}',
        "in-responses": f'{{"type":"watch","conversation":"ann-1","responses":{"[" * levels}{"]" * levels}}}',
    }.items()
} | {
    "unclosed-50000": "[" * 50_000,
    "unclosed-in-a-field-50000": '{"type":"watch","conversation":"ann-1","x":' + "[" * 50_000,
    "in-a-field-30000": f'{{"type":"watch","conversation":"ann-1","x":{"[" * 30_000}{"]" * 30_000}}}',
}

BAD_FRAMES: Final = {
    "empty": "",
    "space": " ",
    "not-json": "hello",
    "cut-off": '{"type":"watch","conversation":"ann-1"',
    "two": '{"type":"unwatch","conversation":"ann-1"}{"type":"unwatch","conversation":"ann-1"}',
    "comma": '{"type":"unwatch","conversation":"ann-1",}',
    "single-quotes": "{'type':'unwatch'}",
    "comment": '{"type":"unwatch","conversation":"ann-1"}//',
    "byte-order-mark": '\ufeff{"type":"unwatch","conversation":"ann-1"}',
    "null-character": "\x00",
    "control-character": '{"type":"unwatch","conversation":"ann\x01"}',
    "null": "null",
    "number": "1",
    "string": '"hello"',
    "list": '[{"type":"unwatch","conversation":"ann-1"}]',
    "no-type": '{"conversation":"ann-1"}',
    "unknown-type": '{"type":"admin"}',
    "type-of-the-server": '{"type":"delta","response":"r","cursor":"1-1","text":"x"}',
    "type-in-capitals": '{"type":"WATCH","conversation":"ann-1"}',
    "type-is-a-number": '{"type":5}',
    "type-is-null": '{"type":null}',
    "two-types": '{"type":"unwatch","type":"hello","conversation":"ann-1"}',
    "no-conversation": '{"type":"watch"}',
    "no-response": '{"type":"stop"}',
    "no-token": '{"type":"token"}',
    "no-key": '{"type":"send","conversation":"ann-1","text":"x"}',
    "no-text": '{"type":"send","conversation":"ann-1","key":"k"}',
    "conversation-is-a-number": '{"type":"watch","conversation":5}',
    "conversation-is-null": '{"type":"watch","conversation":null}',
    "conversation-is-an-object": '{"type":"watch","conversation":{"$ne":""}}',
    "text-is-a-list": send(text=["x"]),
    "text-is-null": send(text=None),
    "text-is-true": send(text=True),
    "after-is-a-number": '{"type":"watch","conversation":"ann-1","after":5}',
    "responses-is-a-list": '{"type":"watch","conversation":"ann-1","responses":[]}',
    "responses-is-null": '{"type":"watch","conversation":"ann-1","responses":null}',
    "cursor-is-a-number": '{"type":"watch","conversation":"ann-1","responses":{"r":5}}',
    "tokens-as-text": send(max_tokens="5"),
    "tokens-with-a-fraction": send(max_tokens=1.5),
    "tokens-is-true": send(max_tokens=True),
    "no-tokens": send(max_tokens=0),
    "negative-tokens": send(max_tokens=-1),
    "too-many-tokens": send(max_tokens=1_000_001),
    "5000-digits": send(max_tokens=1).replace('"max_tokens": 1', '"max_tokens": ' + "9" * 5000),
    "5000-negative-digits": send(max_tokens=1).replace('"max_tokens": 1', '"max_tokens": -' + "9" * 5000),
    "5000-decimals": send(max_tokens=1).replace('"max_tokens": 1', '"max_tokens": 1.' + "9" * 5000),
    "huge-exponent": send(max_tokens=1).replace('"max_tokens": 1', '"max_tokens": 1e999999999'),
    "nan": send(max_tokens=float("nan")),
    "infinity": send(max_tokens=float("inf")),
    "nan-as-a-type": '{"type":NaN}',
    "nan-in-an-unknown-field": '{"type":"unwatch","conversation":"ann-1","x":NaN}',
    "unknown-choice": send(if_busy="later"),
    "unknown-mode": '{"type":"retry","response":"r","key":"k","mode":"again"}',
    "surrogate-in-text": send(text="\ud800"),
    "surrogate-at-the-end": send(text="x\udfff"),
    "surrogates-in-the-wrong-order": send(text="\udc00\ud800"),
    "surrogate-in-the-conversation": '{"type":"watch","conversation":"\\ud800"}',
    "surrogate-in-the-key": send(key="\udead"),
    "surrogate-in-a-cursor": '{"type":"watch","conversation":"ann-1","after":"\\ud800"}',
    "empty-text": send(text=""),
    "long-text": send(text="x" * (wire.MAX_TEXT + 1)),
    "long-instructions": send(instructions="x" * (wire.MAX_TEXT + 1)),
    "long-key": send(key="k" * 129),
    "empty-key": send(key=""),
    "key-with-a-space": send(key="a b"),
    "key-with-a-line-feed": send(key="a\n"),
    "key-with-a-letter-beyond-ascii": send(key="ä"),
    "long-model": send(model="m" * 65),
    "model-with-a-slash": send(model="openai/gpt"),
    "long-replaces": send(replaces="r" * 129),
    "long-cursor": json.dumps({"type": "watch", "conversation": "ann-1", "after": "1" * 129}),
    "too-many-responses": json.dumps(
        {"type": "watch", "conversation": "ann-1", "responses": {f"r00{n:016d}": "1-1" for n in range(65)}}
    ),
    "no-response-s-name": '{"type":"watch","conversation":"ann-1","responses":{"tw:{p00}:jobs":"1-1"}}',
    "long-conversation": json.dumps({"type": "watch", "conversation": "ann-" + "c" * 125}),
    **{
        f"conversation-{name!r}": json.dumps({"type": "watch", "conversation": name})
        for name in ["", " ", "ann 1", "ann/1", "../ann", "ann-\n", "ann-ü", "ann-*", "ann-{p00}", "ann\x00", "ａnn-1"]
    },
    **DEEP,
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_bad_frame_gets_error_and_socket_stays_open(
    guarded: GuardedGateway, conversation: str, frame: str
) -> None:
    async with raw(guarded) as opened:
        opened.send(frame)
        error = await opened.received("error", "snapshot", "accepted")
        assert error["type"] == "error"
        assert error["code"] == "bad_frame"
        assert PLANTED_TEXT not in error["message"]
        await opened.stays(conversation)


@pytest.mark.parametrize("frame", list(BAD_FRAMES.values())[:30:3], ids=list(BAD_FRAMES)[:30:3])
async def test_bad_first_frame_is_closed_with_4400(guarded: GuardedGateway, frame: str) -> None:
    async with raw(guarded, token=None) as opened:
        opened.send(frame)
        assert await opened.closed() == wire.Close.NOT_THE_PROTOCOL


async def test_more_than_ten_bad_frames_are_closed_with_4400(guarded: GuardedGateway) -> None:
    async with raw(guarded) as opened:
        for _ in range(session.MAX_BAD_FRAMES):
            opened.send("{")
            assert (await opened.received("error"))["code"] == "bad_frame"
        opened.send("{")
        assert await opened.closed() == wire.Close.NOT_THE_PROTOCOL


async def test_watched_conversation_is_the_authorized_one(guarded: GuardedGateway, conversation: str) -> None:
    """The last value of a repeated key counts, for the authorization and for the request."""
    async with raw(guarded) as opened:
        opened.send(f'{{"type":"watch","conversation":"{conversation}","conversation":"bob-1"}}')
        assert (await opened.received("error", "snapshot"))["code"] == "forbidden"
        opened.send(f'{{"type":"watch","conversation":"bob-1","conversation":"{conversation}"}}')
        assert (await opened.received("error", "snapshot"))["conversation"] == conversation


async def test_unknown_fields_are_ignored(guarded: GuardedGateway, conversation: str) -> None:
    async with raw(guarded) as opened:
        opened.send({"type": "watch", "conversation": conversation, "__proto__": {"a": [1, None, "\u0000"]}, "": -1e-9})
        await opened.received("snapshot")


async def test_null_character_is_preserved(guarded: GuardedGateway, conversation: str) -> None:
    text = "a\x00b\u2028\u2029\uffff\x7f\U0010ffff"
    async with Client(conversation, guarded.token()) as client:
        await client.connect(guarded.gateway.socket_url)
        await client.settled(await client.ask(text, model="fake"))
        assert [m["text"] for m in client.transcript.messages.values() if m["role"] == "user"] == [text]


# F41 and F42: cursors and names


async def test_invalid_cursor_leads_to_snapshot_or_reset(guarded: GuardedGateway, conversation: str) -> None:
    """Negative, too large, garbage, of another log, ahead of the log: a snapshot or a reset."""
    async with (
        Client(conversation, guarded.token()) as asking,
        Client(f"{conversation}-2", guarded.token()) as elsewhere,
    ):
        for client in (asking, elsewhere):
            await client.connect(guarded.gateway.socket_url)
        response, other = await asking.ask("one", model="fake"), await asking.ask("two", model="fake")
        foreign = await elsewhere.ask("three", model="fake")
        text = await asking.settled(response)
        await asking.settled(other)
        await elsewhere.settled(foreign)
        end = asking.answer(response).cursor
        assert end is not None
        attempt, seq = end.split("-")
        spoiled = [
            *(
                "",
                "$",
                ">",
                "+",
                "-",
                "*",
                "0",
                "-1",
                "-1-1",
                "1--1",
                "1-1-1",
                " 1-1",
                "1-1\n",
                "1e3-1",
                "0x1-1",
                "a-b",
            ),
            *("18446744073709551616-1", "1-18446744073709551616", f"{2**64}-{2**64}", "9" * 128, "01-1", "１-１"),
            *("NaN-NaN", "0-0", "9999999999999999-9999999999999999", f"{attempt}-{int(seq) + 1}"),
            *(f"{int(attempt) + 10**9}-1", f"{int(attempt) - 1}-{seq}", asking.answer(other).cursor or ""),
            elsewhere.answer(foreign).cursor or "",
        ]
        here, there = asking.transcript.cursor, elsewhere.transcript.cursor
        assert here is not None
        assert there is not None
        for cursor in spoiled:
            async with raw(guarded) as opened:
                opened.send(
                    {"type": "watch", "conversation": conversation, "after": here, "responses": {response: cursor}}
                )
                assert (await opened.received("watching"))["resumed"]
                assert (await opened.received("reset"))["text"] == text, cursor
                assert (await opened.received("end"))["chars"] == len(text)
        number, nonce = here.split("-")
        # The cursor before the first entry is valid.
        for cursor in [
            *(each for each in spoiled if each != "0-0"),
            there,
            f"{int(number) + 1}-{nonce}",
            f"{number}-1",
        ]:
            async with raw(guarded) as opened:
                opened.send({"type": "watch", "conversation": conversation, "after": cursor})
                assert not (await opened.received("watching"))["resumed"], cursor
                assert [m["text"] for m in (await opened.received("snapshot"))["messages"]].count(text) == 2


@dataclass
class UnreachableResponses:
    """A response of another user and a missing one, in the same partition."""

    foreign: str
    missing: str


@pytest_asyncio.fixture(loop_scope="module")
async def unreachable(guarded: GuardedGateway) -> AsyncIterator[UnreachableResponses]:
    async with Client("bob-1", guarded.token("bob")) as bob:
        await bob.connect(guarded.gateway.socket_url)
        response = await bob.ask("/long 2000")
        await bob.until(lambda: bob.answer(response).text)
        yield UnreachableResponses(response, f"{response[:3]}{secrets.token_hex(8)}")
        assert not bob.answer(response).ends
        await bob.stop(response)
        await bob.ended(response)


@pytest.mark.parametrize("request_type", ["stop", "retry", "watch"])
async def test_response_of_other_user_looks_like_a_missing_one(
    guarded: GuardedGateway, unreachable: UnreachableResponses, conversation: str, request_type: str
) -> None:
    """The answers have the same text and take about the same time."""

    async def asked(opened: RawSocket, response: str) -> tuple[dict[str, Any], float]:
        begun = time.perf_counter()
        if request_type == "watch":
            opened.send({"type": "watch", "conversation": conversation, "responses": {response: "1-1"}})
            answer = await opened.received("end")
        else:
            opened.send({"type": request_type, "response": response, "key": "k"})
            answer = await opened.received("error", "status", "accepted")
        taken = time.perf_counter() - begun
        return {name: value for name, value in answer.items() if name != "response"}, taken

    times: dict[str, list[float]] = {unreachable.foreign: [], unreachable.missing: []}
    answers: list[dict[str, Any]] = []
    for _ in range(3):
        async with raw(guarded) as opened:
            for number in range(20):
                # The first requests of a socket are slower.
                for response in sorted(times, reverse=bool(number % 2)):
                    answer, taken = await asked(opened, response)
                    answers.append(answer)
                    if number > 2:
                        times[response].append(taken)
    assert all(answer == answers[0] for answer in answers)
    if request_type != "watch":
        assert answers[0]["code"] == "not_found"
    # The minimum: other processes of the machine only add time.
    foreign, missing = (min(each) for each in times.values())
    print(f"{request_type}: of another user {foreign * 1000:.2f} ms, missing {missing * 1000:.2f} ms")
    # A ratio, so that the speed of the machine does not matter.
    assert max(foreign, missing) < 3 * min(foreign, missing)


async def test_response_of_other_conversation_is_not_shown(guarded: GuardedGateway, conversation: str) -> None:
    async with (
        Client(conversation, guarded.token()) as client,
        Client(f"{conversation}-2", guarded.token()) as elsewhere,
    ):
        await client.connect(guarded.gateway.socket_url)
        await elsewhere.connect(guarded.gateway.socket_url)
        foreign = await elsewhere.ask(PLANTED_TEXT, model="fake")
        await elsewhere.settled(foreign)
        async with raw(guarded) as opened:
            opened.send({"type": "watch", "conversation": conversation, "responses": {foreign: "0-0"}})
            end = await opened.received("end", "delta", "reset")
            assert (end["type"], end["reason"], end["error"]["code"]) == ("end", "failed", "gone")
        await client.send(
            {"type": "send", "key": "k", "conversation": conversation, "text": "x", "replaces": "r99" + "0" * 16}
        )
        await client.until(lambda: client.errors)
        assert client.errors[0]["code"] == "not_found"


@pytest.mark.parametrize("name", ["", "r", "r00", "r16" + "0" * 16, "r00" + "Z" * 16, "$", "../r", "r00" + "0" * 17])
async def test_invalid_response_id_is_not_found(guarded: GuardedGateway, name: str) -> None:
    async with raw(guarded) as opened:
        for request in ({"type": "stop", "response": name}, {"type": "retry", "response": name, "key": "k"}):
            opened.send(request)
            # An empty id does not match the schema of the frame.
            assert (await opened.received("error", "status"))["code"] == ("not_found" if name else "bad_frame")


# Order and number of frames


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "watch", "conversation": "ann-1"},
        {"type": "send", "key": "k", "conversation": "ann-1", "text": PLANTED_TEXT},
        {"type": "token", "token": "x"},
        {"type": "stop", "response": "r00" + "0" * 16},
    ],
    ids=lambda frame: frame["type"],
)
async def test_frame_before_hello_is_closed_with_4400(guarded: GuardedGateway, frame: dict[str, Any]) -> None:
    async with raw(guarded, token=None) as opened:
        opened.send(frame)
        opened.send({"type": "hello", "token": guarded.token()})
        assert await opened.closed() == wire.Close.NOT_THE_PROTOCOL


async def test_second_hello_does_not_change_the_identity(guarded: GuardedGateway, conversation: str) -> None:
    async with raw(guarded) as opened:
        opened.send({"type": "hello", "token": guarded.token("bob")})
        assert (await opened.received("error", "ready"))["code"] == "bad_frame"
        opened.send({"type": "watch", "conversation": "bob-1"})
        assert (await opened.received("error", "snapshot"))["code"] == "forbidden"
        await opened.stays(conversation)


async def test_missing_hello_is_closed_after_five_seconds(guarded: GuardedGateway) -> None:
    """With any other traffic: none, pings, half of a frame, single bytes."""

    async def waits(data: bytes) -> tuple[int, float]:
        async with raw(guarded, token=None) as opened:
            begun = time.monotonic()
            if data:
                opened.write(data)
            return await opened.closed(10.0), time.monotonic() - begun

    sent = [b"", spelled(PING), spelled(TEXT, b'{"type":"hello"}')[:-1], spelled(TEXT, b'{"type":', fin=False)]
    for code, seconds in await asyncio.gather(*(waits(data) for data in sent)):
        assert code == wire.Close.NO_HELLO
        assert wire.HELLO_WITHIN_S - 0.5 < seconds < wire.HELLO_WITHIN_S + 2


async def test_client_beyond_rate_limit_gets_errors_then_close(guarded: GuardedGateway) -> None:
    unwatch = spelled(TEXT, b'{"type":"unwatch","conversation":"ann-1"}')
    async with raw(guarded) as opened:
        opened.write(unwatch * (int(session.MAX_BURST_FRAMES) + 20))
        error = await opened.received("error")
        assert (error["code"], error["retry_after"]) == ("too_fast", 1.0)
        opened.write(unwatch * 5_000)
        assert await opened.closed() == wire.Close.TOO_FAST


async def test_client_continues_after_a_rate_limit_error(guarded: GuardedGateway, conversation: str) -> None:
    async with raw(guarded) as opened:
        for _ in range(int(session.MAX_BURST_FRAMES) + 10):
            opened.send({"type": "unwatch", "conversation": conversation})
        retry_after = (await opened.received("error"))["retry_after"]
        # The retry time of the error.
        await asyncio.sleep(retry_after)
        await opened.stays(conversation)


async def test_requests_beyond_queue_limit_are_each_answered(guarded: GuardedGateway, conversation: str) -> None:
    """Each is accepted or rejected by key; rejected ones can be sent again, and nothing is duplicated."""
    keys = [f"key-{number}" for number in range(websocket.MAX_WAITING_REQUESTS + 10)]
    frames = {
        key: {"type": "send", "key": key, "conversation": f"{conversation}-{key}", "text": key, "model": "fake"}
        for key in keys
    }
    async with raw(guarded) as opened:
        opened.write(b"".join(spelled(TEXT, json.dumps(frame).encode()) for frame in frames.values()))
        refused = []
        for _ in keys:
            answer = await opened.received("accepted", "error")
            if answer["type"] == "error":
                assert (answer["code"], answer["retry_after"]) == ("too_fast", 1.0)
                refused.append(answer["key"])
        assert refused
        assert set(refused) < set(keys)
        for key in refused:
            opened.send(frames[key])
            assert not (await opened.received("accepted"))["duplicate"]


async def test_open_responses_and_watches_are_limited(guarded: GuardedGateway, conversation: str) -> None:
    guarded.provider.scenarios["wait for ever"] = Scenario(ending="silence")
    async with Client(conversation, guarded.token()) as client:
        await client.connect(guarded.gateway.socket_url)
        responses = [await client.ask("wait for ever", model="fake") for _ in range(MAX_AHEAD)]
        await client.send({"type": "send", "key": "k", "conversation": conversation, "text": "one more"})
        await client.until(lambda: client.errors)
        assert (client.errors[0]["code"], client.errors[0]["key"]) == ("too_many", "k")
        assert client.errors[0]["retry_after"] > 0
        for response in reversed(responses):
            await client.stop(response)
        for response in responses:
            await client.ended(response)
    async with raw(guarded) as opened:
        for number in range(wire.MAX_WATCHED):
            opened.send({"type": "watch", "conversation": f"{conversation}-{number}"})
            await opened.received("snapshot")
        opened.send({"type": "watch", "conversation": f"{conversation}-one-more"})
        assert (await opened.received("error", "snapshot"))["code"] == "too_many"
        # A watched conversation may be watched again.
        await opened.stays(f"{conversation}-0")


# F43: tokens


def signed(head: dict[str, Any], claims: dict[str, Any], signature: str = "") -> str:
    parts = (jwt.utils.base64url_encode(json.dumps(part).encode()).decode() for part in (head, claims))
    return ".".join([*parts, signature])


def bad_tokens(guarded: GuardedGateway) -> dict[str, Any]:
    good = guarded.token()
    claims = {"sub": "ann", "exp": time.time() + 600, "conversations": ["ann-*"]}
    head, body, signature = good.split(".")
    return {
        "missing": None,
        "empty": "",
        "garbage": "x",
        "dots": "..",
        "spaces": f" {good}",
        "beyond-ascii": "ü.ü.ü",
        "long": "x" * 60_000,
        "deep": signed({"alg": "HS256"}, claims, "x").replace(".", "." + "W1tb" * 5_000, 1),
        "wrong-key": guarded.token(key="another-key-of-thirty-two-bytes-or-more"),
        "alg-none": signed({"alg": "none", "typ": "JWT"}, claims),
        "alg-none-in-capitals": signed({"alg": "NONE"}, claims),
        "alg-none-with-a-signature": signed({"alg": "none"}, claims, signature),
        "alg-hs512": guarded.shown(jwt.encode(claims, JWT_KEY + "x" * 32, algorithm="HS512")),
        "alg-rs256": signed({"alg": "RS256"}, claims, signature),
        "no-signature": f"{head}.{body}.",
        "other-claims": ".".join([head, signed({}, {**claims, "sub": "bob"}).split(".")[1], signature]),
        "critical-header": signed({"alg": "HS256", "crit": ["x"], "x": 1}, claims, signature),
        "key-in-the-header": signed({"alg": "HS256", "jwk": {"kty": "oct", "k": "eA"}}, claims, signature),
        "expired": guarded.token(exp=time.time() - 1),
        "not-valid-yet": guarded.token(nbf=time.time() + 60),
        "without-end": guarded.token(exp=None),
        "without-subject": guarded.token(sub=None),
        "end-as-text": guarded.token(exp="tomorrow"),
        "conversations-as-text": guarded.token(conversations="ann-*"),
        "conversations-as-numbers": guarded.token(conversations=[1]),
    }


async def test_invalid_token_is_rejected(guarded: GuardedGateway) -> None:
    for name, token in bad_tokens(guarded).items():
        if token:
            guarded.shown(token)
        async with raw(guarded, token=None) as opened:
            opened.send({"type": "hello", **({} if token is None else {"token": token})})
            assert await opened.closed() == wire.Close.NOT_AUTHENTICATED, name
    # A token of one letter occurs in every line.
    guarded.tokens[:] = [token for token in guarded.tokens if len(token) > 20]


async def test_invalid_new_token_closes_socket(guarded: GuardedGateway) -> None:
    for token in ("x", guarded.token("bob"), guarded.token(exp=time.time() - 1)):
        async with raw(guarded) as opened:
            opened.send({"type": "token", "token": token})
            assert await opened.closed() == wire.Close.NOT_AUTHENTICATED


async def test_expired_token_closes_socket_unless_replaced(guarded: GuardedGateway, conversation: str) -> None:
    expires = time.time() + 2.0
    short = guarded.token(exp=expires)
    async with Client(conversation, guarded.token()) as asking:
        await asking.connect(guarded.gateway.socket_url)
        response = await asking.ask("/long 4000")
        async with Client(conversation, short) as first, Client(conversation, short) as second:
            for client in (first, second):
                await client.connect(guarded.gateway.socket_url)
            await second.until(lambda: second.answer(response).text)
            await second.send({"type": "token", "token": guarded.token()})
            await first.until(lambda: first.close_code is not None)
            late = time.time() - expires
            print(f"closed {late:.2f} s after the token had expired")
            assert first.close_code == wire.Close.NOT_AUTHENTICATED
            assert 0 <= late < 1.5
            seen = len(second.answer(response).text)
            await second.until(lambda: len(second.answer(response).text) > seen + 50)
            assert second.close_code is None
            assert second.answer(response).resets == []
        await asking.stop(response)
        await asking.ended(response)


async def test_new_token_unsubscribes_conversations_it_does_not_open(
    guarded: GuardedGateway, conversation: str
) -> None:
    """Conversations outside the new token are unsubscribed and reject messages."""
    async with Client(conversation, guarded.token()) as asking, Client(conversation, guarded.token()) as client:
        for each in (asking, client):
            await each.connect(guarded.gateway.socket_url)
        response = await asking.ask("/long 4000")
        await client.until(lambda: client.answer(response).text)
        await client.send({"type": "token", "token": guarded.token("ann", "ann-else")})
        await client.until(lambda: client.errors)
        assert client.errors[0]["code"] == "forbidden"
        seen, shown = len(client.frames), len(asking.answer(response).text)
        await asking.until(lambda: len(asking.answer(response).text) > shown + 50)
        await client.send({"type": "send", "key": "k", "conversation": conversation, "text": "x"})
        await client.until(lambda: len(client.errors) == 2)
        assert client.errors[1]["code"] == "forbidden"
        assert [frame["type"] for frame in client.frames[seen:]] == ["error"]
        await asking.stop(response)
        await asking.ended(response)


async def test_conversation_outside_token_is_forbidden(guarded: GuardedGateway) -> None:
    for token, name in [("", "bob-1"), ("", "annie"), ("", "ann"), (guarded.token("ann", "ann-1"), "ann-12")]:
        async with raw(guarded, token=token) as opened:
            opened.send({"type": "watch", "conversation": name})
            assert (await opened.received("error", "snapshot"))["code"] == "forbidden"
            opened.send({"type": "send", "key": "k", "conversation": name, "text": PLANTED_TEXT})
            error = await opened.received("error", "accepted")
            assert (error["code"], error["key"]) == ("forbidden", "k")


# F44: origins

ALLOWED_ORIGINS: Final = [
    None,
    *ORIGINS,
    "https://good.example:443",
    "https://good.example:",
    "https://good.example/",
    "HTTPS://Good.Example",
    "http://good.example:8080/",
]
FORBIDDEN_ORIGINS: Final = [
    *("", "null", "*", "good.example", "//good.example", "file://", "data:text/html,x", "https://"),
    *("http://good.example", "https://good.example:444", "https://good.example:8080", "http://good.example:80"),
    *("https://good.example.evil", "https://evilgood.example", "https://sub.good.example", "https://good.example@evil"),
    *("https://evil/https://good.example", "https://evil#https://good.example", "https://evil?https://good.example"),
    *("https://good.example.", "https://good.example, https://evil", "wss://good.example"),
    *(
        "https://good.example:99999",
        "https://good.example:-1",
        "https://[good.example",
        "chrome-extension://good.example",
    ),
    *("https://user@good.example", "https://g\xf6\xf6d.example", "\xff", "https://good.example\\@evil", "h" * 5_000),
]


@pytest.mark.parametrize("origin", ALLOWED_ORIGINS)
async def test_page_of_listed_origin_may_connect(
    guarded: GuardedGateway, origin: str | None, conversation: str
) -> None:
    async with raw(guarded, *([] if origin is None else [f"Origin: {origin}"])) as opened:
        await opened.stays(conversation)


@pytest.mark.parametrize("origin", FORBIDDEN_ORIGINS, ids=lambda origin: origin[:40])
async def test_page_of_unlisted_origin_is_rejected(guarded: GuardedGateway, origin: str) -> None:
    async with raw(guarded, f"Origin: {origin}", token=None) as opened:
        opened.send({"type": "hello", "token": guarded.token()})
        assert await opened.closed() == wire.Close.FORBIDDEN_ORIGIN


async def test_handshake_with_two_origins_is_rejected(guarded: GuardedGateway) -> None:
    async with tcp(guarded) as (reader, writer):
        writer.write(handshake("Origin: https://evil.example", f"Origin: {ORIGINS[0]}"))
        assert b" 400 " in await asyncio.wait_for(reader.readline(), IMMEDIATELY_S)


async def test_own_page_may_connect_and_other_port_may_not(guarded: GuardedGateway, conversation: str) -> None:
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        async with raw(guarded, f"Origin: http://{host}:{guarded.port}") as opened:
            await opened.stays(conversation)
    for origin in (f"http://127.0.0.1:{guarded.port + 1}", f"https://localhost:{guarded.port}", "http://localhost"):
        async with raw(guarded, f"Origin: {origin}", token=None) as opened:
            assert await opened.closed() == wire.Close.FORBIDDEN_ORIGIN


# F45 and F46: floods


async def test_address_limit_ignores_forged_header(guarded: GuardedGateway, conversation: str) -> None:
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(raw(guarded, source="127.0.0.9")) for _ in range(MAX_PER_ADDRESS)]
        forged = [
            [],
            ["X-Forwarded-For: 10.1.2.3"],
            ["X-Forwarded-For: 10.1.2.3, 127.0.0.8"],
            ["X-Real-IP: 10.1.2.3", "Forwarded: for=10.1.2.3", "CF-Connecting-IP: 10.1.2.3"],
        ]
        for headers in forged:
            async with raw(guarded, *headers, source="127.0.0.9", token=None) as refused:
                assert await refused.closed() == wire.Close.OVERLOADED
        # Event streams are connections too.
        async with tcp(guarded, "127.0.0.9") as (reader, writer):
            writer.write(events(conversation, guarded.token(), "X-Forwarded-For: 10.1.2.3"))
            async with asyncio.timeout(IMMEDIATELY_S):
                assert b" 429 " in await reader.readline()
        # Another address is unaffected, even if it forges the full one.
        async with raw(guarded, "X-Forwarded-For: 127.0.0.9", source="127.0.0.8") as other:
            await other.stays(conversation)
        await sockets[0].stays(conversation)
        # A closed connection is released.
        sockets[1].write(spelled(CLOSE, struct.pack("!H", 1000)))
        await sockets[1].disconnected()
        async with raw(guarded, source="127.0.0.9") as again:
            await again.stays(conversation)
    await until(lambda: guarded.sockets <= 2)


async def test_dropped_event_streams_are_released(guarded: GuardedGateway, conversation: str) -> None:
    """Each counts for its address until it ends; a leak would exhaust the limit of the address."""
    before = guarded.descriptors
    request = events(conversation, guarded.token())
    for number in range(3 * MAX_PER_ADDRESS):
        async with tcp(guarded, "127.0.0.10") as (reader, writer):
            writer.write(request)
            await writer.drain()
            if number % 3:
                await asyncio.wait_for(reader.read(number % 3), IMMEDIATELY_S)
    await until(lambda: guarded.descriptors <= before + 1)
    async with tcp(guarded, "127.0.0.10") as (reader, writer):
        writer.write(request)
        assert b" 200 " in await asyncio.wait_for(reader.readline(), IMMEDIATELY_S)


async def test_sockets_dropped_in_handshake_are_released(guarded: GuardedGateway, conversation: str) -> None:
    before = guarded.descriptors
    for number in range(3 * MAX_PER_ADDRESS):
        async with tcp(guarded, "127.0.0.11") as (_, writer):
            writer.write(handshake()[: None if number % 2 else number])
            if number % 3:
                await writer.drain()
                await asyncio.sleep(0)
    await until(lambda: guarded.descriptors <= before + 1)
    async with raw(guarded, source="127.0.0.11") as opened:
        await opened.stays(conversation)


async def test_slow_handshakes_do_not_delay_other_clients(
    guarded: GuardedGateway, witness: Witness, conversation: str
) -> None:
    """A hundred connections send single bytes, and other clients connect as usual."""
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(tcp(guarded, f"127.0.1.{number % 100 + 1}")) for number in range(100)]
        taken = []
        for byte in handshake()[:10]:
            for _, writer in slow:
                writer.write(bytes([byte]))
            begun = time.monotonic()
            async with raw(guarded) as opened:
                await opened.stays(conversation)
            taken.append(time.monotonic() - begun)
            await witness.continues()
        print(f"with 100 slow handshakes: {statistics.median(taken) * 1000:.1f} ms to a snapshot")
        assert max(taken) < IMMEDIATELY_S


async def test_client_that_never_reads_is_disconnected(
    guarded: GuardedGateway, witness: Witness, conversation: str
) -> None:
    """Eight sockets and two event streams that do not read, during 20,000 tokens at full speed."""
    before, held = guarded.descriptors, guarded.memory
    most = 0.0
    async with AsyncExitStack() as stack, Client(conversation, guarded.token()) as reading:
        stalled: list[asyncio.StreamWriter] = []
        for number in range(10):
            pipe = socket.create_connection(("127.0.0.1", guarded.port), IMMEDIATELY_S)
            # With the default buffers the kernel would accept data for a long time.
            pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            reader, writer = await asyncio.open_connection(sock=pipe)
            stack.callback(writer.transport.abort)
            if number < 8:
                writer.write(handshake())
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IMMEDIATELY_S)
                # Nothing is read from here on.
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                for frame in (
                    {"type": "hello", "token": guarded.token()},
                    {"type": "watch", "conversation": conversation},
                ):
                    writer.write(spelled(TEXT, json.dumps(frame).encode()))
            else:
                writer.write(events(conversation, guarded.token()))
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IMMEDIATELY_S)
                writer.transport.pause_reading()  # type: ignore[attr-defined]
            stalled.append(writer)
        begun = time.monotonic()
        await reading.connect(guarded.gateway.socket_url)
        response = await reading.ask("/flood")
        text = await reading.settled(response)
        assert text == demo.answer("/flood") == reading.answer(response).text
        flooded = time.monotonic() - begun
        while guarded.descriptors > before + 1:
            most = max(most, guarded.memory)
            await witness.continues()
            assert time.monotonic() - begun < flooded + 75, f"{guarded.descriptors - before - 1} descriptors are left"
        print(
            f"the flood took {flooded:.1f} s; the ten who never read were gone {time.monotonic() - begun:.1f} s after "
            f"it began; at most {most - held:.1f} MiB more were held"
        )
        assert most - held < 2 * MAX_GROWTH_MIB
        await reading.ended(await reading.ask("again", model="fake"))


async def test_unread_snapshots_are_not_buffered(guarded: GuardedGateway, conversation: str) -> None:
    """A history of half a megabyte is requested sixty times by a client that never reads."""
    async with Client(conversation, guarded.token()) as client:
        await client.connect(guarded.gateway.socket_url)
        for number in range(16):
            await client.settled(await client.ask(f"{number} {'long ' * 6_000}", model="fake"))
    async with raw(guarded) as opened:
        await opened.stays(conversation)
        held, most = guarded.memory, 0.0
        opened.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(60):
            opened.send({"type": "watch", "conversation": conversation})
            # At the rate limit.
            await asyncio.sleep(1 / session.MAX_FRAMES_PER_S)
            most = max(most, guarded.memory)
    print(f"at most {most - held:.1f} MiB more were held")
    assert most - held < 2 * MAX_GROWTH_MIB


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_frames_after_client_close_are_ignored(guarded: GuardedGateway, garbage: bytes) -> None:
    async with raw(guarded) as opened:
        opened.write(spelled(CLOSE, struct.pack("!H", 1000)) + garbage)
        assert await opened.closed() == 1000
        await opened.disconnected()


@pytest.mark.parametrize("name", GARBAGE)
async def test_client_that_ignores_close_is_disconnected(held: dict[str, RawSocket], name: str) -> None:
    """The server ends the connection if the client does not answer its close frame."""
    await held[name].disconnected(20.0)


# Mutations


SEEDS: Final = (
    '{"type":"watch","conversation":"ann-fuzz","after":"1-1","responses":{"r000123456789abcdef":"1000000001-2"}}',
    '{"type":"unwatch","conversation":"ann-fuzz"}',
    '{"type":"send","key":"k","conversation":"ann-fuzz","text":"Hi \\ud83d\\ude00","model":"fake","max_tokens":5}',
    '{"type":"send","key":"k2","conversation":"ann-fuzz","text":"x","model":"fake","if_busy":"interrupt"}',
    '{"type":"stop","response":"r000123456789abcdef","reason":"guarded"}',
    '{"type":"retry","response":"r000123456789abcdef","key":"r","mode":"continue"}',
    '{"type":"token","token":"eyJhbGciOiJIUzI1NiJ9.e30.x"}',
    '{"type":"hello","client":"fuzz"}',
)
PIECES: Final = (
    *("{", "}", "[", "]", '"', ":", ",", "\\", "\\u0000", "\\ud800", "null", "true", "NaN", "-1", "1e9999", "9" * 400),
    *(
        "\x00",
        "\x7f",
        "\u2028",
        "é",
        "😀",
        '"type":"send"',
        '"text":',
        "ann-fuzz",
        "$",
        "*",
        "-",
        "[" * 2_000,
        " " * 3_000,
    ),
)


def mutated(chance: random.Random) -> bytes:
    """Return a mutated WebSocket frame."""
    text = chance.choice(SEEDS)
    for _ in range(chance.randint(0, 4)):
        begin = chance.randrange(len(text) + 1)
        end = min(len(text), begin + chance.randint(0, 12))
        text = text[:begin] + chance.choice((*PIECES, text[end:], text[:begin], "")) + text[end:]
        # Repeated copies would be rejected for their size alone.
        text = text[:8_000]
    payload = bytearray(text.encode())
    if payload and chance.random() < 0.2:
        payload[chance.randrange(len(payload))] = chance.randrange(256)
    frame = bytearray(spelled(TEXT, bytes(payload)))
    if chance.random() < 0.15:
        frame[chance.randrange(min(len(frame), 8))] ^= 1 << chance.randrange(8)
    return bytes(frame)


async def test_three_thousand_mutated_frames_do_no_harm(guarded: GuardedGateway, witness: Witness) -> None:
    await fuzz(guarded, witness, FUZZED)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_hundred_thousand_mutated_frames_do_no_harm(guarded: GuardedGateway, witness: Witness) -> None:
    await fuzz(guarded, witness, 100_000)
    printed = guarded.gateway.text
    assert not [
        line for line in printed.splitlines() if "Traceback" in line or " ERROR " in line or " CRITICAL " in line
    ]


async def fuzz(guarded: GuardedGateway, witness: Witness, count: int) -> None:
    """Send so many mutated frames over connections that end in any way; other clients are unaffected."""
    chance = random.Random(SEED)
    before = guarded.descriptors
    codes: dict[int, int] = {}
    sent = 0
    while sent < count:
        async with raw(guarded, token="" if chance.random() < 0.9 else None) as opened:
            frames = [mutated(chance) for _ in range(chance.randint(1, 12))]
            # In one piece, or split anywhere.
            data = b"".join(frames)
            cut = chance.randrange(len(data) + 1)
            for piece in (data[:cut], data[cut:]):
                opened.write(piece)
                await opened.writer.drain()
            sent += len(frames)
            # Aborted, closed by the client, or left open for the answer.
            match chance.randrange(3):
                case 0:
                    with suppress(OSError):
                        # It may be closed already.
                        opened.writer.write_eof()
                    code = await opened.closed()
                    codes[code] = codes.get(code, 0) + 1
                case 1:
                    opened.write(spelled(CLOSE, struct.pack("!H", 1000)))
        if sent % 20 == 0:
            await witness.continues()
    print(f"{sent} frames, closed with {dict(sorted(codes.items()))}")
    await until(lambda: guarded.descriptors <= before + 1, 15.0)


async def test_five_hundred_mutated_handshakes_do_no_harm(guarded: GuardedGateway, witness: Witness) -> None:
    chance = random.Random(SEED)
    good = handshake("Origin: https://good.example", "X-Forwarded-For: 1.2.3.4", path="/v1/ws?x=%ff")
    for number in range(500):
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            begin = chance.randrange(len(data))
            end = begin + chance.randint(0, 6)
            data[begin:end] = chance.choice(
                (
                    b"",
                    b"\r\n",
                    b"\x00",
                    b"\xff",
                    b"%00",
                    b": ",
                    b" HTTP/1.1\r\n",
                    b"/../" * 30,
                    bytes(data[begin:end]) * 3,
                )
            )
        async with tcp(guarded, f"127.0.2.{number % 200 + 1}") as (reader, writer):
            writer.write(bytes(data))
            writer.write_eof()
            try:
                await asyncio.wait_for(reader.read(64), IMMEDIATELY_S)
            except ConnectionError:
                # Rejected so early that unread data resets the connection.
                pass
    await witness.continues()


async def test_no_connection_is_left_open(guarded: GuardedGateway) -> None:
    await until(lambda: guarded.sockets == 1, 15.0)
    assert guarded.gateway.counted("tokenwire_connections") == 1


@pytest.mark.parametrize("name", HELD)
async def test_connection_without_request_is_closed(
    guarded: GuardedGateway, held: dict[str, RawSocket], name: str
) -> None:
    await held[name].disconnected(max(0.1, guarded.opened + 3 * wire.HELLO_WITHIN_S - time.monotonic()))


async def test_endless_headers_are_refused(guarded: GuardedGateway) -> None:
    held = guarded.memory
    sent = 0
    async with tcp(guarded) as (_, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        try:
            while sent < 2_000:
                sent += 1
                writer.write(b"X-Long: " + b"x" * 16_384 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            pass
    assert sent < 1_000
    assert guarded.memory - held < MAX_GROWTH_MIB
