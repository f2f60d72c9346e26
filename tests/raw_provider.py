"""A provider on a real socket that answers each call with given bytes, and ends the connection in a given way."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Ending: TypeAlias = Literal["close", "cut", "reset", "hold"]
"""An orderly end of the body; a closed socket without it; a reset; no end."""


@dataclass
class Reply:
    """An answer to one call: each piece is a chunk of the body."""

    body: tuple[bytes | str, ...]
    ending: Ending = "close"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    gzip: bool = False


class RawProvider:
    """The server, in the running loop while the context is open; `.url` is its URL without a path."""

    def __init__(
        self, *replies: Reply, refuse: Callable[[dict[str, Any]], tuple[int, str] | None] | None = None
    ) -> None:
        """`replies`: of each call, the last one again. `refuse`: the status and the body of a refusal, or None."""
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        """What each call sent as its key."""
        self._replies = list(replies)
        self._refuse = refuse
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> RawProvider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one call; return whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        request = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.requests.append(request)
        self.keys.append(headers.get("x-api-key") or headers.get("authorization", ""))
        if self._refuse is not None and (refused := self._refuse(request)) is not None:
            status, body = refused
            content = f"content-type: application/json\r\ncontent-length: {len(body.encode())}\r\n\r\n{body}"
            writer.write(f"HTTP/1.1 {status} Refused\r\n{content}".encode())
            await writer.drain()
            return True
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        own = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **reply.headers}
        if reply.gzip:
            own["content-encoding"] = "gzip"
        lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
        writer.write(f"HTTP/1.1 {reply.status} Answer\r\n{lines}\r\n".encode())
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        for piece in reply.body:
            data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
            if reply.gzip:
                data = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
            # Each piece is to arrive by itself.
            await asyncio.sleep(0)
        return await self._end(reply.ending, writer)

    async def _end(self, ending: Ending, writer: asyncio.StreamWriter) -> bool:
        match ending:
            case "close":
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                return True
            case "reset":
                # The data must arrive before the reset, which discards what the other side has not read.
                await asyncio.sleep(0.05)
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            case "hold":
                await asyncio.Event().wait()
        return False
