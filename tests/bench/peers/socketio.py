"""The peer Socket.IO, with its Redis streams adapter: the usual base of a chat product in Node.

Set up as its documentation does it. One Redis stream of about 10,000 entries carries the events of all rooms to every
process, which sends those of its own sockets on; connection state recovery is off. Tuned, by the same documentation:
WebSocket only, no compression, the upgrade request let go, `onlyPlaintext`, which spares a search for binary data.

The load generator emits as `@socket.io/redis-streams-emitter` does: it adds the adapter's entry to the stream, under
the name that the adapter knows emitters by. A second Socket.IO process that emits costs this one nothing less or more
in mix A, but reads back all that it wrote, one entry at a time: 130 µs a token, which in B and C fills the load
generator's CPU, and the figures are its own then.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from .. import processes
from ..contender import Await, Publisher, Running, Send, Stream
from ..stores import StoreServer
from . import node

if TYPE_CHECKING:
    from ..contender import Place

# An event of type 3 (a broadcast) in the main namespace: `RedisStreamsAdapter.encode` in the adapter's source.
EMIT = ("XADD", "socket.io", "MAXLEN", "~", "10000", "*", "uid", "emitter", "nsp", "/", "type", "3", "data")
DATA = '{"packet":{"type":2,"data":["t","{text}"]},"opts":{"rooms":["%s"],"except":[],"flags":{}}}'


class SocketIo:
    """One Node process behind a Redis stream."""

    name = "socketio"

    def __init__(self, *, durable: bool = True) -> None:
        """Not `durable`: its Redis keeps nothing on disk."""
        self._durable = durable

    def missing(self) -> str | None:
        """See `node.missing`."""
        return node.missing()

    def start(self, place: Place, streams: int) -> Running:
        """One server; a stream is a room."""
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(place.load, place.folder, durable=self._durable)))
            port = processes.free_port()
            server = node.start("socketio_server.mjs", port, place, str(port), store.url)
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
