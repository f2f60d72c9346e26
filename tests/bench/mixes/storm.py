"""F: thousands of viewers lose their connection at one moment, and all come back at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .. import tokenwire
from ..run import session

if TYPE_CHECKING:
    from ..contender import Contender
    from ..result import Result
    from ..run import Machine

STREAMS: Final = 100
VIEWERS: Final = 5_000
RATE: Final = 5.0
AWAY: Final = 0.5
"""Seconds between the cut and the return."""

AT_ONCE: Final = 1_000
"""Connections that wait to be accepted at the most; what comes beyond it waits in the load generator."""

WITHIN: Final = 30.0


@dataclass(frozen=True, slots=True)
class Storm:
    """5,000 viewers of 100 streams are cut off and come back half a second later with their cursors.

    A viewer has caught up when it has been given a token that was due after all set out to return; the time counts
    from the cut. `cold`: they come to another gateway, which has read nothing yet.
    """

    name: str
    cold: bool
    beside: tuple[str, ...] = ("tokenwire",)
    open: bool = False
    long: bool = True
    columns: tuple[str, ...] = ("caught_up_p50_s", "caught_up_p99_s", "caught_up_all_s", "resume_us", "reads_per_log")

    @property
    def title(self) -> str:
        """What happens."""
        where = "another gateway" if self.cold else "the same gateway"
        return f"{VIEWERS:,} viewers of {STREAMS} streams cut at once and resuming at {where}"

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        tokens = int(RATE * (seconds + WITHIN + 30.0))
        with session(contender, machine, STREAMS, tokens) as at:
            at.connect(VIEWERS)
            at.begin(RATE, seconds)
            at.measure(seconds)
            port = at.running.viewers[1]
            other = None
            if self.cold:
                host, store = at.running.publisher.address
                other, port = tokenwire.start_gateway(f"redis://{host}:{store}/0", at.place)
                at.running.processes = {**at.running.processes, "gateway": (other.pid,)}
            try:
                reads = tokenwire.log_reads(port)
                before = at.cpu("gateway")
                at.load.do("cut")
                at.load.do(f"address 127.0.0.1 {port}")
                at.load.do(f"wait {AWAY}")
                report = at.load.do(f"resume {AT_ONCE} {WITHIN}", WITHIN + 30)
                edge = report["edge"] or {}
                # Who is not back counts as the slowest.
                late = report["off_edge"] > VIEWERS / 100
                at.figures["caught_up_p50_s"] = edge.get("p50", 1e3 * WITHIN) / 1e3
                at.figures["caught_up_p99_s"] = WITHIN if late else edge["p99"] / 1e3
                at.figures["caught_up_all_s"] = WITHIN if report["off_edge"] else edge["max"] / 1e3
                at.figures["resume_us"] = 1e6 * (at.cpu("gateway") - before) / VIEWERS
                after = tokenwire.log_reads(port)
                at.figures["reads_per_log"] = max(after[log] - reads.get(log, 0.0) for log in after) / STREAMS
                return at.finish(self.name)
            finally:
                if other is not None:
                    other.close()


STORMS: Final = (Storm("F", cold=False), Storm("F-cold", cold=True))
