"""Each protection, and a run that shows what happens without it.

`python -m tests.chaos.pairs` plays every run twice, with its protection and without; only then must the checker find
something. `--without` leaves the first half out.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.chaos.checker import Watcher
from tests.chaos.house import House
from tests.chaos.nursery import Nursery
from tests.chaos.provider import Script
from tests.chaos.run import Outcome, Run
from tests.chaos.schedule import Conversation, Doing, Fault, Schedule, Turn, Viewer
from tests.provider_server import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.checker import Frame, Kind

PATIENCE: Final = 9.0
"""Seconds in which all has to end: a lease, an answer, and some."""

TRIES: Final = 3
"""How often a run is played without its protection: on a busy machine a moment can be missed in which it is needed."""


class Forgetful(Watcher):
    """Goes on from somewhat before where it is."""

    def take(self, frame: Frame) -> None:
        before = {name: shown.cursor for name, shown in self.open.items()}
        super().take(frame)
        if frame["type"] == "delta" and len(self.shown[frame["response"]].text) > 300:
            self.shown[frame["response"]].cursor = before.get(frame["response"])


class Stubborn(Watcher):
    """Shows nothing anew: it takes a reset for one more delta."""

    def take(self, frame: Frame) -> None:
        super().take({**frame, "type": "delta"} if frame["type"] == "reset" else frame)


@dataclass(frozen=True, slots=True)
class Pair:
    """A protection, the run that needs it, and what the checker must find without it: one of `finds`."""

    name: str
    schedule: Schedule
    finds: frozenset[Kind]
    sabotage: tuple[str, ...] = ()
    watcher: type[Watcher] | None = None


def schedule(
    *faults: Fault, conversations: int = 4, pieces: int = 80, copies: int = 1, does: Sequence[Doing] = ()
) -> Schedule:
    """Answers of four seconds, each with viewers on both gateways."""
    viewers = (Viewer(0, 0.0, tuple(does)), Viewer(1, 0.0, tuple(does)), Viewer(0, 0.0))
    turn = Turn(0.3, "finish", pieces, 0.05, copies)
    return Schedule(0, (Conversation((turn,), viewers),) * conversations, faults)


CUTS: Final = tuple(Doing(at, "cut", 0.1) for at in (1.5, 2.0, 2.5, 3.0, 3.5))
PAIRS: Final = (
    Pair(
        "an append is made only behind the entry that its writer expects",
        schedule(Fault("failover", 1.5, 0.7, 0, 0.0)),
        frozenset({"lost", "garbled", "mixed", "unequal"}),
        ("condition of an append",),
    ),
    Pair(
        "a worker that lost its lease is fenced",
        schedule(Fault("freeze worker", 1.2, 2.6, 0, 0.0), conversations=6),
        frozenset({"mixed", "doubled", "reordered", "garbled"}),
        ("fence",),
    ),
    Pair(
        "a submit key is one message",
        schedule(copies=3, pieces=20),
        frozenset({"doubled"}),
        ("submit keys",),
    ),
    Pair(
        "a worker renews its leases",
        schedule(),
        frozenset({"overcalled"}),
        ("lease renewal",),
    ),
    Pair(
        "the jobs of a dead worker are taken over",
        schedule(Fault("kill worker", 1.2, 0.3, 0, 0.0), Fault("kill worker", 1.3, 0.3, 1, 0.0)),
        frozenset({"stuck"}),
        ("take-over",),
    ),
    Pair(
        "logs are compared with the store",
        schedule(Fault("deaf gateway", 1.0, 5.0, 0, 0.0)),
        frozenset({"stuck", "lost"}),
        ("comparison",),
    ),
    Pair(
        "a gap in what is published is seen",
        schedule(Fault("deaf gateway", 1.5, 0.5, 0, 0.0), Fault("deaf gateway", 1.5, 0.5, 1, 0.0)),
        frozenset({"lost"}),
        ("gap detection",),
    ),
    Pair(
        "a number that was issued twice is two cursors",
        # Those who sleep meanwhile come back when the new log is longer than what they have of the lost one.
        schedule(Fault("failover and death", 1.5, 0.8, 0, 0.0), does=(Doing(2.2, "sleep", 4.6),)),
        frozenset({"mixed", "lost", "garbled", "unequal"}),
        ("nonce",),
    ),
    Pair(
        "a client goes on from the last cursor that it was given",
        schedule(does=CUTS),
        frozenset({"doubled"}),
        watcher=Forgetful,
    ),
    Pair(
        "a client heeds a reset",
        schedule(Fault("kill worker", 1.2, 0.3, 0, 0.0), Fault("kill worker", 1.3, 0.3, 1, 0.0)),
        frozenset({"mixed"}),
        watcher=Stubborn,
    ),
)


async def play(pair: Pair, nursery: Nursery, script: Script, provider: str, *, protected: bool) -> Outcome:
    """Play the run of a pair, with its protection or without, in a house of its own."""
    sabotage = () if protected else pair.sabotage
    async with House(nursery, provider, sabotage=sabotage) as house:
        watcher = None if protected else pair.watcher
        return await Run(house, script, pair.schedule, watcher=watcher, patience=PATIENCE).play()


async def play_all(*, protected: bool, at_once: int = 3) -> list[tuple[Pair, Outcome]]:
    """Play all runs, with the protections or without."""
    script, nursery, places = Script(), Nursery(), asyncio.Semaphore(at_once)

    async def one(pair: Pair) -> tuple[Pair, Outcome]:
        async with places:
            for _ in range(1 if protected else TRIES):
                outcome = await play(pair, nursery, script, provider.url, protected=protected)
                if pair.finds & {verdict.kind for verdict in outcome.verdicts}:
                    break
            return pair, outcome

    try:
        with ProviderServer(script=script) as provider:
            return list(await asyncio.gather(*(one(pair) for pair in PAIRS)))
    finally:
        nursery.close()


async def main() -> int:
    """Print what each run came to."""
    right = True
    for protected in (False,) if "--without" in sys.argv else (True, False):
        print("with the protections:" if protected else "without:")
        for pair, outcome in await play_all(protected=protected):
            found = {verdict.kind for verdict in outcome.verdicts}
            right = right and (not found if protected else bool(found & pair.finds))
            print(f"  {pair.name}: {', '.join(sorted(found)) or 'nothing'}", flush=True)
            if protected and found:
                print(outcome.verdicts[:5])
    return 0 if right else 1


if __name__ == "__main__":
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(main()))
