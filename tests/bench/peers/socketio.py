"""Peer Socket.IO with its Redis streams adapter, a common base of chat products in Node.

Set up as documented: one Redis stream of about 10,000 entries carries the events of all rooms to every process, which
sends them to its own sockets. Connection state recovery is off. Tuned by the same documentation: WebSocket only, no
compression, the upgrade request released, and `onlyPlaintext`, which skips a search for binary data.

The load generator emits like `@socket.io/redis-streams-emitter`: it adds the adapter's entry to the stream, with the
uid that the adapter reserves for emitters. A second Socket.IO process as emitter does not change the cost in mix A.
But it reads back everything that it wrote, one entry at a time, for 130 us a token. In B and C that fills the CPU of
the load generator and determines the figures.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from .. import processes
from ..contender import Await, Publisher, Running, Send, Stream
from ..stores import StoreServer
from . import node

if TYPE_CHECKING:
    from ..contender import Placement

# An event of type 3 (a broadcast) in the main namespace: `RedisStreamsAdapter.encode` in the adapter's source.
EMIT = ("XADD", "socket.io", "MAXLEN", "~", "10000", "*", "uid", "emitter", "nsp", "/", "type", "3", "data")
DATA = '{"packet":{"type":2,"data":["t","{text}"]},"opts":{"rooms":["%s"],"except":[],"flags":{}}}'


class SocketIo:
    """One Node process and a Redis stream."""

    name = "socketio"

    def __init__(self, *, durable: bool = True) -> None:
        """Not `durable`: its Redis writes no file."""
        self._durable = durable

    def missing(self) -> str | None:
        """See `node.missing`."""
        return node.missing()

    def start(self, placement: Placement, streams: int) -> Running:
        """Start one server; each stream has a room."""
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(placement.load, placement.folder, durable=self._durable)))
            port = processes.free_port()
            server = node.start("socketio_server.mjs", port, placement, str(port), store.url)
            started.enter_context(closing(server))
            close = started.pop_all().close
        return Running(
            processes={"gateway": (server.pid,), "redis": (store.pid,)},
            viewers=("127.0.0.1", port),
            kind="socketio",
            streams=[
                Stream(
                    "/socket.io/?EIO=4&transport=websocket",
                    steps=(Await("0"), Send("40"), Await("40"), Send(f'420["follow","s{n}"]'), Await("430")),
                    publish=(*EMIT, DATA % f"s{n}"),
                )
                for n in range(streams)
            ],
            publisher=Publisher(store.address, "redis"),
            close=close,
            counters=store.counters,
        )
