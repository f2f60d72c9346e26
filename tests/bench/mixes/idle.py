"""E: what a socket costs that says nothing and is told nothing."""

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
"""As long as a heartbeat's period, so that each socket has one in it."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Sockets that watch one conversation in which nothing happens.

    Memory is the slope between 2,000 and 10,000 sockets, of the process alone: the kernel's own buffers (about 4 kB a
    socket) are no process's. CPU is what 10,000 cost beyond none.
    """

    name: str = "E"
    title: str = f"{ALL:,} idle sockets"
    beside: tuple[str, ...] = ("null", "tokenwire")
    open: bool = True
    long: bool = True
    columns: tuple[str, ...] = ("socket_bytes", "first_sockets_bytes", "idle_us_per_s", "alone_us_per_s", "connect_us")

    def run(self, contender: Contender, machine: Machine, seconds: float) -> Result:
        """See `Mix`; it takes its own time."""
        del seconds
        with session(contender, machine, 1, 1000) as at:
            alone = used(at, BASE_SECONDS)
            none = at.memory()
            at.connect(FIRST)
            at.load.do("wait 2")
            some = at.memory()
            at.connect(ALL - FIRST)
            at.load.do("wait 2")
            at.figures["socket_bytes"] = (at.memory() - some) / (ALL - FIRST)
            at.figures["first_sockets_bytes"] = (some - none) / FIRST
            at.figures["alone_us_per_s"] = 1e6 * alone
            at.figures["idle_us_per_s"] = 1e6 * max(0.0, used(at, IDLE_SECONDS) - alone) / ALL
            return at.finish(self.name)


def used(at: Session, seconds: float) -> float:
    """Cores that the server uses over so many seconds of nothing."""
    before, begun = at.cpu("gateway"), time.monotonic()
    at.load.do(f"wait {seconds}", seconds + 30)
    return (at.cpu("gateway") - before) / (time.monotonic() - begun)
