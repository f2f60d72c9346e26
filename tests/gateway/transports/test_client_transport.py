"""A client's connection: one that takes what was written slowly is kept, one that stops is aborted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway import write_progress
from gateway.connections import Connections
from gateway.transports.client_transport import ClientTransport
from gateway.transports.read_turns import ReadTurns
from gateway.write_progress import MIN_BYTES_PER_S

WINDOW_S = 0.02
ENOUGH = int(MIN_BYTES_PER_S * WINDOW_S)


class FakeTransport:
    """A transport whose write buffer has these sizes, one at each look; the last one remains."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = list(sizes)
        self.aborted = asyncio.Event()
        self.closing = False

    def get_write_buffer_size(self) -> int:
        return self.sizes.pop(0) if len(self.sizes) > 1 else self.sizes[0]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.aborted.set()


class Nothing(asyncio.Protocol):
    """A protocol that does nothing."""


@pytest.fixture(autouse=True)
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_progress, "WRITE_WITHIN_S", WINDOW_S)


def connected(transport: FakeTransport) -> ClientTransport:
    connections: Connections[ClientTransport] = Connections(10, None)
    client = ClientTransport(Nothing(), connections, None, ReadTurns())
    client.connection_made(transport)  # type: ignore[arg-type]
    return client


async def test_client_that_stops_reading_is_aborted() -> None:
    transport = FakeTransport(100 * ENOUGH, 99 * ENOUGH, 98 * ENOUGH, 97 * ENOUGH)
    client = connected(transport)
    client.require_progress()
    # A second call does not begin another window.
    client.require_progress()
    async with asyncio.timeout(60):
        await transport.aborted.wait()
    assert transport.sizes == [97 * ENOUGH]


async def test_client_is_not_watched_when_its_buffer_has_drained() -> None:
    transport, witness = FakeTransport(100 * ENOUGH), FakeTransport(100 * ENOUGH)
    client = connected(transport)
    client.require_progress()
    client.stop_requiring_progress()
    connected(witness).require_progress()
    async with asyncio.timeout(60):
        await witness.aborted.wait()
    assert not transport.aborted.is_set()


async def test_closed_connection_is_flushed_while_its_client_reads() -> None:
    transport = FakeTransport(3 * ENOUGH, 2 * ENOUGH, ENOUGH)
    client = connected(transport)
    client.close()
    assert transport.closing
    async with asyncio.timeout(60):
        await transport.aborted.wait()
    assert transport.sizes == [ENOUGH]
    client.connection_lost(None)
