"""An open WebSocket directly on its transport, with write flow control: a write reaches the kernel within the call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State

from gateway.transports.send_queue import unsent_bytes

if TYPE_CHECKING:
    from websockets.protocol import Protocol

    from gateway.frame_batch import FrameBatch
    from gateway.transports.websocket import Connection

HIGH_WATER_BYTES: Final = 32_768
"""Bytes in the write buffer of this process at which writing is paused (backpressure)."""

LOW_WATER_BYTES: Final = 8_192
"""Bytes in the write buffer at which writing resumes. With uvloop's default of 16 bytes a fast client would wait."""

CLOSE_WITHIN_S: Final = 3.0
"""Time in which a client must answer a close frame (RFC 6455, section 7.1.1)."""


class DirectSocket(asyncio.Protocol):
    """The protocol of a transport after the handshake; see `gateway.transports.websocket.Socket`."""

    __slots__ = (
        "_close_timer",
        "_connection",
        "_early",
        "_fragments",
        "_open_sockets",
        "_parser",
        "_paused",
        "_transport",
        "direct_write",
    )

    def __init__(
        self, transport: asyncio.Transport, parser: Protocol, early: list[str | bytes], open_sockets: set[Any]
    ) -> None:
        """`parser` has parsed the handshake; `early` are messages that arrived with it.

        `open_sockets`: the server's set of protocols to shut down.
        """
        self._transport = transport
        self.direct_write = transport.write
        """See `Socket.direct_write`."""
        self._parser = parser
        self._early = early
        self._open_sockets = open_sockets
        self._connection: Connection | None = None
        self._fragments: list[Frame] = []
        """Frames of a message that is not complete."""
        self._paused = False
        self._close_timer: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(HIGH_WATER_BYTES, LOW_WATER_BYTES)
        open_sockets.add(self)

    async def serve(self, connection: Connection) -> None:
        """Call the methods of the connection from now on; return immediately. Safe to cancel."""
        self._connection = connection
        for message in self._early:
            connection.receive(message)
        self._early.clear()

    @property
    def unsent(self) -> int:
        """See `Socket.unsent`."""
        return unsent_bytes(self._transport)

    def write(self, batch: FrameBatch) -> None:
        """Write frames; see `Socket.write`."""
        self._transport.write(batch.encoded)

    def close(self, code: int, reason: str) -> None:
        """Close with a closing handshake; see `Socket.close`."""
        if self._parser.state is State.OPEN:
            self._parser.send_close(code, reason)
            self._begin_to_close()
            self._write_replies()

    def abort(self) -> None:
        """Close immediately; see `Socket.abort`."""
        self._transport.abort()

    def shutdown(self) -> None:
        """Close because the server does; uvicorn calls this for each of its connections."""
        self.close(CloseCode.SERVICE_RESTART, "")

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parser.receive_data(data)
        self._handle_events()

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self._parser.receive_eof()
        self._handle_events()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = True
        if self._close_timer is None:
            # Each request of a client that does not read would add a reply to the write buffer.
            self._transport.pause_reading()
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = False
        if self._close_timer is None:
            self._transport.resume_reading()
            if self._connection is not None:
                self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._open_sockets.discard(self)
        if self._close_timer is not None:
            self._close_timer.cancel()
        if self._connection is not None:
            self._connection.connection_lost()
            self._connection = None

    def _handle_events(self) -> None:
        for frame in self._parser.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._fragments.append(frame)
                if frame.fin:
                    self._deliver()
        if self._parser.state is not State.OPEN:
            self._begin_to_close()
        self._write_replies()

    def _deliver(self) -> None:
        frames, self._fragments = self._fragments, []
        data = b"".join([frame.data for frame in frames])
        try:
            message = data.decode() if frames[0].opcode is Opcode.TEXT else data
        except UnicodeDecodeError:
            self._parser.fail(CloseCode.INVALID_DATA)
            return
        if self._connection is not None and self._parser.state is State.OPEN:
            self._connection.receive(message)

    def _write_replies(self) -> None:
        for data in self._parser.data_to_send():
            if data:
                self._transport.write(data)
            else:
                # Both sides sent a close frame, or the client broke the protocol. The write buffer is still flushed.
                self._transport.close()

    def _begin_to_close(self) -> None:
        if self._close_timer is None:
            if self._connection is not None:
                # Before the close frame is written: no frame may follow it (RFC 6455, section 5.5.1).
                self._connection.closing()
            self._close_timer = asyncio.get_running_loop().call_later(CLOSE_WITHIN_S, self._transport.abort)
            if self._paused:
                # The client's close frame arrives after the data that was not read yet.
                self._transport.resume_reading()
