"""Fault-injecting TCP proxy. Its network conditions can be changed while connections are open.

async with Link(("127.0.0.1", 6379)) as link:
    link.down.latency = 0.2       # bytes from the server are delayed by 200 ms
    link.cut()                    # all connections are reset
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

MAX_BUFFERED_BYTES: Final = 65_536
"""Bytes buffered in one direction before reading from the sender is paused."""

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with a timeout of 0: closing sends RST instead of FIN."""


@dataclass(slots=True)
class Conditions:
    """Network conditions of one direction. Every field may be changed at any time."""

    latency: float = 0.0
    """Delay in seconds."""
    jitter: float = 0.0
    """Maximum random delay in seconds, added to `latency`."""
    rate: float = 0.0
    """Bytes a second; 0 for unlimited."""
    chunk_bytes: int = 0
    """Size of each write; 0 to write bytes as they were received."""
    blackhole: bool = False
    """Hold all bytes back."""
    drop_next: bool = False
    """Drop the next bytes and reset their connection."""
    drop_publishes: bool = False
    """Silently drop all data of connections that have subscribed."""
    reset_after_bytes: int = 0
    """Reset a connection after this many bytes; 0 for never."""

    @property
    def transparent(self) -> bool:
        """Return whether bytes can be forwarded immediately and unchanged."""
        return not (self.latency or self.jitter or self.rate or self.chunk_bytes or self.blackhole)

    def restore(self) -> None:
        """Reset all fields to their defaults."""
        self.latency = self.jitter = self.rate = 0.0
        self.chunk_bytes = self.reset_after_bytes = 0
        self.blackhole = self.drop_next = self.drop_publishes = False


class Link:
    """A proxy on its own port. It forwards connections to `target`, which may be changed."""

    def __init__(self, target: tuple[str, int], seed: int = 0) -> None:
        self.target = target
        self.up, self.down = Conditions(), Conditions()
        self.port = 0
        self.rng = random.Random(seed)
        self.connections: set[Connection] = set()
        self.changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def open(self) -> Self:
        """Listen on a free port of the loopback address."""
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self).near, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Stop listening and reset every connection."""
        if self._server is not None:
            self._server.close()
        self.cut()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def notify(self) -> None:
        """Wake up transfers that wait for changed conditions."""
        self.changed.set()
        self.changed = asyncio.Event()

    def restore(self) -> None:
        """Restore perfect conditions in both directions and forward held bytes."""
        self.up.restore()
        self.down.restore()
        self.notify()

    def cut(self) -> None:
        """Reset every connection."""
        for connection in list(self.connections):
            connection.cut()

    def half_close(self) -> None:
        """Send FIN to the client on every connection; the client may continue to send."""
        for connection in list(self.connections):
            connection.near.send_eof()


class Connection:
    """A proxied connection: `near` is the side of the client, `far` the side of the server."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.near, self.far = Side(self), Side(self)
        self.near.flow = Flow(self, link.up, self.near, self.far)
        self.far.flow = Flow(self, link.down, self.far, self.near)
        self.subscribes = False
        self._connecting: asyncio.Task[None] | None = None
        self._reset = False

    def connected(self, side: Side) -> None:
        """Handle a connected side."""
        if side is self.near:
            self.link.connections.add(self)
            self._connecting = asyncio.create_task(self._connect())
        else:
            self.near.flow.start()

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, *self.link.target)
        except OSError:
            self.cut()
        else:
            if self._reset:
                self.far.reset()

    def disconnected(self, side: Side) -> None:
        """Handle a closed side: close the other one after all pending bytes."""
        other = self.far if side is self.near else self.near
        side.flow.finish()
        if other.transport is None or other.transport.is_closing():
            self.link.connections.discard(self)

    def cut(self) -> None:
        """Reset both sides."""
        self._reset = True
        self.link.connections.discard(self)
        for side in (self.near, self.far):
            side.flow.drop()
            side.reset()


