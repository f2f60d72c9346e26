"""A to D: every stream has its tokens at a steady rate, every viewer is awake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..run import WARM_UP, session

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
    beside: tuple[str, ...] = ("null", "tokenwire")
    open: bool = True
    long: bool = False
    columns: tuple[str, ...] = COLUMNS

    @property
    def title(self) -> str:
        """Its numbers."""
        return f"{self.streams} streams x {self.viewers} viewers x {self.rate:g} tokens/s"

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        tokens = int(self.rate * (seconds + WARM_UP + 5.0)) + 100
        with session(contender, machine, self.streams, tokens) as at:
            at.connect(self.streams * self.viewers)
            at.begin(self.rate, seconds)
            at.measure(seconds)
            return at.finish(self.name)


_BESIDE: Final = ("null", "tokenwire", "nchan", "nats")

FAN_OUT: Final = (
    FanOut("A20", 1, 1000, 20, _BESIDE),
    FanOut("A200", 1, 1000, 200, _BESIDE),
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
"""What the cost model is fitted to, beside the mixes."""
