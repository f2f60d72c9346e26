"""The network misbehaves as it is told to, and only then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.chaos.link import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """A link to a server that says what it hears."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Link(server.sockets[0].getsockname()[:2]) as opened:
        yield opened
    server.close()


async def through(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", link.port)


async def test_good_weather(link: Link) -> None:
    reader, writer = await through(link)
    writer.write(b"x" * 500_000)
    assert await reader.readexactly(500_000) == b"x" * 500_000
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    "worsen",
    [
        lambda link: setattr(link.down, "latency", 0.05),
        lambda link: setattr(link.up, "jitter", 0.05),
        lambda link: setattr(link.down, "slice", 3),
        lambda link: setattr(link.down, "rate", 20_000.0),
    ],
)
async def test_bytes_come_late_or_in_pieces_and_in_order(link: Link, worsen: Callable[[Link], None]) -> None:
    worsen(link)
    reader, writer = await through(link)
    said = b"".join(b"%05d" % number for number in range(500))
    for begin in range(0, len(said), 100):
        writer.write(said[begin : begin + 100])
        await asyncio.sleep(0)
    assert await reader.readexactly(len(said)) == said
    writer.close()


async def test_what_was_said_into_a_hole_comes_when_it_closes(link: Link) -> None:
    reader, writer = await through(link)
    link.up.hole = True
    writer.write(b"hello")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.05)
    link.clears()
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def test_a_cut_and_a_limit_reset_connections(link: Link) -> None:
    for worsen in (link.cut, lambda: setattr(link.down, "limit", 3)):
        reader, writer = await through(link)
        writer.write(b"ab")
        assert await reader.readexactly(2) == b"ab"
        worsen()
        writer.write(b"cd")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(2)
        writer.close()


async def test_a_reply_is_swallowed_with_its_connection(link: Link) -> None:
    reader, writer = await through(link)
    link.down.swallow = True
    writer.write(b"hello")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    assert not link.down.swallow
    writer.close()


async def test_a_half_closed_connection_says_nothing_more_and_still_listens(link: Link) -> None:
    reader, writer = await through(link)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    link.half_close()
    assert await reader.read() == b""
    writer.write(b"b")
    await writer.drain()
    writer.close()


async def test_who_subscribes_may_be_deaf(link: Link) -> None:
    reader, writer = await through(link)
    other_reader, other = await through(link)
    link.down.deaf = True
    writer.write(b"SUBSCRIBE x\r\n")
    other.write(b"PING\r\n")
    assert await other_reader.readexactly(6) == b"PING\r\n"
    link.down.deaf = False
    writer.write(b"again")
    assert await reader.readexactly(5) == b"again"
    writer.close()
    other.close()


async def test_it_leads_elsewhere(link: Link) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"elsewhere")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    link.target = server.sockets[0].getsockname()[:2]
    reader, writer = await through(link)
    assert await reader.read() == b"elsewhere"
    writer.close()
    server.close()
