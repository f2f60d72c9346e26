"""The peer `ws`: the WebSocket package most of Node is built on, in a server of a page: a loop over the sockets.

Set, by its documentation: `perMessageDeflate: false`, no list of clients of its own, the message passed on as the
buffer that Redis gave. Its optional native add-ons are left out: they speed up masking, which only clients do.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from .. import processes
from ..contender import Publisher, Running, Stream
from ..stores import StoreServer
from . import node

if TYPE_CHECKING:
    from ..contender import Place


class Ws:
    """One Node process; tokens come by PUBLISH, on a channel a stream."""

    name = "ws"

    def __init__(self, *, durable: bool = True) -> None:
        """Not `durable`: its Redis keeps nothing on disk."""
        self._durable = durable

    def missing(self) -> str | None:
        """See `node.missing`."""
        return node.missing()

    def start(self, place: Place, streams: int) -> Running:
        """One server, subscribed to the channel of a stream while somebody watches it."""
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(place.load, place.folder, durable=self._durable)))
            port = processes.free_port()
            server = node.start("ws_server.mjs", port, place, str(port), store.url)
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
