"""Null server: the minimum work for a token in Python, a write of finished bytes to each socket.

It accepts the upgrade. Then it writes one prepared frame to every socket of a stream at the due time of each
token, by its own clock. The module is the server; `Null` is the contender.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from . import processes
from .contender import Publisher, Running, Stream

if TYPE_CHECKING:
    from .contender import Placement

TEXT: Final = b'{"type":"delta","response":"r000123456789abcdef","cursor":"1123456789-1234","text":" 00000000"}'
"""As large as a delta of one token."""

FRAME: Final = bytes((0x81, len(TEXT))) + TEXT
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Clock:
    """Writes frames at their due times, without waiting for any socket."""

    def __init__(self, streams: int) -> None:
        self.sockets: list[list[asyncio.Transport]] = [[] for _ in range(streams)]
        self._start = 0
        self._step = 0.0
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, start: int, rate: float) -> None:
        """Start: token n of stream s is due at `start` nanoseconds plus (n + s / streams) / rate seconds."""
        self._start = start
        self._step = 1e9 / rate / len(self.sockets)
        self._write_due()

    def end(self) -> None:
        """Stop writing."""
        if self._timer is not None:
            self._timer.cancel()

    def _write_due(self) -> None:
        due = int((time.monotonic_ns() - self._start) / self._step) + 1 if self._step else 0
        # At most 50 tokens per iteration, so that the loop continues to read when it lags.
        for token in range(self._next, min(due, self._next + 50)):
            for socket in self.sockets[token % len(self.sockets)]:
                socket.write(FRAME)
            self._next = token + 1
        early = self._start + self._next * self._step - time.monotonic_ns()
        # Loop timers have a resolution of 1 ms; a shorter delay would spin until the token is due.
        self._timer = asyncio.get_running_loop().call_later(
            max(early / 1e9, 0.001) if early > 0 else 0.0, self._write_due
        )


class Socket(asyncio.Protocol):
    """Connection of a viewer, or the control connection of the load generator."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stream: int | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._stream is not None:
            return
        if data.startswith(b"start "):
            _, start, rate = data.split()
            self._clock.begin(int(start), float(rate))
        elif data.startswith(b"stop"):
            self._clock.end()
        else:
            head, *lines = data.split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines if b": " in line)
            key = next(line[19:] for line in lines if line.lower().startswith(b"sec-websocket-key: "))
            assert headers[b"upgrade"] == b"websocket"
            self._stream = int(head.split()[1].rpartition(b"/")[2])
            accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self._clock.sockets[self._stream].append(self._transport)

    def connection_lost(self, exception: Exception | None) -> None:
        if self._stream is not None:
            self._clock.sockets[self._stream].remove(self._transport)


class Null:
    """The baseline of all comparisons."""

    name = "null"

    def missing(self) -> str | None:
        """Return None: it is part of the benchmark."""
        return None

    def start(self, placement: Placement, streams: int) -> Running:
        """See `Contender`."""
        port = processes.free_port()
        command = [sys.executable, "-m", __name__, str(port), str(streams)]
        process = processes.start(command, placement.server, placement.folder / "null.log")
        process.until(lambda: processes.listens(port))
        return Running(
            processes={"gateway": (process.pid,)},
            viewers=("127.0.0.1", port),
            kind="count",
            streams=[Stream(f"/{index}") for index in range(streams)],
            publisher=Publisher(("127.0.0.1", port), begin="start {start} {rate}\n", finish="stop\n"),
            close=process.close,
        )


async def serve(port: int, streams: int) -> None:
    """Serve until the process is terminated."""
    clock = Clock(streams)
    server = await asyncio.get_running_loop().create_server(lambda: Socket(clock), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
