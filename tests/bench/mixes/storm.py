"""F: reconnect storm. All viewers are disconnected at the same time and reconnect together."""

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
PAUSE_S: Final = 0.5
"""Seconds between disconnect and reconnect."""

CONCURRENCY: Final = 1_000
"""Maximum number of concurrent connects; the load generator queues the others."""

TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Storm:
    """5,000 viewers of 100 streams are disconnected and resume half a second later with their cursors.

    A viewer is up to date when it has received a token that was due after the start of the reconnects. Times count
    from the disconnect. `cold`: viewers reconnect to another gateway, which has not read the logs.
    """

    name: str
    cold: bool
    default_contenders: tuple[str, ...] = ("tokenwire",)
    open: bool = False
    single_round: bool = True
    columns: tuple[str, ...] = ("caught_up_p50_s", "caught_up_p99_s", "caught_up_all_s", "resume_us", "reads_per_log")

    @property
    def title(self) -> str:
        """Return its description."""
        where = "another gateway" if self.cold else "the same gateway"
        return f"{VIEWERS:,} viewers of {STREAMS} streams disconnected together and resuming at {where}"

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`."""
        tokens = int(RATE * (seconds + TIMEOUT_S + 30.0))
        with session(contender, machine, STREAMS, tokens) as run:
            run.connect(VIEWERS)
            run.start(RATE, seconds)
            run.measure(seconds)
            port = run.running.viewers[1]
            other = None
            if self.cold:
                host, store = run.running.publisher.address
                other, port = tokenwire.start_gateway(f"redis://{host}:{store}/0", run.placement)
                run.running.processes = {**run.running.processes, "gateway": (other.pid,)}
            try:
                reads = tokenwire.log_reads(port)
                before = run.cpu("gateway")
                run.load.do("cut")
                run.load.do(f"address 127.0.0.1 {port}")
                run.load.do(f"wait {PAUSE_S}")
                report = run.load.do(f"resume {CONCURRENCY} {TIMEOUT_S}", TIMEOUT_S + 30)
                edge = report["edge"] or {}
                # Viewers that are not back count as the slowest.
                late = report["off_edge"] > VIEWERS / 100
                run.figures["caught_up_p50_s"] = edge.get("p50", 1e3 * TIMEOUT_S) / 1e3
                run.figures["caught_up_p99_s"] = TIMEOUT_S if late else edge["p99"] / 1e3
                run.figures["caught_up_all_s"] = TIMEOUT_S if report["off_edge"] else edge["max"] / 1e3
                run.figures["resume_us"] = 1e6 * (run.cpu("gateway") - before) / VIEWERS
                after = tokenwire.log_reads(port)
                run.figures["reads_per_log"] = max(after[log] - reads.get(log, 0.0) for log in after) / STREAMS
                return run.finish(self.name)
            finally:
                if other is not None:
                    other.close()


STORMS: Final = (Storm("F", cold=False), Storm("F-cold", cold=True))
