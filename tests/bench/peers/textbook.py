"""The textbook peer: Starlette and redis-py, a task a socket with a blocking read of its own (`textbook_app.py`).

Served as people run it: uvicorn's defaults, which are uvloop, httptools and the `websockets` package. Its compression
is on by default and not used, as no viewer of the benchmark offers it. Set, because it would not run otherwise: more
than 100 connections to Redis, as each viewer blocks one, and no 5 s limit on how long one may be silent.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from .. import processes
from ..contender import Publisher, Running, Stream
from ..stores import StoreServer

if TYPE_CHECKING:
    from ..contender import Place


class Textbook:
    """One uvicorn process; tokens come by XADD, into a Redis stream a stream."""

    name = "textbook"

    def __init__(self, *, durable: bool = True) -> None:
        """Not `durable`: its Redis keeps nothing on disk."""
        self._durable = durable

    def missing(self) -> str | None:
        """It is made of what Tokenwire itself needs: never missing."""
        return None

    def start(self, place: Place, streams: int) -> Running:
        """One server; a viewer begins at the beginning of its stream, or after the id that it names."""
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(place.load, place.folder, durable=self._durable)))
            port = processes.free_port()
            command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).parent), "textbook_app:app"]
            command += ["--port", str(port), "--backlog", "4096", "--log-level", "warning"]
            # Its viewers wait in Redis, and would be waited for.
            command += ["--timeout-graceful-shutdown", "0"]
            environment = {"TEXTBOOK_REDIS": store.url}
            server = processes.start(command, place.server, place.folder / "textbook.log", environment)
            started.enter_context(closing(server))
            server.until(lambda: processes.listens(port))
            close = started.pop_all().close
        return Running(
            processes={"gateway": (server.pid,), "redis": (store.pid,)},
            viewers=("127.0.0.1", port),
            kind="text",
            streams=[Stream(f"/s{n}", publish=("XADD", f"s{n}", "*", "text", "{text}")) for n in range(streams)],
            publisher=Publisher(store.address, "redis"),
            close=close,
            counters=store.counters,
        )
