"""One TCP connection of a client, from its opening to its end, whichever protocol it speaks.

It stands between the event loop's transport and the protocols of uvicorn and of this package. So three things hold for
all of them: each connection is counted, the work of one read is bounded, and a call on a closed transport is ignored.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from gateway.addresses import counted_as
from gateway.streams import metrics, safe_writes
from gateway.streams.log_fields import error_fields
from gateway.transports.refusals import slow_consumer_disconnected
from gateway.transports.send_queue import acknowledged_bytes, silence_s, unsent_bytes
from gateway.write_progress import WriteProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from gateway.addresses import Proxies
    from gateway.connections import Connections, Limit
    from gateway.transports.read_turns import ReadTurns

logger = logging.getLogger(__name__)

READ_BYTES: Final = 16_384
"""Bytes of one read. uvloop reads 256 kB at once, of which a parser would make thousands of objects."""

LINGER_WITHIN_S: Final = 3.0
"""Time in which a client whose request was refused must close its side."""

MAX_DISCARDED_BYTES: Final = 262_144
"""Bytes that are read and dropped after a refusal; then nothing more is read."""

CONNECTION: Final = "tokenwire.connection"
"""Extension of an ASGI scope: the `ClientTransport` of the request."""

# One for all connections: the event loop fills it and passes it on within the same call.
_BUFFER: Final = memoryview(bytearray(READ_BYTES))


class ClientTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The protocol of the event loop's transport, and the transport of the protocol of the client."""

    __slots__ = (
        "_connections",
        "_deadline",
        "_discarded",
        "_held",
        "_owner",
        "_paused",
        "_progress",
        "_progress_timer",
        "_protocol",
        "_proxies",
        "_read_buffer",
        "_transport",
        "_turns",
        "_waits",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        protocol: asyncio.Protocol,
        connections: Connections[ClientTransport],
        proxies: Proxies | None,
        turns: ReadTurns,
    ) -> None:
        """`connections`, `turns`: all connections and reads of this port.

        `proxies`: whose addresses are not those of clients.
        """
        super().__init__()
        self._turns = turns
        self._owner: Hashable = self
        """Whose turn a read takes: that of the address, or of this connection of a proxy."""
        self._held: bytes | None = None
        """What was read and waits for its turn; nothing more is read until then."""
        self._waits = False
        """Whether `_proceed` is to be called."""
        self._paused = False
        """Whether the protocol paused reading."""
        self._protocol: asyncio.Protocol | None = protocol
        self._connections = connections
        self._proxies = proxies
        self._read_buffer = _BUFFER
        self._deadline: asyncio.TimerHandle | None = None
        self._progress: WriteProgress | None = None
        """Whether the client takes what was written; None while it need not."""
        self._progress_timer: asyncio.TimerHandle | None = None
        self._discarded: int | None = None
        """Bytes that were dropped since `linger`; None before it."""

    @property
    def beyond(self) -> Limit | None:
        """The connection limit that this connection is beyond: it may ask the probes, or be told when to retry."""
        return self._connections.beyond(self)

    @property
    def unchecked_write(self) -> Callable[[bytes], None]:
        """See `safe_writes.unchecked_write`."""
        return safe_writes.unchecked_write(self._transport)

    def set_read_size(self, size: int) -> None:
        """Set the bytes of one read from now on; at most READ_BYTES."""
        self._read_buffer = _BUFFER[:size]

    def set_deadline(self, seconds: float | None) -> None:
        """Abort the connection after so many seconds, or (None) not any more."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, self.abort)

    @property
    def has_deadline(self) -> bool:
        """Whether `set_deadline` is in effect."""
        return self._deadline is not None

    @property
    def silence(self) -> float:
        """Seconds for which the client has acknowledged nothing; 0 if all that was written is acknowledged."""
        return silence_s(self._transport)

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the client has not taken."""
        return unsent_bytes(self._transport)

    @property
    def acknowledged(self) -> int:
        """See `acknowledged_bytes`."""
        return acknowledged_bytes(self._transport)

    def require_progress(self) -> None:
        """Abort the connection if its client stops to take what was written; see `gateway.write_progress`."""
        if self._progress is None:
            self._progress = WriteProgress(unsent_bytes(self._transport), asyncio.get_running_loop().time())
            self._progress_timer = asyncio.get_running_loop().call_at(self._progress.due, self._check_progress)

    def stop_requiring_progress(self) -> None:
        """Let the client take its time: little of what was written is left."""
        self._progress = None
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None

    def _check_progress(self) -> None:
        assert self._progress is not None
        if self._progress.stalled(unsent_bytes(self._transport), asyncio.get_running_loop().time()):
            slow_consumer_disconnected()
            self.abort()
        else:
            self._progress_timer = asyncio.get_running_loop().call_at(self._progress.due, self._check_progress)

    def linger(self) -> None:
        """Write nothing more, and close when the client has read the last of it.

        A connection that is closed with unread data is reset, and a reset may reach the client before the refusal.
        """
        if not self.is_closing():
            self._discarded = 0
            self._held = None
            safe_writes.write_eof(self._transport)
            self._read_buffer = _BUFFER
            safe_writes.resume_reading(self._transport)
            self.set_deadline(LINGER_WITHIN_S)

    def busy(self) -> None:
        """Keep this connection open: a complete request has arrived."""
        self._connections.busy(self)

    def silent(self) -> None:
        """Let this connection make room for newer ones: all requests are answered."""
        self._connections.silent(self, asyncio.get_running_loop().time())

    # The protocol of the event loop's transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.BufferedProtocol`."""
        self._transport = transport
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        counted = None if self._proxies is not None and self._proxies.trusts(address) else address
        if counted:
            self._owner = counted_as(counted)
        victim = self._connections.open(self, counted, asyncio.get_running_loop().time())
        if victim is self:
            self._protocol = None
            transport.abort()
            return
        if victim is not None:
            metrics.EVICTED.inc()
            victim.abort()
        assert self._protocol is not None
        self._protocol.connection_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        if self._discarded is not None:
            self._discarded += nbytes
            if self._discarded > MAX_DISCARDED_BYTES:
                safe_writes.pause_reading(self._transport)
        elif self._protocol is not None:
            turns, data = self._turns, bytes(_BUFFER[:nbytes])
            if turns.begin():
                try:
                    self._protocol.data_received(data)
                finally:
                    turns.end()
            else:
                self._held = data
                safe_writes.pause_reading(self._transport)
                self._wait()

    def _wait(self) -> None:
        if not self._waits:
            self._waits = True
            self._turns.wait(self._owner, self._proceed)

    def _proceed(self) -> None:
        """Pass the held bytes on, because it is the turn of this connection."""
        self._waits = False
        data, protocol = self._held, self._protocol
        if data is None or protocol is None or self._paused or self._transport.is_closing():
            return
        self._held = None
        try:
            protocol.data_received(data)
        except Exception as error:
            # As the event loop does it with a read.
            logger.error("read_failed", extra=error_fields(error))
            self.abort()
        if not self._paused:
            safe_writes.resume_reading(self._transport)

    def eof_received(self) -> bool | None:
        """See `asyncio.BufferedProtocol`."""
        if self._discarded is not None or self._protocol is None:
            return None
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._connections.close(self)
        self.set_deadline(None)
        self.stop_requiring_progress()
        # The protocol refers to this object too: without this, each closed connection would leave a reference cycle.
        protocol, self._protocol = self._protocol, None
        self._held = None
        if protocol is not None:
            protocol.connection_lost(exc)

    # The transport of the protocol of the client.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `asyncio.BaseTransport`."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See `asyncio.BaseTransport`."""
        assert isinstance(protocol, asyncio.Protocol)
        if self._protocol is not None:
            self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See `asyncio.BaseTransport`."""
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._discarded is not None or self._transport.is_closing()

    def close(self) -> None:
        """See `asyncio.BaseTransport`."""
        if not self.is_closing():
            self._transport.close()
            self.set_deadline(None)
            self.require_progress()

    def abort(self) -> None:
        """See `asyncio.WriteTransport`."""
        self._transport.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `asyncio.WriteTransport`."""
        if self._discarded is None:
            safe_writes.write(self._transport, data)

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._paused = True
        safe_writes.pause_reading(self._transport)

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._paused = False
        if self._held is not None and self._discarded is None:
            self._wait()
        else:
            safe_writes.resume_reading(self._transport)

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport`."""
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See `asyncio.WriteTransport`."""
        assert high is not None
        assert low is not None
        safe_writes.set_write_buffer_limits(self._transport, high, low)
