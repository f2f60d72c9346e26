"""A WebSocket and HTTP client that keeps no rule: bytes on a socket."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from typing import Any, Self

UPGRADE = (
    "GET /v1/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Return a masked frame (RFC 6455, section 5.2); the mask is zero."""
    length = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 1 << 16:
        head += b"\xfe" + struct.pack("!H", length)
    else:
        head += b"\xff" + struct.pack("!Q", length)
    return head + bytes(4) + payload


class RawClient:
    """One TCP connection to the gateway, from a chosen loopback address."""

    def __init__(self, address: tuple[str, int], local: str, receive_buffer: int | None = None) -> None:
        self._address = address
        self._local = local
        self._receive_buffer = receive_buffer

    async def __aenter__(self) -> Self:
        opened = socket.socket()
        if self._receive_buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        opened.bind((self._local, 0))
        opened.setblocking(False)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(opened, self._address), 5.0)
            self.reader, self.writer = await asyncio.open_connection(sock=opened, limit=1 << 22)
        except BaseException:
            opened.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    @property
    def host(self) -> str:
        return f"{self._address[0]}:{self._address[1]}"

    async def upgrade(self) -> None:
        """Make a WebSocket of the connection."""
        key = base64.b64encode(os.urandom(16)).decode()
        self.writer.write(UPGRADE.format(host=self.host, key=key).encode())
        await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5.0)

    def send(self, **fields: Any) -> None:
        """Write a text frame."""
        self.writer.write(frame(1, json.dumps(fields, ensure_ascii=False).encode()))

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Write an HTTP request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def drain(self, seconds: float) -> None:
        """Read and discard for so long, or until the gateway closes."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(1 << 16):
                    pass
        except TimeoutError:
            pass
