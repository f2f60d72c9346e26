"""Peer `ws`: the most common WebSocket package of Node, in a minimal server with a loop over the sockets.

Settings, by its documentation: `perMessageDeflate: false`, no client list of the package, and the message forwarded
as the buffer from Redis. Its optional native add-ons are omitted: they speed up masking, which only clients do.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from .. import processes
from ..contender import Publisher, Running, Stream
from ..stores import StoreServer
from . import node

if TYPE_CHECKING:
    from ..contender import Placement


class Ws:
    """One Node process; tokens arrive by PUBLISH, with one channel per stream."""

    name = "ws"

    def __init__(self, *, durable: bool = True) -> None:
        """Not `durable`: its Redis writes no file."""
        self._durable = durable

    def missing(self) -> str | None:
        """See `node.missing`."""
        return node.missing()

    def start(self, placement: Placement, streams: int) -> Running:
        """Start one server; it subscribes to the channel of a stream while the stream has viewers."""
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(placement.load, placement.folder, durable=self._durable)))
            port = processes.free_port()
            server = node.start("ws_server.mjs", port, placement, str(port), store.url)
            started.enter_context(closing(server))
            close = started.pop_all().close
        return Running(
            processes={"gateway": (server.pid,), "redis": (store.pid,)},
            viewers=("127.0.0.1", port),
            kind="text",
            streams=[Stream(f"/s{n}", publish=("PUBLISH", f"s{n}", "{text}")) for n in range(streams)],
            publisher=Publisher(store.address, "redis"),
            close=close,
            counters=store.counters,
        )
