"""The peer NATS: a message broker, in Go, with a WebSocket listener. Core NATS: no JetStream, nothing is kept.

Set, by its documentation:

- `no_tls` and `compression: false` for the WebSocket listener;
- `verbose` and `pedantic` off in every CONNECT, as NATS's own clients say it: otherwise each PUB is answered;
- one core to serve (the Go runtime takes the number of its threads from the CPUs it may use);
- all else by default: a viewer with more than 64 MB unsent, or 10 s behind in one write, is cut off as a slow consumer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import processes
from ..contender import Await, Publisher, Running, Send, Stream
from . import programs

if TYPE_CHECKING:
    from ..contender import Place

MISSING = "no nats-server: apt-get install nats-server"
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
    """nats-server, from Debian's packages; the publisher speaks its protocol over plain TCP."""

    name = "nats"

    def missing(self) -> str | None:
        """Which package to install, if the server is not there."""
        return None if programs.find("nats-server") else MISSING

    def start(self, place: Place, streams: int) -> Running:
        """One server; the subject of a stream is its name."""
        program = programs.find("nats-server")
        if program is None:
            raise RuntimeError(MISSING)
        port, websocket = processes.free_port(), processes.free_port()
        configuration = place.folder / "nats.conf"
        configuration.write_text(CONFIGURATION.format(port=port, websocket=websocket))
        process = processes.start([program, "-c", str(configuration)], place.server, place.folder / "nats.log")
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
