"""Turns of reads: a bounded time in each iteration of the event loop, addresses in turn, nothing lost or reordered."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from gateway.connections import Connections
from gateway.transports import client_transport
from gateway.transports.client_transport import ClientTransport
from gateway.transports.read_turns import MAX_WORK_S, WINDOW_S, ReadTurns


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Lower:
    """The event loop's transport."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.reading = True
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.address, 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write_eof(self) -> None:
        pass

    def abort(self) -> None:
        self.closing = True


class Costly(asyncio.Protocol):
    """A protocol whose reads take a time of the clock."""

    def __init__(self, log: list[tuple[str, bytes]], clock: Clock, seconds: float) -> None:
        self.log, self.clock, self.seconds = log, clock, seconds
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.clock.now += self.seconds
        self.log.append((self.transport.get_extra_info("peername")[0], data))
        if data == b"fail":
            raise ValueError


def connection(
    turns: ReadTurns, protocol: asyncio.Protocol, address: str = "203.0.113.9"
) -> tuple[ClientTransport, Lower]:
    client, lower = ClientTransport(protocol, Connections(1000, None), None, turns), Lower(address)
    client.connection_made(lower)  # type: ignore[arg-type]
    return client, lower


def reads(client: ClientTransport, data: bytes) -> None:
    client.get_buffer(-1)[: len(data)] = data
    client.buffer_updated(len(data))


async def test_reads_beyond_the_time_of_an_iteration_wait_for_the_next_and_addresses_take_turns() -> None:
    log, clock = list[tuple[str, bytes]](), Clock()
    turns = ReadTurns(clock)
    many = [connection(turns, Costly(log, clock, MAX_WORK_S / 2)) for _ in range(10)]
    other, _ = connection(turns, Costly(log, clock, MAX_WORK_S / 2), "203.0.113.77")
    for client, _ in many:
        reads(client, b"x")
    reads(other, b"y")
    assert len(log) == 2
    assert [lower.reading for _, lower in many] == [True] * 2 + [False] * 8
    counts = []
    while len(log) < 11:
        before = len(log)
        await asyncio.sleep(0)
        counts.append(len(log) - before)
    assert max(counts) == 2
    assert log[3] == ("203.0.113.77", b"y")
    assert all(lower.reading for _, lower in many)


async def test_time_is_counted_anew_after_a_window() -> None:
    log, clock = list[tuple[str, bytes]](), Clock()
    client, _ = connection(ReadTurns(clock), Costly(log, clock, MAX_WORK_S))
    for _ in range(3):
        reads(client, b"x")
        clock.now += WINDOW_S
    assert len(log) == 3


async def held(log: list[tuple[str, bytes]]) -> tuple[ClientTransport, Lower, Costly]:
    """Return a connection whose read waits."""
    clock = Clock()
    turns = ReadTurns(clock)
    first, _ = connection(turns, Costly(log, clock, MAX_WORK_S))
    reads(first, b"first")
    protocol = Costly(log, clock, 0.0)
    client, lower = connection(turns, protocol)
    reads(client, b"held")
    assert not lower.reading
    return client, lower, protocol


async def test_protocol_that_pauses_gets_what_waits_after_it_resumes() -> None:
    log = list[tuple[str, bytes]]()
    client, lower, _ = await held(log)
    client.pause_reading()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(log) == 1
    client.resume_reading()
    assert not lower.reading
    for _ in range(5):
        await asyncio.sleep(0)
    assert log[1][1] == b"held"
    assert lower.reading


@pytest.mark.parametrize("end", ["connection_lost", "linger", "abort"])
async def test_what_waits_is_dropped_when_the_connection_ends(end: str) -> None:
    log = list[tuple[str, bytes]]()
    client, _, _ = await held(log)
    getattr(client, end)(*([None] if end == "connection_lost" else []))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(log) == 1
    client.set_deadline(None)


async def test_fault_of_one_read_aborts_its_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    log, clock = list[tuple[str, bytes]](), Clock()
    turns = ReadTurns(clock)
    clients = [connection(turns, Costly(log, clock, MAX_WORK_S)) for _ in range(3)]
    with caplog.at_level(logging.ERROR, client_transport.logger.name):
        for (client, _), data in zip(clients, (b"x", b"fail", b"z"), strict=True):
            reads(client, data)
        for _ in range(5):
            await asyncio.sleep(0)
    assert [data for _, data in log] == [b"x", b"fail", b"z"]
    assert [lower.closing for _, lower in clients] == [False, True, False]
    assert [record.message for record in caplog.records] == ["read_failed"]
