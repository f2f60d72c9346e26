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
from typing import TYPE_CHECKING, Final

import pytest

from tests.live.client import Client
from tests.live.processes import GatewayProcess, Process
from tests.live.test_client_bounds import write_history
from tests.live.test_half_open import connected
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from gateway.streams.store.store import Store
    from tests.live.conftest import Deployment

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

STOPPED_WITHIN = 30.0 + 25.0
"""Seconds until a connection is freed: WRITE_WITHIN_S after the buffers are full, and a margin."""

UNREACHABLE_WITHIN_S: Final = 75.0
"""The gateway looks every 19 s, and 30 s must have passed between two looks."""

STALLED_S = 5.0
"""Seconds without a frame after which the witness is stalled: the provider sends a piece every 30 ms."""

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


def memory(process: Process) -> int:
    """Return the resident memory in bytes."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
async def test_slow_consumers_do_not_delay_others(deployment: Deployment, conversation: str) -> None:
    """A fast answer, twenty clients that do not read, and ten that read a kilobyte a second."""
    deployment.provider.scenarios[conversation] = Scenario(pieces=(PIECE,) * 1900, delay=0.03)
    with GatewayProcess(deployment.server.url) as gateway, ExitStack() as stack:
        port = int(gateway.url.rsplit(":", 1)[1])
        async with Client(conversation) as witness:
            await witness.connect(gateway.socket_url)
            await witness.watches()
            base = connected(gateway, port)
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
            while connected(gateway, port) > base + len(slow) and time.monotonic() - begun < STOPPED_WITHIN:
                pauses += await pauses_of(witness, 5)
            took = time.monotonic() - begun
            grown = memory(gateway) - before
            print(
                f"{len(stopped)} that stopped were freed after {took:.1f} s; {grown / 2**20:.1f} MiB more for all 30; "
                f"the median pause of the witness was {statistics.median(pauses) * 1000:.0f} ms, "
                f"{statistics.median(undisturbed) * 1000:.0f} ms before the others stalled"
            )
            assert connected(gateway, port) <= base + len(slow)
            assert statistics.median(pauses) < 3 * statistics.median(undisturbed)
            # The buffer of each client is bounded, and the log is in memory once.
            assert grown < 8 << 20
            await witness.stop(response)
            await witness.ended(response)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


READ_FOR_S: Final = 45.0
"""Longer than any limit that a reset could come from."""

RATE_BYTES_PER_S: Final = 8_000


@pytest.mark.long
async def test_steady_readers_at_8_kb_per_s_are_never_reset(
    deployment: Deployment, conversation: str, store: Store
) -> None:
    """On each transport, with receive buffers of each size: the window of a small one never fits a whole segment."""
    deployment.provider.scenarios[conversation] = Scenario(pieces=(PIECE,) * 1900, delay=0.01)
    await write_history(store, f"{conversation}-settled", 30, 30_000)
    host = "HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with GatewayProcess(deployment.server.url) as gateway, ExitStack() as stack:
        port = int(gateway.url.rsplit(":", 1)[1])
        readers: dict[tuple[str, int], socket.socket] = {}
        async with Client(conversation) as asker:
            await asker.connect(gateway.socket_url)
            await asker.watches()
            for size in (4096, 16_384, 65_536, 0):
                for kind in ("socket", "events", "snapshot"):
                    each = readers[kind, size] = stack.enter_context(socket.socket())
                    if size:
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
                    each.connect(("127.0.0.1", port))
                    path = f"/v1/conversations/{conversation}"
                    if kind == "socket":
                        each.sendall(HANDSHAKE)
                        assert (await asyncio.to_thread(each.recv, 100)).startswith(b"HTTP/1.1 101")
                        each.sendall(words(conversation))
                    elif kind == "events":
                        each.sendall(f"GET {path}/events {host}".encode())
                    else:
                        each.sendall(f"GET {path}-settled {host}".encode())
            response = await asker.ask(conversation, model="fake")
            await asker.shows(response)
            counts = await asyncio.to_thread(read_steadily, readers)
            await asker.stop(response)
    print({f"{kind} {size}": count for (kind, size), count in counts.items()})
    for (kind, _), count in counts.items():
        # A snapshot has 240 kB and ends before.
        assert count > (230_000 if kind == "snapshot" else 0.9 * RATE_BYTES_PER_S * READ_FOR_S)


def read_steadily(readers: dict[tuple[str, int], socket.socket]) -> dict[tuple[str, int], int]:
    """Read from each at the rate; return the bytes. Raises ConnectionError."""
    counts = dict.fromkeys(readers, 0)
    begun = time.monotonic()
    for each in readers.values():
        each.setblocking(False)
    while (past := time.monotonic() - begun) < READ_FOR_S:
        for key, each in readers.items():
            try:
                counts[key] += len(each.recv(max(1, min(800, int(past * RATE_BYTES_PER_S) - counts[key]))))
            except BlockingIOError:
                pass
        time.sleep(0.05)
    return counts


@pytest.mark.long
async def test_client_that_does_not_read_what_fits_the_buffer_is_disconnected(
    deployment: Deployment, conversation: str, store: Store
) -> None:
    """Writing to it is never paused: the kernel holds the rest of one snapshot."""
    await write_history(store, conversation, 3, 30_000)
    with GatewayProcess(deployment.server.url) as gateway, socket.socket() as stopped:
        port = int(gateway.url.rsplit(":", 1)[1])
        stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stopped.connect(("127.0.0.1", port))
        stopped.sendall(HANDSHAKE)
        assert (await asyncio.to_thread(stopped.recv, 100)).startswith(b"HTTP/1.1 101")
        stopped.sendall(words(conversation))
        begun = time.monotonic()
        async with asyncio.timeout(UNREACHABLE_WITHIN_S):
            while connected(gateway, port):
                await asyncio.sleep(0.1)
        print(f"freed after {time.monotonic() - begun:.1f} s")


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
