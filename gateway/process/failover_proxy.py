"""A TCP proxy in front of several gateways of one machine, for `tokenwire run --gateways 2`.

It lets a user kill a gateway and see the page continue. In production a load balancer does this.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from gateway.streams import safe_writes

if TYPE_CHECKING:
    import socket
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Iterable

CONNECT_WITHIN_S: Final = 10.0
"""How long a connection waits while no gateway accepts it."""

RETRY_AFTER_S: Final = 0.05
CHUNK_BYTES: Final = 65_536


class FailoverProxy:
    """Sends all connections to one gateway, and all new ones to the next when that one is unavailable."""

    def __init__(self, endpoints: Iterable[tuple[str, int]]) -> None:
        """`endpoints`: host and port of each gateway."""
        self._endpoints = list(endpoints)

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Return a server that forwards the connections of a listening socket until it is closed. Safe to cancel."""
        return await asyncio.start_server(self._forward, sock=listener)

    async def _forward(self, reader: StreamReader, writer: StreamWriter) -> None:
        upstream = await self._connect()
        writers = [writer] if upstream is None else [writer, upstream[1]]
        try:
            if upstream is not None:
                up = asyncio.create_task(_copy(reader, upstream[1]))
                down = asyncio.create_task(_copy(upstream[0], writer))
                # When one side closes, the other side has no peer any more.
                _, pending = await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
                for task in pending:
                    task.cancel()
        finally:
            for each in writers:
                each.close()

    async def _connect(self) -> tuple[StreamReader, StreamWriter] | None:
        deadline = time.monotonic() + CONNECT_WITHIN_S
        while time.monotonic() < deadline:
            for _ in self._endpoints:
                try:
                    return await asyncio.open_connection(*self._endpoints[0])
                except OSError:
                    self._endpoints.append(self._endpoints.pop(0))
            await asyncio.sleep(RETRY_AFTER_S)
        return None


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            safe_writes.write(writer.transport, chunk)
            await writer.drain()
    except OSError:
        pass  # one side closed
