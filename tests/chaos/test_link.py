"""The fault-injecting proxy applies exactly the configured conditions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.chaos.link import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """A link to an echo server."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Link(server.sockets[0].getsockname()[:2]) as opened:
        yield opened
    server.close()


async def open_connection(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", link.port)


async def test_bytes_pass_unchanged_by_default(link: Link) -> None:
    reader, writer = await open_connection(link)
    writer.write(b"x" * 500_000)
    assert await reader.readexactly(500_000) == b"x" * 500_000
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    "degrade",
    [
        lambda link: setattr(link.down, "latency", 0.05),
        lambda link: setattr(link.up, "jitter", 0.05),
        lambda link: setattr(link.down, "chunk_bytes", 3),
        lambda link: setattr(link.down, "rate", 20_000.0),
    ],
)
async def test_delayed_or_fragmented_bytes_stay_in_order(link: Link, degrade: Callable[[Link], None]) -> None:
    degrade(link)
    reader, writer = await open_connection(link)
    sent = b"".join(b"%05d" % number for number in range(500))
    for begin in range(0, len(sent), 100):
        writer.write(sent[begin : begin + 100])
        await asyncio.sleep(0)
    assert await reader.readexactly(len(sent)) == sent
    writer.close()


async def test_blackholed_bytes_arrive_after_restore(link: Link) -> None:
    reader, writer = await open_connection(link)
    link.up.blackhole = True
    writer.write(b"hello")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.05)
    link.restore()
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def test_cut_and_byte_limit_reset_connections(link: Link) -> None:
    for degrade in (link.cut, lambda: setattr(link.down, "reset_after_bytes", 3)):
        reader, writer = await open_connection(link)
        writer.write(b"ab")
        assert await reader.readexactly(2) == b"ab"
        degrade()
        writer.write(b"cd")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(2)
        writer.close()


async def test_dropped_reply_resets_its_connection(link: Link) -> None:
    reader, writer = await open_connection(link)
    link.down.drop_next = True
    writer.write(b"hello")
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    assert not link.down.drop_next
    writer.close()


async def test_half_closed_connection_still_sends() -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1):
            received.put_nowait(data)
        writer.close()

    server = await asyncio.start_server(record, "127.0.0.1", 0)
    async with Link(server.sockets[0].getsockname()[:2]) as link:
        reader, writer = await open_connection(link)
        writer.write(b"a")
        assert await received.get() == b"a"
        link.half_close()
        assert await reader.read() == b""
        writer.write(b"b")
        assert await received.get() == b"b"
        writer.close()
    server.close()


async def test_dropped_publishes_affect_subscribers_only(link: Link) -> None:
    reader, writer = await open_connection(link)
    other_reader, other = await open_connection(link)
    link.down.drop_publishes = True
    writer.write(b"SUBSCRIBE x\r\n")
    other.write(b"PING\r\n")
    assert await other_reader.readexactly(6) == b"PING\r\n"
    link.down.drop_publishes = False
    writer.write(b"again")
    assert await reader.readexactly(5) == b"again"
    writer.close()
    other.close()


async def test_changed_target_receives_new_connections(link: Link) -> None:
    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"other server")
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    link.target = server.sockets[0].getsockname()[:2]
    reader, writer = await open_connection(link)
    assert await reader.read() == b"other server"
    writer.close()
    server.close()
