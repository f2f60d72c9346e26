"""An open WebSocket over plain ASGI, for servers without direct access to the transport."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.websockets import WebSocketDisconnect

from gateway.frame_batch import FrameBatch

if TYPE_CHECKING:
    from starlette.types import Message
    from starlette.websockets import WebSocket

    from gateway.transports.websocket import Connection


class AsgiSocket:
    """See `gateway.transports.websocket.Socket`. ASGI has no flow control: writing is paused until a batch is sent."""

    direct_write: Final = None

    def __init__(self, socket: WebSocket) -> None:
        """`socket` is accepted."""
        self._socket = socket
        self._pending = FrameBatch()
        self.unsent = 0
        """See `Socket.unsent`; counted by frames, because ASGI does not show the write buffer."""
        self.silence: Final = 0.0
        """See `Socket.silence`; the server detects a client that does not acknowledge."""
        self.acknowledged = 0
        """See `Socket.acknowledged`; counted by frames too."""
        self._connection: Connection | None = None
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self._aborted = asyncio.Event()

    def write(self, batch: FrameBatch) -> None:
        """Write frames; see `Socket.write`."""
        self._pending += batch
        self.unsent += sum(len(frame.body) for frame in batch)
        self._wake.set()
        if self._connection is not None:
            self._connection.pause_writing()

    def close(self, code: int, reason: str) -> None:
        """Close with a closing handshake; see `Socket.close`."""
        self._closing = code, reason
        self._wake.set()

    def abort(self) -> None:
        """Close immediately; see `Socket.abort`."""
        self._aborted.set()

    async def serve(self, connection: Connection) -> None:
        """Call the methods of the connection until the socket is closed. Safe to cancel: that closes the socket."""
        self._connection = connection
        tasks = [
            asyncio.create_task(work)
            for work in (self._read(connection), self._write(connection), self._aborted.wait())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            connection.connection_lost()
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
                self.unsent -= len(frame.body)
                self.acknowledged += len(frame.body)
            if self._pending:
                continue
            if self._closing is not None:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return
            connection.resume_writing()

    async def _send(self, message: Message) -> None:
        try:
            await self._socket.send(message)
        except RuntimeError:
            # Starlette and uvicorn raise it after a close frame, which answers a frame that is too big or not UTF-8.
            raise WebSocketDisconnect from None
