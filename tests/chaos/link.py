"""A network that misbehaves: a TCP proxy whose weather can be changed while connections are open.

async with Link(("127.0.0.1", 6379)) as link:
    link.down.latency = 0.2       # what the server says comes 200 ms late
    link.up.hole = True           # what the client says goes nowhere, until the hole is closed
    link.cut()                    # every connection is reset
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

MOST_HELD: Final = 65_536
"""Bytes that wait in a direction before its sender is no longer read."""

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: what is closed so sends a reset, not an end."""


@dataclass(slots=True)
class Weather:
    """What happens to the bytes of one direction. Everything may be changed at any time."""

    latency: float = 0.0
    """Seconds that bytes are under way,"""
    jitter: float = 0.0
    """and up to so many more."""
    rate: float = 0.0
    """Bytes a second; 0 for as fast as it goes."""
    slice: int = 0
    """Bytes that come at a time; 0 for as many as were sent."""
    hole: bool = False
    """Nothing comes through; what was sent waits."""
    swallow: bool = False
    """The next bytes are lost, and with them their connection."""
    deaf: bool = False
    """Whole messages of a connection that subscribes are lost, and nobody notices."""
    limit: int = 0
    """Bytes after which a connection is reset; 0 for none."""

    @property
    def clear(self) -> bool:
        """Whether bytes may be handed on as they come."""
        return not (self.latency or self.jitter or self.rate or self.slice or self.hole)

    def clears(self) -> None:
        """Become as on the first day."""
        self.latency = self.jitter = self.rate = 0.0
        self.slice = self.limit = 0
        self.hole = self.swallow = self.deaf = False


class Link:
    """One address of its own that leads to another, which may be changed: `target`."""

    def __init__(self, target: tuple[str, int], seed: int = 0) -> None:
        self.target = target
        self.up, self.down = Weather(), Weather()
        self.port = 0
        self.chance = random.Random(seed)
        self.wires: set[Wire] = set()
        self.changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def open(self) -> Self:
        """Listen on a free port."""
        self._server = await asyncio.get_running_loop().create_server(lambda: Wire(self).near, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Listen no more, and cut every connection."""
        if self._server is not None:
            self._server.close()
        self.cut()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def changes(self) -> None:
        """Let what waits notice that the weather has changed."""
        self.changed.set()
        self.changed = asyncio.Event()

    def clears(self) -> None:
        """Good weather both ways; what was held comes."""
        self.up.clears()
        self.down.clears()
        self.changes()

    def cut(self) -> None:
        """Reset every connection."""
        for wire in list(self.wires):
            wire.cut()

    def half_close(self) -> None:
        """End what the server says on every connection, while the client may go on to speak."""
        for wire in list(self.wires):
            wire.near.finish()


class Wire:
    """One connection through a link: the client's side is near, the server's far."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.near, self.far = End(self), End(self)
        self.near.flow = Flow(self, link.up, self.far)
        self.far.flow = Flow(self, link.down, self.near)
        self.subscribes = False
        self._dialling: asyncio.Task[None] | None = None
        self._cut = False

    def made(self, end: End) -> None:
        """One of the ends has its transport."""
        if end is self.near:
            self.link.wires.add(self)
            self._dialling = asyncio.create_task(self._dial())
        else:
            self.near.flow.go()

    async def _dial(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, *self.link.target)
        except OSError:
            self.cut()
        else:
            if self._cut:
                self.far.reset()

    def lost(self, end: End) -> None:
        """One of the ends is closed: the other is told, behind what is still under way."""
        other = self.far if end is self.near else self.near
        end.flow.ends()
        if other.transport is None or other.transport.is_closing():
            self.link.wires.discard(self)

    def cut(self) -> None:
        """Reset both ends."""
        self._cut = True
        self.link.wires.discard(self)
        for end in (self.near, self.far):
            end.flow.drop()
            end.reset()


class End(asyncio.Protocol):
    """One socket of a wire."""

    flow: Flow

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.transport: asyncio.Transport | None = None
        self._finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.wire.made(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.flow.take(data)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        self.flow.ends()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.wire.lost(self)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        other = self.wire.far if self is self.wire.near else self.wire.near
        other.read(going=False)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        other = self.wire.far if self is self.wire.near else self.wire.near
        other.read(going=True)

    def read(self, *, going: bool) -> None:
        """Read what comes, or leave it with the kernel."""
        if self.transport is not None and not self.transport.is_closing():
            (self.transport.resume_reading if going else self.transport.pause_reading)()

    def finish(self) -> None:
        """Say that nothing more comes."""
        if self.transport is not None and not self.transport.is_closing():
            self._finished = True
            try:
                self.transport.write_eof()
            except OSError:
                # The other side was faster.
                pass

    def write(self, data: bytes) -> None:
        """Hand bytes on; what comes after the end is lost."""
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
    """One direction of a wire."""

    def __init__(self, wire: Wire, weather: Weather, to: End) -> None:
        self._wire = wire
        self._weather = weather
        self._to = to
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._held = 0
        self._passed = 0
        self._pump: asyncio.Task[None] | None = None

    def take(self, data: bytes) -> None:
        """Bytes have come from the sender."""
        wire, weather = self._wire, self._weather
        if self._to is wire.far and b"SUBSCRIBE" in data[:64].upper():
            wire.subscribes = True
        if weather.swallow:
            weather.swallow = False
            asyncio.get_running_loop().call_later(0.02, wire.cut)
            return
        if weather.deaf and wire.subscribes:
            return
        self._passed += len(data)
        if weather.limit and self._passed > weather.limit:
            wire.cut()
            return
        if weather.clear and self._pump is None and self._to.transport is not None:
            self._to.write(data)
            return
        delay = weather.latency + weather.jitter * wire.link.chance.random()
        self._waiting.append((asyncio.get_running_loop().time() + delay, data))
        self._held += len(data)
        if self._held > MOST_HELD:
            (wire.near if self._to is wire.far else wire.far).read(going=False)
        self.go()

    def ends(self) -> None:
        """The sender has said all."""
        if self._waiting or self._pump is not None:
            self._waiting.append((0.0, None))
            self.go()
        else:
            self._close()

    def drop(self) -> None:
        """Nothing more is to come through."""
        self._waiting.clear()
        if self._pump is not None:
            self._pump.cancel()

    def go(self) -> None:
        """Hand on what waits, if it can be."""
        if self._pump is None and self._waiting and self._to.transport is not None:
            self._pump = asyncio.create_task(self._run())

    async def _run(self) -> None:
        weather, link = self._weather, self._wire.link
        try:
            while self._waiting:
                while weather.hole:
                    await link.changed.wait()
                due, data = self._waiting.popleft()
                if (left := due - asyncio.get_running_loop().time()) > 0:
                    await asyncio.sleep(left)
                if data is None:
                    self._close()
                    return
                await self._send(data)
                self._held -= len(data)
                if self._held <= MOST_HELD:
                    (self._wire.near if self._to is self._wire.far else self._wire.far).read(going=True)
        finally:
            self._pump = None

    async def _send(self, data: bytes) -> None:
        weather = self._weather
        while data:
            size = weather.slice or (max(1, int(weather.rate * 0.05)) if weather.rate else len(data))
            part, data = data[:size], data[size:]
            self._to.write(part)
            if weather.rate:
                await asyncio.sleep(len(part) / weather.rate)
            elif weather.slice:
                await asyncio.sleep(0)

    def _close(self) -> None:
        transport = self._to.transport
        if transport is not None and not transport.is_closing():
            transport.close()
