"""Peer NATS: a message broker in Go with a WebSocket listener. Core NATS: no JetStream, no storage.

Settings, by its documentation:

- `no_tls` and `compression: false` for the WebSocket listener;
- `verbose` and `pedantic` off in every CONNECT, like NATS clients do: otherwise each PUB gets a reply;
- one core (the Go runtime derives its number of threads from the available CPUs);
- defaults otherwise: a viewer with more than 64 MB unsent, or 10 s late in one write, is disconnected as a slow
consumer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import processes
from ..contender import Await, Publisher, Running, Send, Stream
from . import programs

if TYPE_CHECKING:
    from ..contender import Placement

MISSING = "nats-server is not installed: apt-get install nats-server"
CONNECT = 'CONNECT {"verbose":false,"pedantic":false}\r\n'

CONFIGURATION = """
host: 127.0.0.1
port: {port}
websocket {{
  host: 127.0.0.1
  port: {websocket}
  no_tls: true
  compression: false
}}
"""


class Nats:
    """nats-server of Debian; the publisher uses its protocol over plain TCP."""

    name = "nats"

    def missing(self) -> str | None:
        """Return the package to install; None if it is installed."""
        return None if programs.find("nats-server") else MISSING

    def start(self, placement: Placement, streams: int) -> Running:
        """Start one server; each stream has a subject."""
        program = programs.find("nats-server")
        if program is None:
            raise RuntimeError(MISSING)
        port, websocket = processes.free_port(), processes.free_port()
        configuration = placement.folder / "nats.conf"
        configuration.write_text(CONFIGURATION.format(port=port, websocket=websocket))
        process = processes.start([program, "-c", str(configuration)], placement.server, placement.folder / "nats.log")
        process.until(lambda: processes.listens(port) and processes.listens(websocket))
        return Running(
            processes={"gateway": (process.pid,)},
            viewers=("127.0.0.1", websocket),
            kind="nats",
            streams=[
                Stream(
                    "/",
                    steps=(Await("INFO"), Send(f"{CONNECT}SUB s{n} 1\r\nPING\r\n", binary=True), Await("PONG")),
                    publish=(f"PUB s{n} {{size}}\r\n", "{text}\r\n"),
                )
                for n in range(streams)
            ],
            publisher=Publisher(("127.0.0.1", port), "nats", first=CONNECT),
            close=process.close,
        )
