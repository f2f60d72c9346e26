"""An open WebSocket by plain ASGI: the way under a server that offers no better one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from starlette.websockets import WebSocketDisconnect

from gateway.frame_batch import FrameBatch

if TYPE_CHECKING:
    from starlette.types import Message
    from starlette.websockets import WebSocket

    from gateway.transports.websocket import Connection

logger = logging.getLogger(__name__)


class AsgiSocket:
    """See `gateway.transports.websocket.Socket`; after each burst the client takes no more until that was sent."""

    direct: Final = None

    def __init__(self, socket: WebSocket) -> None:
        """`socket` is accepted."""
        self._socket = socket
        self._pending = FrameBatch()
        self._connection: Connection | None = None
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self._over = asyncio.Event()

    def write(self, burst: FrameBatch) -> None:
        """See `Socket.write`."""
        self._pending += burst
        self._wake.set()
        if self._connection is not None:
            self._connection.filled()

    def close(self, code: int, reason: str) -> None:
        """See `Socket.close`."""
        self._closing = code, reason
        self._wake.set()

    def abort(self) -> None:
        """See `Socket.abort`."""
        self._over.set()

    async def serve(self, connection: Connection) -> None:
        """Bring what happens to this connection, until the socket is closed."""
        self._connection = connection
        tasks = [
            asyncio.create_task(work) for work in (self._read(connection), self._write(connection), self._over.wait())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            connection.lost()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, (WebSocketDisconnect, OSError)):
                raise error

    async def _read(self, connection: Connection) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] != "websocket.receive":
                return
            text = message.get("text")
            connection.receive(text if text is not None else message["bytes"])

    async def _write(self, connection: Connection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            frames, self._pending = self._pending, FrameBatch()
            for frame in frames:
                await self._send({"type": "websocket.send", "text": frame.body.decode()})
            if self._pending:
                continue
            if self._closing is not None:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return
            connection.drained()

    async def _send(self, message: Message) -> None:
        try:
            await self._socket.send(message)
        except RuntimeError:
            # Starlette and uvicorn say so when a close frame is out already, for a frame too big or not UTF-8.
            raise WebSocketDisconnect from None
