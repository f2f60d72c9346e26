"""A to D: steady rates, all viewers read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..run import WARM_UP_S, session

if TYPE_CHECKING:
    from ..contender import Contender
    from ..result import Result
    from ..run import Machine


DELAYS: Final = ("delay_p50_ms", "delay_p99_ms", "delay_p999_ms", "delay_max_ms")
COLUMNS: Final = (
    "gateway_us",
    "gateway_us/null",
    "gateway_cores",
    "redis_us",
    "worker_us",
    "tokens_per_s",
    "tokens_per_frame",
    *DELAYS,
    "load_cores",
)


@dataclass(frozen=True, slots=True)
class FanOut:
    """`streams` streams of `rate` tokens a second with `viewers` viewers each."""

    name: str
    streams: int
    viewers: int
    rate: float
    default_contenders: tuple[str, ...] = ("null", "tokenwire")
    open: bool = True
    single_round: bool = False
    columns: tuple[str, ...] = COLUMNS

    @property
    def title(self) -> str:
        """Return its parameters."""
        return f"{self.streams} streams x {self.viewers} viewers x {self.rate:g} tokens/s"

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        tokens = int(self.rate * (seconds + WARM_UP_S + 5.0)) + 100
        with session(contender, machine, self.streams, tokens) as run:
            run.connect(self.streams * self.viewers)
            run.start(self.rate, seconds)
            run.measure(seconds)
            return run.finish(self.name)


_WITH_PEERS: Final = ("null", "tokenwire", "nchan", "nats")

FAN_OUT: Final = (
    FanOut("A20", 1, 1000, 20, _WITH_PEERS),
    FanOut("A200", 1, 1000, 200, _WITH_PEERS),
    FanOut("A600", 1, 1000, 600),
    FanOut("B", 100, 10, 50),
    FanOut("C20", 1000, 1, 20, ("null", "tokenwire", "nats")),
    FanOut("C25", 1000, 1, 25),
    FanOut("C50", 1000, 1, 50, ("null", "tokenwire", "nats")),
    FanOut("D", 20, 50, 1000),
)

SWEEP: Final = tuple(
    FanOut(f"S{streams}x{viewers}x{rate}", streams, viewers, rate, ("tokenwire",))
    for streams, viewers, rate in (
        (1, 200, 50),
        (1, 1000, 10),
        (10, 100, 50),
        (10, 10, 500),
        (50, 20, 100),
        (100, 1, 100),
        (200, 5, 20),
        (500, 1, 20),
        (500, 2, 40),
        (1000, 1, 10),
        (1000, 3, 5),
        (4000, 1, 1),
    )
)
"""Additional data points of the cost model."""
