"""An open WebSocket straight on its transport: what is written to it goes to the kernel within the call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State

if TYPE_CHECKING:
    from websockets.protocol import Protocol

    from gateway.frame_batch import FrameBatch
    from gateway.transports.websocket import Connection

HIGH_WATER: Final = 32_768
"""Bytes that wait in this process for a client that reads too slowly, before it is given nothing more."""

LOW_WATER: Final = 8_192
"""Bytes that are left when it is given more; uvloop's default of 16 bytes would let a fast client run dry."""

CLOSE_WITHIN: Final = 3.0
"""Seconds that a client has to answer a close frame (RFC 6455, section 7.1.1)."""


class DirectSocket(asyncio.Protocol):
    """The protocol of a transport from the accepted handshake on; see `gateway.transports.websocket.Socket`."""

    __slots__ = (
        "_closing",
        "_connection",
        "_early",
        "_full",
        "_messages",
        "_open_sockets",
        "_parser",
        "_transport",
        "direct",
    )

    def __init__(
        self, transport: asyncio.Transport, parser: Protocol, early: list[str | bytes], open_sockets: set[Any]
    ) -> None:
        """`parser` has seen the handshake, and `early` are messages that came with it.

        `open_sockets`: where the server looks for what it has to shut down.
        """
        self._transport = transport
        self.direct = transport.write
        """See `Socket.direct`."""
        self._parser = parser
        self._early = early
        self._open_sockets = open_sockets
        self._connection: Connection | None = None
        self._messages: list[Frame] = []
        self._full = False
        self._closing: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        open_sockets.add(self)

    async def serve(self, connection: Connection) -> None:
        """Bring what happens to this connection, from now on; it does not wait for the end."""
        self._connection = connection
        for message in self._early:
            connection.receive(message)
        self._early.clear()

    def write(self, burst: FrameBatch) -> None:
        """See `Socket.write`."""
        self._transport.write(burst.packet)

    def close(self, code: int, reason: str) -> None:
        """See `Socket.close`."""
        if self._parser.state is State.OPEN:
            self._parser.send_close(code, reason)
            self._begin_to_close()
            self._send()

    def abort(self) -> None:
        """See `Socket.abort`."""
        self._transport.abort()

    def shutdown(self) -> None:
        """Close because the server does; uvicorn calls this for each of its connections."""
        self.close(CloseCode.SERVICE_RESTART, "")

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parser.receive_data(data)
        self._heed()

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self._parser.receive_eof()
        self._heed()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._full = True
        if self._closing is None:
            # Who does not read is not listened to: every answer to it would be one more that waits.
            self._transport.pause_reading()
        if self._connection is not None:
            self._connection.filled()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._full = False
        if self._closing is None:
            self._transport.resume_reading()
            if self._connection is not None:
                self._connection.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._open_sockets.discard(self)
        if self._closing is not None:
            self._closing.cancel()
        if self._connection is not None:
            self._connection.lost()
            self._connection = None

    def _heed(self) -> None:
        for frame in self._parser.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._messages.append(frame)
                if frame.fin:
                    self._deliver()
        if self._parser.state is not State.OPEN:
            self._begin_to_close()
        self._send()

    def _deliver(self) -> None:
        frames, self._messages = self._messages, []
        data = b"".join([frame.data for frame in frames])
        try:
            message = data.decode() if frames[0].opcode is Opcode.TEXT else data
        except UnicodeDecodeError:
            self._parser.fail(CloseCode.INVALID_DATA)
            return
        if self._connection is not None and self._parser.state is State.OPEN:
            self._connection.receive(message)

    def _send(self) -> None:
        for data in self._parser.data_to_send():
            if data:
                self._transport.write(data)
            else:
                # Both have said that they close, or the client broke the protocol. What was written still goes out.
                self._transport.close()

    def _begin_to_close(self) -> None:
        if self._closing is None:
            if self._connection is not None:
                # First: nothing may follow a close frame (RFC 6455, section 5.5.1).
                self._connection.closing()
            self._closing = asyncio.get_running_loop().call_later(CLOSE_WITHIN, self._transport.abort)
            if self._full:
                # Its close frame is behind what it sends.
                self._transport.resume_reading()
