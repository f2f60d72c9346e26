"""A connection that ends leaves nothing behind: neither a reference cycle nor memory.

The garbage collector runs rarely in a gateway, so a cycle that holds a snapshot would be kept for minutes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway import app
from gateway.cli.settings import load
from gateway.process.collection_policy import CollectionPolicy, Due
from gateway.process.collector import collect_if_due, resident_bytes
from gateway.streams.store.store import open_store
from tests.live.processes import GatewayProcess
from tests.live.test_bad_input import TEXT, handshake, spelled
from tests.live.test_rfc6455 import served

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.live

COUNT: Final = 20
EVENTS: Final = b"GET /v1/conversations/c/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def read_events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(EVENTS)
    await reader.readuntil(b"snapshot")


async def read_snapshot(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(EVENTS.replace(b"/events", b""))
    await reader.readuntil(b"snapshot")


async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(handshake())
    await reader.readuntil(b"\r\n\r\n")
    for frame, reply in ({"type": "hello"}, b"ready"), ({"type": "watch", "conversation": "c"}, b"snapshot"):
        writer.write(spelled(TEXT, json.dumps(frame).encode()))
        await reader.readuntil(reply)


async def refused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(handshake())
    await reader.readuntil(b"\r\n\r\n")
    writer.write(spelled(3, b"no such opcode"))
    await reader.read()


@pytest.mark.parametrize("client", [read_events, read_snapshot, watch, refused])
async def test_closed_connection_leaves_no_reference_cycle(client: Callable[..., Any]) -> None:
    settings = load({"store": "memory://", "requests": 0})
    store = await open_store(settings.store, settings.lifetimes)
    gateway = app.Gateway(settings, store, 0, None)
    try:
        async with gateway.run(), served(app.create(gateway, settings), gateway.tcp_connections) as port:
            gc.collect()
            gc.disable()
            for _ in range(COUNT):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                async with asyncio.timeout(10):
                    await client(reader, writer)
                writer.transport.abort()
            async with asyncio.timeout(10):
                while len(gateway.tcp_connections) or gateway.streams or gateway.connections:
                    await asyncio.sleep(0.01)
            del reader, writer
            # Tasks that were cancelled by the disconnect have ended too.
            await asyncio.sleep(0.05)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found = Counter(type(each).__qualname__ for each in gc.garbage if type(each).__module__[:8] != "fakeredi")
            own = [type(each) for each in gc.garbage if type(each).__module__.startswith(("gateway.", "uvicorn."))]
            assert own == [], found.most_common(10)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        await store.close()


def resident(gateway: GatewayProcess) -> float:
    for line in Path(f"/proc/{gateway.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


async def test_memory_returns_after_dropped_streams() -> None:
    """450 streams of a conversation with a large snapshot, each dropped at its first byte."""
    with GatewayProcess("memory://", "--requests", "0", command="run", TOKENWIRE_DEMO_RATE="0") as gateway:
        port = int(gateway.url.rsplit(":", 1)[1])

        async def drop() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(EVENTS)
            await reader.readuntil(b"snapshot")
            writer.transport.abort()

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(12):
            body = json.dumps({"text": f"/fail early {'x' * 31_000}"}).encode()
            head = f"POST /v1/conversations/c/messages HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k{number}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            assert b" 202 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"}")
        writer.close()
        for _ in range(50):
            await drop()
        before = resident(gateway)
        for _ in range(450):
            await drop()
        most = resident(gateway)
        deadline = time.monotonic() + 30
        while (after := resident(gateway)) > before * 1.1:
            assert time.monotonic() < deadline, f"{before:.0f} -> {most:.0f} -> {after:.0f} MiB"
            await asyncio.sleep(0.5)
        print(f"{before:.0f} -> {most:.0f} -> {after:.0f} MiB")


def test_cycle_is_collected_when_memory_has_grown() -> None:
    class Node:
        def __init__(self) -> None:
            self.self = self
            self.data = bytes(range(256)) * (1 << 20)

    gc.collect()
    gc.disable()
    try:
        policy = CollectionPolicy(resident_bytes(), time.monotonic())
        Node()
        grown = resident_bytes()
        collect_if_due(policy)
        assert resident_bytes() < grown - (200 << 20)
        assert policy.due(resident_bytes(), time.monotonic()) is Due.NOTHING
    finally:
        gc.enable()
