"""A thousand clients in one process: each keeps a transcript and reconnects as PROTOCOL.md requires."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.transcript import Transcript

if TYPE_CHECKING:
    import random

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FIRST_WAIT, MAX_WAIT = 0.25, 20.0
"""Seconds of the backoff, as in the web client."""


class Member(asyncio.Protocol):
    """One client of one conversation."""

    def __init__(self, conversation: str, urls: list[str], chance: random.Random, *, obeys: bool) -> None:
        """`urls` are tried in turn. `obeys`: it follows the reconnect hint; otherwise it waits for the close."""
        self.transcript = Transcript(conversation)
        self.obeys = obeys
        self.codes: list[int] = []
        """Close codes of sockets whose watch was answered; 1006 without a close frame."""
        self.refusals = 0
        self.returned: list[float] = []
        """Times at which it reconnected."""
        self.downtimes: list[float] = []
        """Seconds between the loss of a socket and the answer to the watch on the next one."""
        self.broken: BaseException | None = None
        self._urls = urls
        self._chance = chance
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._upgraded = self._greeted = self._over = False
        self._code = 1006
        self._lost_at = 0.0
        self._attempt = 0
        self._hint: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def live(self) -> bool:
        """Whether the watch on the current socket was answered."""
        return self._greeted

    async def connect(self) -> None:
        """Open a socket; try again on failure."""
        url = urlsplit(self._urls[self._attempt % len(self._urls)])
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, str(url.hostname), int(url.port or 80))
        except OSError:
            self._reconnect()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer.clear()
        self._upgraded = self._greeted = False
        self._code, self._hint = 1006, None
        url = urlsplit(self._urls[0])
        transport.write(HANDSHAKE.format(path=url.path, host=url.hostname).encode())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, separator, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not separator:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                assert self._transport is not None
                self._transport.abort()
                return
            self._upgraded = True
            self._buffer[:] = rest
            self._send({"type": "hello"})
            self._send(self.transcript.watch())
        while (frame := self._next()) is not None:
            self._receive(*frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._greeted:
            self.codes.append(self._code)
            self._lost_at = time.monotonic()
            self._attempt = 0
        else:
            self.refusals += 1
        self._greeted = False
        if not self._over:
            self._reconnect()

    def cut(self) -> None:
        """Disconnect without a close frame."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Disconnect and do not reconnect."""
        self._over = True
        for task in self._tasks:
            task.cancel()
        self.cut()

    def _reconnect(self) -> None:
        wait = self._chance.random() * min(MAX_WAIT, FIRST_WAIT * 2**self._attempt)
        self._attempt += 1
        task = asyncio.create_task(self._connect_after(wait if self._hint is None else self._hint))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if not self._over:
            await self.connect()

    def _next(self) -> tuple[int, bytes] | None:
        """Return one whole frame of a server (RFC 6455, section 5.2): not masked, and here never fragmented."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        begin, length = 2, buffer[1]
        if length >= 126:
            begin = 4 if length == 126 else 10
            if len(buffer) < begin:
                return None
            length = int.from_bytes(buffer[2:begin])
        if len(buffer) < begin + length:
            return None
        body = bytes(buffer[begin : begin + length])
        opcode = buffer[0] & 15
        del buffer[: begin + length]
        return opcode, body

    def _receive(self, opcode: int, body: bytes) -> None:
        if opcode == 8:
            self._code = int.from_bytes(body[:2])
            if self._transport is not None:
                self._write(0x88, body[:2])
                self._transport.close()
            return
        frame: dict[str, Any] = json.loads(body)
        try:
            self.transcript.fold(frame)
        except AssertionError as error:
            self.broken = error
        match frame["type"]:
            case "watching":
                if self._lost_at:
                    self.downtimes.append(time.monotonic() - self._lost_at)
                    self.returned.append(time.monotonic())
                self._lost_at = 0.0
                self._greeted = True
            case "error":
                self._hint = frame.get("retry_after")
            case "moving" if self.obeys:
                transport = self._transport
                asyncio.get_running_loop().call_later(frame["within"] * self._chance.random(), self._move, transport)

    def _move(self, transport: asyncio.Transport | None) -> None:
        if transport is not None and transport is self._transport:
            self._code = 1000
            self._write(0x88, (1000).to_bytes(2))
            transport.close()

    def _send(self, frame: dict[str, Any]) -> None:
        self._write(0x81, json.dumps(frame).encode())

    def _write(self, first: int, body: bytes) -> None:
        assert self._transport is not None
        length = len(body)
        size = bytes([0x80 | length]) if length < 126 else bytes([0xFE, *length.to_bytes(2)])
        # The mask is zero.
        self._transport.write(bytes([first]) + size + bytes(4) + body)
