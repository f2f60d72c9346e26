"""H: viewers that join late, when the answer is already long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..run import session

if TYPE_CHECKING:
    from ..contender import Contender
    from ..result import Result
    from ..run import Machine

PREFILL: Final = 4_000
JOINING: Final = 50
RATE: Final = 50.0
TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Late:
    """One viewer from the start and 50 that join at token 4,000: bytes and time to the live edge.

    Bytes are all received bytes including the HTTP upgrade, until the first token that was due after the connect.
    Text is the viewer's text at that time.
    """

    name: str = "H"
    title: str = f"{JOINING} viewers join a stream at token {PREFILL:,}"
    default_contenders: tuple[str, ...] = ("tokenwire",)
    open: bool = False
    single_round: bool = True
    columns: tuple[str, ...] = ("bytes_of_text", "joined_p50_ms", "joined_p99_ms")

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        with session(contender, machine, 1, PREFILL + int(RATE * (seconds + TIMEOUT_S + 20))) as run:
            run.connect(1)
            run.start(RATE, seconds, PREFILL)
            report = run.load.do(f"connect {JOINING} 8 0 edge {TIMEOUT_S}", TIMEOUT_S + 30)
            if report["off_edge"]:
                raise RuntimeError(f"{report['off_edge']} of {JOINING} viewers did not reach the live edge")
            run.figures["bytes_of_text"] = report["edge_bytes"] / report["edge_text"]
            run.figures["joined_p50_ms"] = report["edge"]["p50"]
            run.figures["joined_p99_ms"] = report["edge"]["p99"]
            run.measure(seconds)
            return run.finish(self.name)
