"""H: viewers that come when an answer is long already."""

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
WITHIN: Final = 20.0


@dataclass(frozen=True, slots=True)
class Late:
    """One viewer from the start, and 50 that join at token 4,000: bytes and time to the live edge.

    Bytes are all that came over the socket, the HTTP upgrade included, until a token that was due after the viewer set
    out; the text is what it then has.
    """

    name: str = "H"
    title: str = f"{JOINING} viewers join a stream at token {PREFILL:,}"
    beside: tuple[str, ...] = ("tokenwire",)
    open: bool = False
    long: bool = True
    columns: tuple[str, ...] = ("bytes_of_text", "joined_p50_ms", "joined_p99_ms")

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        with session(contender, machine, 1, PREFILL + int(RATE * (seconds + WITHIN + 20))) as at:
            at.connect(1)
            at.begin(RATE, seconds, PREFILL)
            report = at.load.do(f"connect {JOINING} 8 0 edge {WITHIN}", WITHIN + 30)
            if report["off_edge"]:
                raise RuntimeError(f"{report['off_edge']} of {JOINING} viewers never came to the live edge")
            at.figures["bytes_of_text"] = report["edge_bytes"] / report["edge_text"]
            at.figures["joined_p50_ms"] = report["edge"]["p50"]
            at.figures["joined_p99_ms"] = report["edge"]["p99"]
            at.measure(seconds)
            return at.finish(self.name)
