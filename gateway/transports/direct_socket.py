"""An open WebSocket directly on its transport, with write flow control: a write reaches the kernel within the call."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State

from gateway import metrics
from gateway.frame_budget import FrameBudget
from gateway.streams import safe_writes
from gateway.transports.send_queue import acknowledged_bytes, silence_s, unsent_bytes
from gateway.wire import Close

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.protocol import Protocol
    from websockets.typing import BytesLike

    from gateway.frame_batch import FrameBatch
    from gateway.transports.client_transport import ClientTransport
    from gateway.transports.websocket import Connection

HIGH_WATER_BYTES: Final = 32_768
"""Bytes in the write buffer of this process at which writing is paused (backpressure)."""

LOW_WATER_BYTES: Final = 8_192
"""Bytes in the write buffer at which writing resumes. With uvloop's default of 16 bytes a fast client would wait."""

CLOSE_WITHIN_S: Final = 3.0
"""Time in which a client must answer a close frame (RFC 6455, section 7.1.1)."""

READ_BYTES: Final = 4_096
"""Bytes of one read: at most 680 frames, about 8 ms of work, until the frame budget is checked."""

READ_BYTES_BEFORE_MESSAGE: Final = 1_024
"""Bytes of one read before the first message, which is `hello`. Then the client has shown no token."""

_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class DirectSocket(asyncio.Protocol):
    """The protocol of a client's transport after the handshake; see `gateway.transports.websocket.Socket`."""

    __slots__ = (
        "_budget",
        "_close_timer",
        "_connection",
        "_flooded",
        "_is_text",
        "_message",
        "_open_sockets",
        "_parser",
        "_paused",
        "_transport",
        "direct_write",
    )

    def __init__(self, transport: ClientTransport, parser: Protocol, open_sockets: set[Any]) -> None:
        """`parser` has parsed the handshake. `open_sockets`: the server's set of protocols to shut down."""
        self._transport = transport
        self.direct_write = transport.unchecked_write
        """See `Socket.direct_write`."""
        self._parser = parser
        self._open_sockets = open_sockets
        self._connection: Connection | None = None
        self._budget = FrameBudget()
        self._message: bytearray | None = None
        """Fragments of a message that is not complete, joined: an empty fragment takes no memory."""
        self._is_text = False
        self._paused = False
        self._flooded = False
        """Whether the client sent more frames than the budget allows: nothing more is read."""
        self._close_timer: asyncio.TimerHandle | None = None
        safe_writes.set_write_buffer_limits(transport, HIGH_WATER_BYTES, LOW_WATER_BYTES)
        transport.set_read_size(READ_BYTES_BEFORE_MESSAGE)
        open_sockets.add(self)

    async def serve(self, connection: Connection) -> None:
        """Call the methods of the connection from now on; return immediately. Safe to cancel."""
        self._connection = connection

    @property
    def unsent(self) -> int:
        """See `Socket.unsent`."""
        return unsent_bytes(self._transport)

    @property
    def silence(self) -> float:
        """See `Socket.silence`."""
        return silence_s(self._transport)

    @property
    def acknowledged(self) -> int:
        """See `Socket.acknowledged`."""
        return acknowledged_bytes(self._transport)

    def write(self, batch: FrameBatch) -> None:
        """Write frames; see `Socket.write`."""
        safe_writes.write(self._transport, batch.encoded)

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
        if self._flooded or self._transport.is_closing():
            # The client was refused already, and may not read its close frame.
            self.abort()
        else:
            self.close(CloseCode.SERVICE_RESTART, "")

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._flooded:
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
            safe_writes.pause_reading(self._transport)
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = False
        if self._close_timer is None:
            safe_writes.resume_reading(self._transport)
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
        # The parser, its generator and its exception refer to each other.
        self._parser.parser.close()
        self._parser.parser_exc = None

    def _handle_events(self) -> None:
        frames = self._parser.events_received()
        if not self._within_budget(frames):
            self._refuse_flood()
            return
        for frame in frames:
            assert isinstance(frame, Frame)
            if frame.opcode in _DATA:
                if frame.opcode is not Opcode.CONT:
                    self._is_text = frame.opcode is Opcode.TEXT
                self._add(frame.data, last=frame.fin)
        if self._parser.state is not State.OPEN:
            self._begin_to_close()
        self._write_replies()

    def _add(self, data: BytesLike, *, last: bool) -> None:
        if self._message is None and last:
            self._deliver(data)
        elif self._message is None:
            self._message = bytearray(data)
        else:
            self._message += data
            if last:
                message, self._message = self._message, None
                self._deliver(message)

    def _within_budget(self, frames: Sequence[Any]) -> bool:
        budget, count = self._budget, len(frames)
        if not budget.in_use:
            first = next((n for n, frame in enumerate(frames) if frame.fin and frame.opcode in _DATA), None)
            if not budget.spend(count if first is None else first, 0.0):
                return False
            if first is None:
                return True
            budget.first_message(time.monotonic())
            self._transport.set_read_size(READ_BYTES)
            count -= first
        return budget.spend(count, time.monotonic())

    def _refuse_flood(self) -> None:
        # The replies to a flood are one too.
        self._parser.data_to_send()
        if self._parser.state is State.OPEN:
            metrics.CLOSED.labels(str(int(Close.TOO_FAST))).inc()
            self.close(Close.TOO_FAST, "too many frames")
        else:
            self._begin_to_close()
        # The connection is aborted when the time for the closing handshake has passed.
        self._flooded = True
        safe_writes.pause_reading(self._transport)

    def _deliver(self, data: BytesLike) -> None:
        # Pongs that are due leave before the answers to the message (RFC 6455, section 5.5.2: as soon as is practical).
        self._write_replies()
        try:
            message = str(data, "utf-8") if self._is_text else bytes(data)
        except UnicodeDecodeError:
            self._parser.fail(CloseCode.INVALID_DATA)
            return
        if self._connection is not None and self._parser.state is State.OPEN:
            self._connection.receive(message)

    def _write_replies(self) -> None:
        replies = self._parser.data_to_send()
        if not replies:
            return
        safe_writes.write(self._transport, b"".join(replies))
        if b"" in replies and self._parser.close_rcvd is None:
            # The client broke the protocol.
            self._transport.linger()
        elif b"" in replies:
            # Both sides sent a close frame. The write buffer is still flushed.
            self._transport.close()

    def _begin_to_close(self) -> None:
        if self._close_timer is None:
            if self._connection is not None:
                # Before the close frame is written: no frame may follow it (RFC 6455, section 5.5.1).
                self._connection.closing()
            self._close_timer = asyncio.get_running_loop().call_later(CLOSE_WITHIN_S, self._transport.abort)
            if self._paused:
                # The client's close frame arrives after the data that was not read yet.
                safe_writes.resume_reading(self._transport)
