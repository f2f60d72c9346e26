"""A switch in front of the gateways of one machine: one port, and behind it whichever gateway there is.

For `tokenwire run --gateways 2`, where somebody wants to see a gateway die. It knows nothing of what it carries, and in
production a load balancer does better.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Iterable

REACHED_WITHIN: Final = 10.0
"""Seconds for which a connection waits for a gateway, when none is there."""

AGAIN_AFTER: Final = 0.05
PIECE: Final = 65_536


class FailoverProxy:
    """All connections go to one gateway, and all new ones to the next as soon as that one is gone."""

    def __init__(self, places: Iterable[tuple[str, int]]) -> None:
        """`places`: host and port of each gateway."""
        self._places = list(places)

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Carry what comes to a listening socket, until the server is closed."""
        return await asyncio.start_server(self._join, sock=listener)

    async def _join(self, reader: StreamReader, writer: StreamWriter) -> None:
        far = await self._reach()
        writers = [writer] if far is None else [writer, far[1]]
        try:
            if far is not None:
                there = asyncio.create_task(_carry(reader, far[1]))
                back = asyncio.create_task(_carry(far[0], writer))
                # Where one of them goes, the other has nobody to speak to.
                _, pending = await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
                for task in pending:
                    task.cancel()
        finally:
            for each in writers:
                each.close()

    async def _reach(self) -> tuple[StreamReader, StreamWriter] | None:
        deadline = time.monotonic() + REACHED_WITHIN
        while time.monotonic() < deadline:
            for _ in self._places:
                try:
                    return await asyncio.open_connection(*self._places[0])
                except OSError:
                    self._places.append(self._places.pop(0))
            await asyncio.sleep(AGAIN_AFTER)
        return None


async def _carry(reader: StreamReader, writer: StreamWriter) -> None:
    try:
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass  # one of them is gone
