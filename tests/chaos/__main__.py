"""`python -m tests.chaos --seed 1 --schedules 60`: random failures on whole deployments; `make chaos` runs it.

The first schedule has the seed itself, the next one the next number; so `--seed N --schedules 1` repeats number N.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.checker import KINDS
from tests.chaos.elsewhere import CLIENT_FAULTS, Elsewhere
from tests.chaos.house import House
from tests.chaos.nursery import Nursery
from tests.chaos.provider import Script
from tests.chaos.run import Outcome, Run
from tests.chaos.schedule import draw
from tests.provider_server import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator


class Tally:
    """What all runs together came to."""

    def __init__(self) -> None:
        self.schedules = self.tokens = self.questions = self.reconnects = 0
        self.injected: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.failed: list[int] = []
        self.calm: list[float] = []
        self.lag = 0.0

    def add(self, outcome: Outcome) -> None:
        self.schedules += 1
        self.tokens += outcome.tokens
        self.questions += outcome.questions
        self.reconnects += outcome.reconnects
        self.injected += outcome.injected
        self.verdicts.update(verdict.kind for verdict in outcome.verdicts)
        self.calm.append(outcome.calm)
        self.lag = max(self.lag, outcome.lag)
        if outcome.verdicts:
            self.failed.append(outcome.schedule.seed)

    def as_data(self) -> dict[str, Any]:
        calm = sorted(self.calm) or [0.0]
        return {
            "schedules": self.schedules,
            "questions": self.questions,
            "tokens": self.tokens,
            "reconnects": self.reconnects,
            "faults": sum(self.injected.values()),
            "injected": dict(sorted(self.injected.items())),
            "verdicts": dict(self.verdicts),
            "failed_seeds": self.failed,
            "calm_median": round(calm[len(calm) // 2], 2),
            "calm_most": round(calm[-1], 2),
            "machine_stood_still": round(self.lag, 2),
        }

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.schedules} schedules, {self.questions} questions, {self.tokens} tokens delivered, "
            f"{self.reconnects} reconnects, {sum(self.injected.values())} faults:"
        )
        for name, number in sorted(self.injected.items(), key=lambda item: (int(item[0].split()[0][1:]), item[0])):
            yield f"  {number:5}  {name}"
        yield ", ".join(f"{kind} {self.verdicts[kind]}" for kind in KINDS)


def tell(outcome: Outcome) -> None:
    """Print what went wrong, and how to see it again."""
    schedule = outcome.schedule
    print(f"\nFAILED: seed {schedule.seed}; `make chaos SEED={schedule.seed} SCHEDULES=1` repeats it")
    print(json.dumps(schedule.as_data()))
    for verdict in outcome.verdicts:
        print(f"  {verdict.kind}: {verdict.viewer} {verdict.about}: {verdict.detail}")
    with tempfile.NamedTemporaryFile("w", prefix=f"tw-chaos-{schedule.seed}-", suffix=".log", delete=False) as file:
        file.write(outcome.evidence)
    print(f"  what everybody said and showed: {file.name}", flush=True)


async def campaign(
    seeds: list[int],
    houses: int,
    make: str,
    only: tuple[str, ...] = (),
    sabotage: tuple[str, ...] = (),
    loud: bool = False,
    gateways: tuple[str, ...] = (),
    model: str = "default",
) -> tuple[Tally, list[Outcome]]:
    """Run the schedules of all seeds, so many houses at once; return what they came to, and those that failed."""
    tally = Tally()
    failed: list[Outcome] = []
    waiting = iter(seeds)
    script = Script()
    nursery = Nursery()

    async def serve() -> None:
        house: House | None = None
        for seed in waiting:
            try:
                if house is None:
                    house = Elsewhere(gateways, model) if gateways else House(nursery, provider.url, make, sabotage)
                    await house.__aenter__()
                outcome = await Run(house, script, draw(seed, only)).play()
            except Exception:
                print(f"\nseed {seed} could not be run\n{traceback.format_exc()}", flush=True)
                tally.failed.append(seed)
                if house is not None:
                    print(house.output()[-6000:], flush=True)
                    await house.__aexit__()
                house = None
                continue
            tally.add(outcome)
            provider.calls.clear()
            house.forget_output()
            if loud:
                print(
                    f"{seed}: {outcome.seconds:.1f} s, calm {outcome.calm:.1f} s, {outcome.tokens} tokens, "
                    f"{[fault.kind for fault in outcome.schedule.faults]} {[v.kind for v in outcome.verdicts]}",
                    flush=True,
                )
            if outcome.verdicts:
                failed.append(outcome)
                if loud:
                    tell(outcome)
                # What one run left broken must not be the next one's fault.
                await house.__aexit__()
                house = None
        if house is not None:
            await house.__aexit__()

    try:
        with ProviderServer(script=script) as provider:
            await asyncio.gather(*(serve() for _ in range(houses)))
    finally:
        nursery.close()
    return tally, failed


def main() -> int:
    """Run what the command line asks for; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=60)
    parser.add_argument("--houses", type=int, default=3, help="deployments at once")
    parser.add_argument("--make", default="valkey", choices=("valkey", "redis"), help="whose store")
    parser.add_argument("--only", default="", help="kinds of faults, with commas between")
    parser.add_argument("--sabotage", default="", help="protections to do without, with commas between")
    parser.add_argument("--gateways", default="", help="WebSockets (ws://) of gateways that run already, with commas")
    parser.add_argument("--model", default="default", help="the alias to ask those gateways for")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--quiet", action="store_true", help="say nothing of schedules that hold")
    options = parser.parse_args()
    seeds = list(range(options.seed, options.seed + options.schedules))
    gateways = tuple(filter(None, options.gateways.split(",")))
    only = tuple(filter(None, options.only.split(","))) or (CLIENT_FAULTS if gateways else ())
    sabotage = tuple(filter(None, options.sabotage.split(",")))
    # A provider that breaks off is meant to.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    begun = time.monotonic()
    tally, failed = asyncio.run(
        campaign(
            seeds,
            min(options.houses, len(seeds)),
            options.make,
            only,
            sabotage,
            loud=not options.quiet,
            gateways=gateways,
            model=options.model,
        )
    )
    if options.quiet:
        for outcome in failed:
            tell(outcome)
    seconds = time.monotonic() - begun
    print("\n".join(tally.lines()))
    print(f"seeds {seeds[0]} to {seeds[-1]}, {seconds:.0f} s; failed: {tally.failed or 'none'}")
    if options.json is not None:
        data = {**tally.as_data(), "seed": options.seed, "seconds": round(seconds, 1), "store": options.make}
        options.json.write_text(json.dumps(data, indent=2) + "\n")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
