"""E: cost of an idle socket."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..run import session

if TYPE_CHECKING:
    from ..contender import Contender
    from ..result import Result
    from ..run import Machine, Session

FIRST: Final = 2_000
ALL: Final = 10_000
BASE_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 20.0
"""One heartbeat period, so that each socket gets one heartbeat."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Sockets that watch one conversation without traffic.

    Memory is the slope of the process memory between 2,000 and 10,000 sockets. The kernel's buffers (about 4 kB a
    socket) belong to no process. CPU is the difference between 10,000 sockets and none.
    """

    name: str = "E"
    title: str = f"{ALL:,} idle sockets"
    default_contenders: tuple[str, ...] = ("null", "tokenwire")
    open: bool = True
    single_round: bool = True
    columns: tuple[str, ...] = ("socket_bytes", "first_sockets_bytes", "idle_us_per_s", "alone_us_per_s", "connect_us")

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`; the duration is fixed."""
        del seconds
        with session(contender, machine, 1, 1000) as run:
            alone = used(run, BASE_SECONDS)
            none = run.memory()
            run.connect(FIRST)
            run.load.do("wait 2")
            some = run.memory()
            run.connect(ALL - FIRST)
            run.load.do("wait 2")
            run.figures["socket_bytes"] = (run.memory() - some) / (ALL - FIRST)
            run.figures["first_sockets_bytes"] = (some - none) / FIRST
            run.figures["alone_us_per_s"] = 1e6 * alone
            run.figures["idle_us_per_s"] = 1e6 * max(0.0, used(run, IDLE_SECONDS) - alone) / ALL
            return run.finish(self.name)


def used(run: Session, seconds: float) -> float:
    """Return the cores that the server uses without traffic, measured over `seconds`."""
    before, started = run.cpu("gateway"), time.monotonic()
    run.load.do(f"wait {seconds}", seconds + 30)
    return (run.cpu("gateway") - before) / (time.monotonic() - started)
