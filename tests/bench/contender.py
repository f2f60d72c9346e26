"""Interface of a contender: a server that is started, watched by viewers of the load generator, and published to.

A contender describes how to reach it as data; the load generator (`load/`) does the rest. It is restarted for every run
and does not depend on rates, rounds or measurements:

    class Nats:
        name = "nats"

        def missing(self) -> str | None:
            return None if shutil.which("nats-server") else "no nats-server on PATH: apt-get install nats-server"

        def start(self, placement: Placement, streams: int) -> Running:
            process = processes.start([...], placement.server, placement.folder / "nats.log")
            ...
            return Running(
                processes={"gateway": (process.pid,)},
                viewers=("127.0.0.1", 8443),
                kind="nats",
                streams=[
                    Stream("/", steps=(Await("INFO"), Send(f"CONNECT {{}}\r\nSUB s{n} 1\r\nPING\r\n", binary=True),
                           Await("PONG")), publish=(f"PUB s{n} {{size}}\r\n", "{text}\r\n"))
                    for n in range(streams)
                ],
                publisher=Publisher(("127.0.0.1", 4222), "nats", first="CONNECT {}\r\n"),
                close=process.close,
            )

Published text contains no character that JSON escapes, so it can be inserted into any template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

Address: TypeAlias = tuple[str, int]
"""A numeric IPv4 address and a TCP port."""

Kind: TypeAlias = Literal["tokenwire", "text", "nats", "socketio", "count"]
"""How viewers decode received frames:

- `tokenwire`: JSON text frames of PROTOCOL.md.
- `text`: the payload of each text or binary frame is stream text of one or more tokens.
- `nats`: binary frames of a NATS byte stream; the payload of each MSG is stream text. PING is answered.
- `socketio`: text frames of Engine.IO 4 and Socket.IO; the text is the string after the event name, as in
  `42["event","TEXT"]`. The Engine.IO ping `2` is answered with `3`.
- `count`: each frame is one token; its content is not compared.

All kinds answer WebSocket pings and ignore empty frames.
"""

Replies: TypeAlias = Literal["redis", "http", "nats", "none", "provider"]
"""How the publisher parses replies and detects errors: RESP2, HTTP/1.1 with status 2xx, NATS (PING is answered, -ERR
is an error), or `none` (replies are discarded). With `provider`, a worker calls the publisher at its address."""


@dataclass(frozen=True, slots=True)
class Placement:
    """CPUs and folder of a contender."""

    server: frozenset[int]
    """CPUs reserved for the server of the viewers."""
    load: frozenset[int]
    """CPUs of all other processes: load generator, Redis, publishing worker."""
    folder: Path
    """An empty folder for sockets, configuration and logs; removed after the run."""


@dataclass(frozen=True, slots=True)
class Send:
    """A viewer sends a text or binary frame. All frames up to the next `Await` are sent in one write.

    In `Stream.resume`, `{cursor}` and `{after}` are replaced by the cursors of the viewer.
    """

    data: str
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Await:
    """A viewer waits for a frame (NATS: a line) that starts with `prefix`.

    With `tokenwire` the frame is also decoded; with other kinds it is only an acknowledgement.
    """

    prefix: str


Steps: TypeAlias = tuple[Send | Await, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of tokens: how viewers watch it and how its text is published."""

    path: str
    """Path of the HTTP upgrade, including the query."""
    publish: tuple[str, ...] = ()
    """With `replies="redis"` the words of a command, otherwise a header and a body.

    `{text}` is replaced by the text and `{size}` by its size in bytes. `{number}` counts the publishes of this
    stream, starting with `number`; `{previous}` is one less. Empty if the contender has its own clock.
    """
    steps: Steps = ()
    """Steps after the upgrade; the viewer is subscribed when all are done."""
    resume: Steps | None = None
    """Steps of a viewer that resumes from its cursor; None if the contender cannot resume."""
    headers: tuple[str, ...] = ()
    """More headers of the upgrade, such as `Sec-WebSocket-Protocol: x`."""
    response: str = ""
    """With `tokenwire`: the response id in its deltas."""
    number: int = 1
    """First value of `{number}`."""


@dataclass(frozen=True, slots=True)
class Publisher:
    """How the load generator publishes: pipelined over TCP, all publishes that are due in one write."""

    address: Address
    replies: Replies = "none"
    accept: str = ""
    """With `redis`: the only reply that is not an error. Empty: every reply except error replies."""
    first: str = ""
    """Sent once on every connection."""
    connections: int = 1
    """Number of connections. Each stream uses one, so its order is kept."""
    window: float = 0.0
    """Batching window in seconds: tokens are collected for so long after each publish, as in `workers/batch.py`."""
    gather: float | None = None
    """With `redis`: publishes that are due while a write is unanswered are sent together after its reply, and at
    least this number of seconds after that write, as in the product's store pipeline. None: every write is sent
    immediately."""
    begin: str = ""
    """Sent at the start of publishing to a contender with its own clock: `{start}` is the due time of token 0 of
    stream 0 (nanoseconds of CLOCK_MONOTONIC), `{rate}` the tokens a second per stream."""
    finish: str = ""
    """Sent at the end of publishing."""


@dataclass
class Running:
    """A running contender."""

    processes: Mapping[str, Sequence[int]]
    """Process ids by role, for CPU and memory: `gateway` serves viewers, `redis` is the store, `worker` publishes.
    List child processes too."""
    viewers: Address
    kind: Kind
    streams: Sequence[Stream]
    publisher: Publisher
    close: Callable[[], None]
    """Stops everything that was started; called exactly once, also after errors."""
    settle: float = 0.2
    """Seconds between the last subscription and the first token, for servers that do not acknowledge subscriptions."""
    counters: Callable[[], Mapping[str, float]] = dict
    """Returns more monotonic counters; their increase during the measurement is added to the JSON."""


class Contender(Protocol):
    """A server that can be started and compared."""

    @property
    def name(self) -> str:
        """Return the name for the command line and the tables."""

    def missing(self) -> str | None:
        """Return why it cannot run on this machine and what to install; None if it can."""

    def start(self, placement: Placement, streams: int) -> Running:
        """Start it with `streams` streams, ready for viewers; raise RuntimeError on failure.

        Everything that was started is stopped before it raises.
        """
