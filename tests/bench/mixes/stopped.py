"""G: viewers that stop reading, and what that does to the others and to the gateway's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..run import WARM_UP, session

if TYPE_CHECKING:
    from ..contender import Contender
    from ..result import Result
    from ..run import Machine

VIEWERS: Final = 1_000
STOPPED: Final = 10
RATE: Final = 200.0

HELD: Final = 100
FAST: Final = 2_000.0
"""Tokens a second that fill the buffers of a stopped viewer within seconds."""

FILL_SECONDS: Final = 8.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """Ten of 1000 viewers stop reading: the others' delays before and after. And 100 of 200 on a fast stream: memory.

    Both within one run, so what is compared has the same process and the same minute.
    """

    name: str = "G"
    title: str = f"1 % of {VIEWERS:,} viewers of one stream of {RATE:g} tokens/s stop reading"
    beside: tuple[str, ...] = ("tokenwire",)
    open: bool = False
    long: bool = True
    columns: tuple[str, ...] = ("others_p99_before_ms", "others_p99_after_ms", "others_p99_ratio", "stopped_bytes")

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        memory = self._memory(contender, machine)
        with session(contender, machine, 1, int(RATE * (2 * seconds + 15))) as at:
            at.connect(VIEWERS - STOPPED)
            at.connect(STOPPED, small=True)
            at.begin(RATE, seconds)
            at.measure(seconds)
            before = at.figures["delay_p99_ms"]
            at.load.do(f"stop {STOPPED}")
            at.load.do(f"wait {WARM_UP}")
            at.measure(seconds)
            at.figures["others_p99_before_ms"] = before
            at.figures["others_p99_after_ms"] = at.figures["delay_p99_ms"]
            at.figures["others_p99_ratio"] = at.figures["delay_p99_ms"] / before
            at.figures["stopped_bytes"] = memory
            return at.finish(self.name)

    @staticmethod
    def _memory(contender: Contender, machine: Machine) -> float:
        """Bytes that the gateway holds for a stopped viewer, beyond what the growing log takes in the same time."""
        with session(contender, machine, 1, int(FAST * (2 * FILL_SECONDS + 15))) as at:
            at.connect(HELD)
            at.connect(HELD, small=True)
            at.begin(FAST, WARM_UP)
            first = at.memory()
            at.load.do(f"wait {FILL_SECONDS}", 60)
            second = at.memory()
            at.load.do(f"stop {HELD}")
            at.load.do(f"wait {FILL_SECONDS}", 60)
            return ((at.memory() - second) - (second - first)) / HELD
