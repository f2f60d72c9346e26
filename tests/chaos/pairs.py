"""Pairs of runs: each schedule with a protection and without it.

`python -m tests.chaos.pairs` plays every schedule twice. The checker must find nothing with the
protection, and an expected violation without it. `--without` skips the first half.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.chaos.checker import ViewerState
from tests.chaos.deployment import Deployment
from tests.chaos.fork_server import ForkServer
from tests.chaos.provider import Script
from tests.chaos.run import Run, RunResult
from tests.chaos.schedule import Action, ConversationPlan, Fault, MessagePlan, Schedule, ViewerPlan
from tests.provider_server import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.checker import Frame, Kind

TIMEOUT_S: Final = 9.0
"""Seconds within which everything must end: a lease and an answer, with a margin."""

ATTEMPTS: Final = 3
"""Attempts without a protection: on a busy machine a run can miss the moment that needs it."""


class StaleCursor(ViewerState):
    """Client defect: resumes from a cursor before its position."""

    def apply(self, frame: Frame) -> None:
        before = {name: shown.cursor for name, shown in self.open.items()}
        super().apply(frame)
        if frame["type"] == "delta" and len(self.shown[frame["response"]].text) > 300:
            self.shown[frame["response"]].cursor = before.get(frame["response"])


class IgnoredReset(ViewerState):
    """Client defect: applies a reset like a delta."""

    def apply(self, frame: Frame) -> None:
        super().apply({**frame, "type": "delta"} if frame["type"] == "reset" else frame)


@dataclass(frozen=True, slots=True)
class Pair:
    """A protection, a schedule that needs it, and the verdicts of which its absence must cause one (`finds`)."""

    name: str
    schedule: Schedule
    finds: frozenset[Kind]
    sabotage: tuple[str, ...] = ()
    state: type[ViewerState] | None = None


def schedule(
    *faults: Fault, conversations: int = 4, pieces: int = 80, copies: int = 1, actions: Sequence[Action] = ()
) -> Schedule:
    """Return a schedule of four-second answers with viewers on both gateways."""
    viewers = (ViewerPlan(0, 0.0, tuple(actions)), ViewerPlan(1, 0.0, tuple(actions)), ViewerPlan(0, 0.0))
    turn = MessagePlan(0.3, "finish", pieces, 0.05, copies)
    return Schedule(0, (ConversationPlan((turn,), viewers),) * conversations, faults)


CUTS: Final = tuple(Action(at, "cut", 0.1) for at in (1.5, 2.0, 2.5, 3.0, 3.5))
PAIRS: Final = (
    Pair(
        "an append requires the entry that its writer expects",
        schedule(Fault("failover", 1.5, 0.7, 0, 0.0)),
        frozenset({"lost", "corrupted", "mixed", "diverged"}),
        ("append condition",),
    ),
    Pair(
        "a worker that lost its lease is fenced",
        schedule(Fault("freeze worker", 1.2, 2.6, 0, 0.0), conversations=6),
        frozenset({"mixed", "duplicated", "reordered", "corrupted"}),
        ("fence",),
    ),
    Pair(
        "an idempotency key is one message",
        schedule(copies=3, pieces=20),
        frozenset({"duplicated"}),
        ("idempotency keys",),
    ),
    Pair(
        "a worker renews its leases",
        schedule(),
        frozenset({"extra_calls"}),
        ("lease renewal",),
    ),
    Pair(
        "the jobs of a dead worker are taken over",
        schedule(Fault("kill worker", 1.2, 0.3, 0, 0.0), Fault("kill worker", 1.3, 0.3, 1, 0.0)),
        frozenset({"stuck"}),
        ("take-over",),
    ),
    Pair(
        "logs are reconciled with the store",
        schedule(Fault("drop publishes to gateway", 1.0, 5.0, 0, 0.0)),
        frozenset({"stuck", "lost"}),
        ("reconciliation",),
    ),
    Pair(
        "a gap between publishes is detected",
        schedule(
            Fault("drop publishes to gateway", 1.5, 0.5, 0, 0.0), Fault("drop publishes to gateway", 1.5, 0.5, 1, 0.0)
        ),
        frozenset({"lost"}),
        ("gap detection",),
    ),
    Pair(
        "an entry number that was issued twice is two cursors",
        # Sleeping viewers reconnect when the new log is longer than their part of the lost one.
        schedule(Fault("failover and kill workers", 1.5, 0.8, 0, 0.0), actions=(Action(2.2, "sleep", 4.6),)),
        frozenset({"mixed", "lost", "corrupted", "diverged"}),
        ("nonce",),
    ),
    Pair(
        "a client resumes from its last cursor",
        schedule(actions=CUTS),
        frozenset({"duplicated"}),
        state=StaleCursor,
    ),
    Pair(
        "a client applies a reset",
        # A take-over keeps what is shown, but not what a failover lost.
        schedule(Fault("failover and kill workers", 1.5, 0.8, 0, 0.0)),
        frozenset({"mixed", "duplicated", "reordered", "chars"}),
        state=IgnoredReset,
    ),
)


async def play(pair: Pair, fork_server: ForkServer, script: Script, provider: str, *, protected: bool) -> RunResult:
    """Play the schedule of a pair with or without its protection, in a new deployment."""
    sabotage = () if protected else pair.sabotage
    async with Deployment(fork_server, provider, sabotage=sabotage) as deployment:
        state = None if protected else pair.state
        return await Run(deployment, script, pair.schedule, state=state, timeout=TIMEOUT_S).play()


async def play_all(*, protected: bool, concurrency: int = 3) -> list[tuple[Pair, RunResult]]:
    """Play all schedules with or without the protections."""
    script, fork_server, slots = Script(), ForkServer(), asyncio.Semaphore(concurrency)

    async def one(pair: Pair) -> tuple[Pair, RunResult]:
        async with slots:
            for _ in range(1 if protected else ATTEMPTS):
                result = await play(pair, fork_server, script, provider.url, protected=protected)
                if pair.finds & {verdict.kind for verdict in result.verdicts}:
                    break
            return pair, result

    try:
        with ProviderServer(script=script) as provider:
            return list(await asyncio.gather(*(one(pair) for pair in PAIRS)))
    finally:
        fork_server.close()


async def main() -> int:
    """Print the verdicts of each run; return 1 if any is unexpected."""
    expected = True
    for protected in (False,) if "--without" in sys.argv else (True, False):
        print("with the protections:" if protected else "without the protections:")
        for pair, result in await play_all(protected=protected):
            found = {verdict.kind for verdict in result.verdicts}
            expected = expected and (not found if protected else bool(found & pair.finds))
            print(f"  {pair.name}: {', '.join(sorted(found)) or 'nothing'}", flush=True)
            if protected and found:
                print(result.verdicts[:5])
    return 0 if expected else 1


if __name__ == "__main__":
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(main()))
