"""G: viewers that stop reading, and the effect on other viewers and on the gateway's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..run import WARM_UP_S, session

if TYPE_CHECKING:
    from ..contender import Contender
    from ..result import Result
    from ..run import Machine

VIEWERS: Final = 1_000
STOPPED: Final = 10
RATE: Final = 200.0

HELD: Final = 100
FAST: Final = 2_000.0
"""Rate in tokens a second that fills the buffers of a stopped viewer within seconds."""

FILL_SECONDS: Final = 8.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """Ten of 1000 viewers stop reading: delays of the others before and after. 100 of 200 on a fast stream: memory.

    Both phases are in one run, so that they share the process and the conditions.
    """

    name: str = "G"
    title: str = f"1 % of {VIEWERS:,} viewers of one stream of {RATE:g} tokens/s stop reading"
    default_contenders: tuple[str, ...] = ("tokenwire",)
    open: bool = False
    single_round: bool = True
    columns: tuple[str, ...] = ("others_p99_before_ms", "others_p99_after_ms", "others_p99_ratio", "stopped_bytes")

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        memory = self._memory(contender, machine)
        with session(contender, machine, 1, int(RATE * (2 * seconds + 15))) as run:
            run.connect(VIEWERS - STOPPED)
            run.connect(STOPPED, small=True)
            run.start(RATE, seconds)
            run.measure(seconds)
            before = run.figures["delay_p99_ms"]
            run.load.do(f"stop {STOPPED}")
            run.load.do(f"wait {WARM_UP_S}")
            run.measure(seconds)
            run.figures["others_p99_before_ms"] = before
            run.figures["others_p99_after_ms"] = run.figures["delay_p99_ms"]
            run.figures["others_p99_ratio"] = run.figures["delay_p99_ms"] / before
            run.figures["stopped_bytes"] = memory
            return run.finish(self.name)

    @staticmethod
    def _memory(contender: Contender, machine: Machine) -> float:
        """Return the bytes that the gateway holds per stopped viewer, less the growth of the log in the same time."""
        with session(contender, machine, 1, int(FAST * (2 * FILL_SECONDS + 15))) as run:
            run.connect(HELD)
            run.connect(HELD, small=True)
            run.start(FAST, WARM_UP_S)
            first = run.memory()
            run.load.do(f"wait {FILL_SECONDS}", 60)
            second = run.memory()
            run.load.do(f"stop {HELD}")
            run.load.do(f"wait {FILL_SECONDS}", 60)
            return ((run.memory() - second) - (second - first)) / HELD