class Side(asyncio.Protocol):
    """One side of a proxied connection."""

    flow: Flow

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport: asyncio.Transport | None = None
        self._finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.connection.connected(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.flow.receive(data)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        self.flow.finish()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.connection.disconnected(self)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        other = self.connection.far if self is self.connection.near else self.connection.near
        other.set_reading(enabled=False)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        other = self.connection.far if self is self.connection.near else self.connection.near
        other.set_reading(enabled=True)

    def set_reading(self, *, enabled: bool) -> None:
        """Resume or pause reading from this side."""
        if self.transport is not None and not self.transport.is_closing():
            (self.transport.resume_reading if enabled else self.transport.pause_reading)()

    def send_eof(self) -> None:
        """Send FIN."""
        if self.transport is not None and not self.transport.is_closing():
            self._finished = True
            try:
                self.transport.write_eof()
            except OSError:
                # The peer has already closed.
                pass

    def write(self, data: bytes) -> None:
        """Write bytes; ignored after FIN."""
        if self.transport is not None and not self.transport.is_closing() and not self._finished:
            self.transport.write(data)

    def reset(self) -> None:
        """Close with a reset."""
        if self.transport is not None and not self.transport.is_closing():
            raw = self.transport.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()


class Flow:
    """One direction of a proxied connection."""

    def __init__(self, connection: Connection, conditions: Conditions, sender: Side, receiver: Side) -> None:
        self._connection = connection
        self._conditions = conditions
        self._from = sender
        self._to = receiver
        self._pending: deque[tuple[float, bytes | None]] = deque()
        self._buffered_bytes = 0
        self._forwarded_bytes = 0
        self._pump: asyncio.Task[None] | None = None

    def receive(self, data: bytes) -> None:
        """Receive bytes from the sender and apply the conditions."""
        connection, conditions = self._connection, self._conditions
        if self._to is connection.far and b"SUBSCRIBE" in data[:64].upper():
            connection.subscribes = True
        if conditions.drop_next:
            conditions.drop_next = False
            asyncio.get_running_loop().call_later(0.02, connection.cut)
            return
        if conditions.drop_publishes and connection.subscribes:
            return
        self._forwarded_bytes += len(data)
        if conditions.reset_after_bytes and self._forwarded_bytes > conditions.reset_after_bytes:
            connection.cut()
            return
        if conditions.transparent and self._pump is None and self._to.transport is not None:
            self._to.write(data)
            return
        delay = conditions.latency + conditions.jitter * connection.link.rng.random()
        self._pending.append((asyncio.get_running_loop().time() + delay, data))
        self._buffered_bytes += len(data)
        if self._buffered_bytes > MAX_BUFFERED_BYTES:
            self._from.set_reading(enabled=False)
        self.start()

    def finish(self) -> None:
        """Handle the FIN of the sender: forward it after all pending bytes."""
        if self._pending or self._pump is not None:
            self._pending.append((0.0, None))
            self.start()
        else:
            self._close()

    def drop(self) -> None:
        """Discard pending bytes."""
        self._pending.clear()
        if self._pump is not None:
            self._pump.cancel()

    def start(self) -> None:
        """Start forwarding pending bytes if the receiver is connected."""
        if self._pump is None and self._pending and self._to.transport is not None:
            self._pump = asyncio.create_task(self._run())

    async def _run(self) -> None:
        conditions, link = self._conditions, self._connection.link
        try:
            while self._pending:
                while conditions.blackhole:
                    await link.changed.wait()
                due, data = self._pending.popleft()
                if (left := due - asyncio.get_running_loop().time()) > 0:
                    await asyncio.sleep(left)
                if data is None:
                    self._close()
                    return
                await self._send(data)
                self._buffered_bytes -= len(data)
                if self._buffered_bytes <= MAX_BUFFERED_BYTES:
                    self._from.set_reading(enabled=True)
        finally:
            self._pump = None

    async def _send(self, data: bytes) -> None:
        conditions = self._conditions
        while data:
            size = conditions.chunk_bytes or (max(1, int(conditions.rate * 0.05)) if conditions.rate else len(data))
            part, data = data[:size], data[size:]
            self._to.write(part)
            if conditions.rate:
                await asyncio.sleep(len(part) / conditions.rate)
            elif conditions.chunk_bytes:
                await asyncio.sleep(0)

    def _close(self) -> None:
        transport = self._to.transport
        if transport is not None and not transport.is_closing():
            transport.close()
