"""Slow consumers: clients that stop reading or read 1 KB/s do not affect others, and the former are disconnected."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import statistics
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

STALLED_S = 5.0
"""Seconds without a frame after which the witness is stalled: the provider sends a piece every 20 ms."""

PIECE = "x" * 500

HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
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
            events = f"GET /v1/conversations/{conversation}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
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
            response = await witness.ask(conversation, model="fake")
            await witness.shows(response)
            # Nothing has filled the buffers of the others yet.
            undisturbed = await pauses_of(witness, 50)
            begun = time.monotonic()
            reading = asyncio.create_task(read_slowly(slow))
            pauses: list[float] = []
            while descriptors(gateway) > base + len(slow) and time.monotonic() - begun < STOPPED_WITHIN:
                pauses += await pauses_of(witness, 5)
            took = time.monotonic() - begun
            grown = memory(gateway) - before
            print(
                f"{len(stopped)} that stopped were freed after {took:.1f} s; {grown / 2**20:.1f} MiB more for all 30; "
                f"the median pause of the witness was {statistics.median(pauses) * 1000:.0f} ms, "
                f"{statistics.median(undisturbed) * 1000:.0f} ms before the others stalled"
            )
            assert descriptors(gateway) <= base + len(slow)
            assert statistics.median(pauses) < 3 * statistics.median(undisturbed)
            # The buffer of each client is bounded, and the log is in memory once.
            assert grown < 8 << 20
            await witness.stop(response)
            await witness.ended(response)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def pauses_of(witness: Client, count: int) -> list[float]:
    """Return the seconds between `count` + 1 moments at which the client received frames."""
    moments: list[float] = []
    while len(moments) <= count:
        seen = len(witness.frames)
        await witness.until(lambda seen=seen: len(witness.frames) > seen, STALLED_S)  # type: ignore[misc]
        moments.append(time.monotonic())
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


async def read_slowly(sockets: list[socket.socket]) -> None:
    """Read a kilobyte a second from each."""
    while True:
        for each in sockets:
            try:
                each.recv(1024)
            except (BlockingIOError, ConnectionError):
                pass
        await asyncio.sleep(1.0)
