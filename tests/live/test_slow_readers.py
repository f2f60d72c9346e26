"""Slow consumers: clients that stop reading or read 1 KB/s do not affect others, and the former are disconnected."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.live.client import Client
from tests.live.processes import GatewayProcess, Process
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from tests.live.conftest import Deployment

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

STOPPED_WITHIN = 15.0 + 15.0
"""Seconds until a descriptor is freed: WRITE_WITHIN_S after the buffers are full, and a margin."""

PIECE = "x" * 500

HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def masked(frame: dict[str, str]) -> bytes:
    """A client's text frame with a mask of zeros (RFC 6455, section 5.2)."""
    body = json.dumps(frame).encode()
    assert len(body) < 126
    return bytes([0x81, 0x80 | len(body), 0, 0, 0, 0]) + body


def words(conversation: str) -> bytes:
    """Return the frames that watch a conversation, for after the handshake (RFC 6455, section 4.1)."""
    return masked({"type": "hello"}) + masked({"type": "watch", "conversation": conversation})


def descriptors(process: Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def memory(process: Process) -> int:
    """Return the resident memory in bytes."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
async def test_slow_consumers_do_not_delay_others(deployment: Deployment, conversation: str) -> None:
    """A fast answer, twenty clients that do not read, and ten that read a kilobyte a second."""
    deployment.provider.scenarios[conversation] = Scenario(pieces=(PIECE,) * 1500, delay=0.02)
    with GatewayProcess(deployment.server.url) as gateway, ExitStack() as stack:
        port = int(gateway.url.rsplit(":", 1)[1])
        async with Client(conversation) as witness:
            await witness.connect(gateway.socket_url)
            await witness.watches()
            base = descriptors(gateway)
            events = f"GET /v1/conversations/{conversation}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            stopped: list[socket.socket] = []
            slow: list[socket.socket] = []
            for number in range(30):
                each = stack.enter_context(socket.socket())
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                each.connect(("127.0.0.1", port))
                each.sendall(events if number % 5 == 0 else HANDSHAKE)
                assert (await asyncio.to_thread(each.recv, 100)).startswith(b"HTTP/1.1 ")
                if number % 5:
                    each.sendall(words(conversation))
                (slow if number % 3 == 0 else stopped).append(each)
                each.setblocking(False)
            before = memory(gateway)
            begun = time.monotonic()
            response = await witness.ask(conversation, model="fake")
            await witness.shows(response)
            reading = asyncio.create_task(read_slowly(slow))
            moments: list[float] = []
            while descriptors(gateway) > base + len(slow) and time.monotonic() - begun < STOPPED_WITHIN:
                seen = len(witness.frames)
                await witness.until(lambda seen=seen: len(witness.frames) > seen, 5.0)  # type: ignore[misc]
                moments.append(time.monotonic())
            took = time.monotonic() - begun
            grown = memory(gateway) - before
            pauses = sorted(later - earlier for earlier, later in itertools.pairwise(moments))
            print(
                f"{len(stopped)} that stopped were freed after {took:.1f} s; {grown / 2**20:.1f} MiB more for all 30; "
                f"the witness waited {pauses[int(len(pauses) * 0.99)] * 1000:.0f} ms at the 99th percentile"
            )
            assert descriptors(gateway) <= base + len(slow)
            assert pauses[int(len(pauses) * 0.99)] < 0.25
            # The buffer of each client is bounded, and the log is in memory once.
            assert grown < 16 << 20
            await witness.stop(response)
            await witness.ended(response)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def read_slowly(sockets: list[socket.socket]) -> None:
    """Read a kilobyte a second from each."""
    while True:
        for each in sockets:
            try:
                each.recv(1024)
            except (BlockingIOError, ConnectionError):
                pass
        await asyncio.sleep(1.0)
