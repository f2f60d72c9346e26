"""Textbook peer: Starlette and redis-py, with a task and a blocking read per socket (`textbook_app.py`).

Served with uvicorn's defaults: uvloop, httptools and the `websockets` package. Compression is on by default but
unused, because viewers of the benchmark do not offer it. Necessary settings: more than 100 connections to Redis,
because each viewer blocks one, and no read timeout of 5 s.
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
    from ..contender import Placement


class Textbook:
    """One uvicorn process; tokens arrive by XADD, with one Redis stream per stream."""

    name = "textbook"

    def __init__(self, *, durable: bool = True) -> None:
        """Not `durable`: its Redis writes no file."""
        self._durable = durable

    def missing(self) -> str | None:
        """Return None: its dependencies are those of Tokenwire."""
        return None

    def start(self, placement: Placement, streams: int) -> Running:
        """Start one server; a viewer starts at the beginning of its stream, or after the id that it sends."""
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(placement.load, placement.folder, durable=self._durable)))
            port = processes.free_port()
            command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).parent), "textbook_app:app"]
            command += ["--port", str(port), "--backlog", "4096", "--log-level", "warning"]
            # Its viewers block in Redis, so a graceful shutdown would never end.
            command += ["--timeout-graceful-shutdown", "0"]
            environment = {"TEXTBOOK_REDIS": store.url}
            server = processes.start(command, placement.server, placement.folder / "textbook.log", environment)
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
