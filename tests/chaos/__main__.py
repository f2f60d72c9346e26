"""Run random fault schedules on whole deployments (`make chaos`).

Schedules have consecutive seeds. `--seed N --schedules 1` repeats schedule N.
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
from tests.chaos.deployment import Deployment
from tests.chaos.external import CLIENT_FAULTS, ExternalDeployment
from tests.chaos.fork_server import ForkServer
from tests.chaos.provider import Script
from tests.chaos.run import Run, RunResult
from tests.chaos.schedule import draw
from tests.provider_server import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator


class Tally:
    """Totals of all runs."""

    def __init__(self) -> None:
        self.schedules = self.tokens = self.questions = self.reconnects = 0
        self.injected: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.failed: list[int] = []
        self.settle_s: list[float] = []
        self.max_stall_s = 0.0

    def add(self, result: RunResult) -> None:
        self.schedules += 1
        self.tokens += result.tokens
        self.questions += result.questions
        self.reconnects += result.reconnects
        self.injected += result.injected
        self.verdicts.update(verdict.kind for verdict in result.verdicts)
        self.settle_s.append(result.settle_s)
        self.max_stall_s = max(self.max_stall_s, result.max_stall_s)
        if result.verdicts:
            self.failed.append(result.schedule.seed)

    def as_data(self) -> dict[str, Any]:
        settle_s = sorted(self.settle_s) or [0.0]
        return {
            "schedules": self.schedules,
            "questions": self.questions,
            "tokens": self.tokens,
            "reconnects": self.reconnects,
            "faults": sum(self.injected.values()),
            "injected": dict(sorted(self.injected.items())),
            "verdicts": dict(self.verdicts),
            "failed_seeds": self.failed,
            "settle_median_s": round(settle_s[len(settle_s) // 2], 2),
            "settle_max_s": round(settle_s[-1], 2),
            "machine_stall_s": round(self.max_stall_s, 2),
        }

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.schedules} schedules, {self.questions} questions, {self.tokens} tokens delivered, "
            f"{self.reconnects} reconnects, {sum(self.injected.values())} faults:"
        )
        for name, number in sorted(self.injected.items(), key=lambda item: (int(item[0].split()[0][1:]), item[0])):
            yield f"  {number:5}  {name}"
        yield ", ".join(f"{kind} {self.verdicts[kind]}" for kind in KINDS)


def print_failure(result: RunResult) -> None:
    """Print the verdicts of a failed run and how to repeat it."""
    schedule = result.schedule
    print(f"\nFAILED: seed {schedule.seed}; `make chaos SEED={schedule.seed} SCHEDULES=1` repeats it")
    print(json.dumps(schedule.as_data()))
    for verdict in result.verdicts:
        print(f"  {verdict.kind}: {verdict.viewer} {verdict.about}: {verdict.detail}")
    with tempfile.NamedTemporaryFile("w", prefix=f"tw-chaos-{schedule.seed}-", suffix=".log", delete=False) as file:
        file.write(result.evidence)
    print(f"  frames and logs: {file.name}", flush=True)


async def run_schedules(
    seeds: list[int],
    deployments: int,
    server: str,
    only: tuple[str, ...] = (),
    sabotage: tuple[str, ...] = (),
    verbose: bool = False,
    gateways: tuple[str, ...] = (),
    model: str = "default",
) -> tuple[Tally, list[RunResult]]:
    """Run the schedules of all seeds in `deployments` concurrent deployments; return totals and failed runs."""
    tally = Tally()
    failed: list[RunResult] = []
    pending = iter(seeds)
    script = Script()
    fork_server = ForkServer()

    async def run_pending() -> None:
        deployment: Deployment | None = None
        for seed in pending:
            try:
                if deployment is None:
                    deployment = (
                        ExternalDeployment(gateways, model)
                        if gateways
                        else Deployment(fork_server, provider.url, server, sabotage)
                    )
                    await deployment.__aenter__()
                result = await Run(deployment, script, draw(seed, only)).play()
            except Exception:
                print(f"\nseed {seed} failed to run\n{traceback.format_exc()}", flush=True)
                tally.failed.append(seed)
                if deployment is not None:
                    print(deployment.output()[-6000:], flush=True)
                    await deployment.__aexit__()
                deployment = None
                continue
            tally.add(result)
            provider.calls.clear()
            deployment.clear_output()
            if verbose:
                print(
                    f"{seed}: {result.seconds:.1f} s, settled after {result.settle_s:.1f} s, {result.tokens} tokens, "
                    f"{[fault.kind for fault in result.schedule.faults]} {[v.kind for v in result.verdicts]}",
                    flush=True,
                )
            if result.verdicts:
                failed.append(result)
                if verbose:
                    print_failure(result)
                # Start a new deployment, so that damage of this run cannot affect the next one.
                await deployment.__aexit__()
                deployment = None
        if deployment is not None:
            await deployment.__aexit__()

    try:
        with ProviderServer(script=script) as provider:
            await asyncio.gather(*(run_pending() for _ in range(deployments)))
    finally:
        fork_server.close()
    return tally, failed


def main() -> int:
    """Run the schedules of the command line; return 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=60)
    parser.add_argument("--deployments", type=int, default=3, help="number of concurrent deployments")
    parser.add_argument("--server", default="valkey", choices=("valkey", "redis"), help="server program of the store")
    parser.add_argument("--only", default="", help="comma-separated kinds of faults to draw from; default: all")
    parser.add_argument("--sabotage", default="", help="comma-separated protections to disable")
    parser.add_argument(
        "--gateways", default="", help="comma-separated WebSocket URLs (ws://) of running gateways to test instead"
    )
    parser.add_argument("--model", default="default", help="model alias to request from those gateways")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--quiet", action="store_true", help="print failed schedules only")
    options = parser.parse_args()
    seeds = list(range(options.seed, options.seed + options.schedules))
    gateways = tuple(filter(None, options.gateways.split(",")))
    only = tuple(filter(None, options.only.split(","))) or (CLIENT_FAULTS if gateways else ())
    sabotage = tuple(filter(None, options.sabotage.split(",")))
    # The fake provider breaks connections on purpose.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    started = time.monotonic()
    tally, failed = asyncio.run(
        run_schedules(
            seeds,
            min(options.deployments, len(seeds)),
            options.server,
            only,
            sabotage,
            verbose=not options.quiet,
            gateways=gateways,
            model=options.model,
        )
    )
    if options.quiet:
        for result in failed:
            print_failure(result)
    seconds = time.monotonic() - started
    print("\n".join(tally.lines()))
    print(f"seeds {seeds[0]} to {seeds[-1]}, {seconds:.0f} s; failed: {tally.failed or 'none'}")
    if options.json is not None:
        data = {**tally.as_data(), "seed": options.seed, "seconds": round(seconds, 1), "store": options.server}
        options.json.write_text(json.dumps(data, indent=2) + "\n")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
