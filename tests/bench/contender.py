"""What a contender is: something that is started, watched by viewers of the load generator, and told tokens to deliver.

A contender says how to reach it as data; the load generator (`load/`) does the rest. It is started anew for every run,
and needs to know nothing of rates, rounds or measuring:

    class Nats:
        name = "nats"

        def missing(self) -> str | None:
            return None if shutil.which("nats-server") else "no nats-server on PATH: apt-get install nats-server"

        def start(self, place: Place, streams: int) -> Running:
            process = processes.start([...], place.server, place.folder / "nats.log")
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

Text that is published holds no character that JSON escapes, so it may stand in any template as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

Address: TypeAlias = tuple[str, int]
"""An IPv4 address in digits, and a TCP port."""

Kind: TypeAlias = Literal["tokenwire", "text", "nats", "socketio", "count"]
"""How viewers read what they are sent:

- `tokenwire`: JSON text frames of PROTOCOL.md.
- `text`: the payload of each text or binary frame is text of the stream, one or more tokens, nothing else.
- `nats`: binary frames of a NATS byte stream; the payload of each MSG is text of the stream. PING is answered.
- `socketio`: text frames of Engine.IO 4 and Socket.IO; the text is the string behind the event's name, as in
  `42["event","TEXT"]`. Engine.IO's ping `2` is answered with `3`.
- `count`: a frame is a token, whatever it holds; nothing is compared.

WebSocket pings are answered and empty frames are passed over in every kind.
"""

Replies: TypeAlias = Literal["redis", "http", "nats", "none", "provider"]
"""How the publisher reads what it is answered, and so knows an error: RESP2, HTTP/1.1 with status 2xx, NATS (PING is
answered, -ERR is an error), or it reads and forgets. As `provider` it is called itself, at its address, by a worker."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender runs."""

    server: frozenset[int]
    """CPUs for what serves viewers, and for that alone."""
    load: frozenset[int]
    """CPUs for everything else: the load generator, Redis, a worker that publishes."""
    folder: Path
    """An empty folder for sockets, configurations and logs; removed after the run."""


@dataclass(frozen=True, slots=True)
class Send:
    """A viewer sends one frame, of text or binary. Frames up to the next `Await` go out in one write.

    In the steps of `Stream.again`, `{cursor}` and `{after}` stand for the cursors that the viewer holds.
    """

    data: str
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Await:
    """A viewer waits for a frame (of NATS: for a line) that begins with `prefix`.

    The frame is read as any other too by `tokenwire`; elsewhere it is taken for an acknowledgement.
    """

    prefix: str


Steps: TypeAlias = tuple[Send | Await, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of tokens: how it is watched, and how a piece of its text is published."""

    path: str
    """Of the HTTP upgrade, query included."""
    publish: tuple[str, ...] = ()
    """With `replies="redis"` the words of one command, otherwise a head and a body that are sent as they are.

    `{text}` stands for the text, `{size}` for the bytes of the text, `{previous}` and `{number}` for two
    numbers of which the second is one more, and which count the pieces of this stream from `number` on. Empty where
    the contender has a clock of its own.
    """
    steps: Steps = ()
    """After the upgrade; the viewer is subscribed when all are done, or at once where there are none."""
    again: Steps | None = None
    """The steps of a viewer that was cut off and goes on from its cursor; None where there is no such thing."""
    headers: tuple[str, ...] = ()
    """Further lines of the upgrade, such as `Sec-WebSocket-Protocol: x`."""
    response: str = ""
    """`tokenwire`: the id that its deltas name."""
    number: int = 1
    """The first `{number}`."""


@dataclass(frozen=True, slots=True)
class Publisher:
    """How the load generator publishes: over TCP, pipelined, what is due at one moment in one write."""

    address: Address
    replies: Replies = "none"
    accept: str = ""
    """With `redis`: the one reply that is no error. Empty: every reply that is no error by its type."""
    first: str = ""
    """Sent once on every connection."""
    connections: int = 1
    """Streams are spread over so many; the order within one stream is kept."""
    window: float = 0.0
    """Seconds for which the tokens of a stream are gathered after each publish, as `workers/batch.py` does."""
    gather: float | None = None
    """With `redis`: what is due while a write has not been answered goes out together, once it is, and so many seconds
    after that write, as `gateway/streams/store/pipeline.py` does. None: every write goes out at once."""
    begin: str = ""
    """Sent when publishing begins, to a contender with its own clock: `{start}` is the due time of token 0 of stream
    0 (nanoseconds of CLOCK_MONOTONIC), `{rate}` tokens a second and stream."""
    finish: str = ""
    """Sent when publishing ends."""


@dataclass
class Running:
    """A contender that runs."""

    processes: Mapping[str, Sequence[int]]
    """Process ids by role, of which CPU and memory are measured: `gateway` is what serves viewers, `redis` the store,
    `worker` what publishes. Threads need not be named, child processes do."""
    viewers: Address
    kind: Kind
    streams: Sequence[Stream]
    publisher: Publisher
    close: Callable[[], None]
    """Ends everything that was started, however it stands; called once, always."""
    settle: float = 0.2
    """Seconds to wait between the last subscription and the first token, where a server acknowledges none."""
    counters: Callable[[], Mapping[str, float]] = dict
    """Further figures that only grow; what they grow by while it is measured goes into the JSON."""


class Contender(Protocol):
    """Something that can be started and compared."""

    @property
    def name(self) -> str:
        """As on the command line and in the table."""

    def missing(self) -> str | None:
        """Why it can not run on this machine, and what to do; None where it can."""

    def start(self, place: Place, streams: int) -> Running:
        """Start it with `streams` streams, ready for viewers; raises RuntimeError with what went wrong.

        What it started is ended before it raises.
        """
