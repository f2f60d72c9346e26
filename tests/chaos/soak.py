"""`python -m tests.chaos.soak --minutes 60`: load with churn and cancellations, and a check for leaks.

Every minute 5 % of the viewers are disconnected or reload their page. Some answers are stopped. Twice a second a client
connects and aborts at a random point of the handshake. Memory, descriptors, tasks and pooled store connections of each
process are counted without clients: once after a warm-up, and once at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.chaos.checker import Checker
from tests.chaos.deployment import Deployment, Instance
from tests.chaos.fork_server import ForkServer
from tests.chaos.provider import Script
from tests.chaos.schedule import MessagePlan
from tests.chaos.viewer import Viewer
from tests.provider_server import ProviderServer

CONVERSATIONS: Final = 20
VIEWERS: Final = 5
"""Viewers per conversation."""

CHURN: Final = 0.05
"""Share of the viewers that reconnect per minute."""

IDLE_S: Final = 45.0
"""Seconds after which a gateway has evicted conversations without viewers."""

MAX_GROWTH: Final = 0.02
"""Allowed growth of each count, as a fraction of its base."""


async def resource_counts(instance: Instance) -> dict[str, float]:
    """Return the resource counts of a process."""
    child = instance.child
    assert child is not None
    before = child.text.count("COUNTS")
    child.signal(signal.SIGUSR1)
    deadline = time.monotonic() + 10.0
    while child.text.count("COUNTS") == before:
        assert time.monotonic() < deadline, f"{instance.name} prints no counts"
        await asyncio.sleep(0.05)
    (printed,) = [line for line in child.text.splitlines() if line.startswith("COUNTS")][before:]
    counts = json.loads(printed.removeprefix("COUNTS "))
    pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE") / 1024,
        # Idle pooled connections do not count: their number varies with the load.
        "descriptors": len(list(Path(f"/proc/{child.pid}/fd").iterdir())) - counts.pop("idle"),
        **counts,
    }


class Soak:
    """The load of the soak test."""

    def __init__(self, deployment: Deployment, script: Script, seed: int) -> None:
        self.deployment = deployment
        self.script = script
        self.rng = random.Random(seed)
        self.checker = Checker()
        self.answers = self.tokens = self.aborted_connects = self.churned = self.stopped = 0
        self.problems: list[str] = []

    async def load(self, seconds: float) -> None:
        """Run the load for `seconds`; all clients are disconnected when it returns."""
        end_time = time.monotonic() + seconds
        tasks = [asyncio.create_task(self._converse(number, end_time)) for number in range(CONVERSATIONS)]
        tasks.append(asyncio.create_task(self._abort_connects(end_time)))
        await asyncio.gather(*tasks)

    async def count(self) -> dict[str, dict[str, float]]:
        """Return the resource counts of all processes without clients."""
        await asyncio.sleep(IDLE_S)
        return {instance.name: await resource_counts(instance) for instance in self.deployment.instances}

    async def _converse(self, number: int, end_time: float) -> None:
        """Run conversations one after another, each with a few questions, so that finished ones can be evicted."""
        while time.monotonic() < end_time:
            name = f"soak-{number}-{self.answers}"
            # One checker per conversation, so that this process does not accumulate state.
            checker = Checker()
            viewers = [
                Viewer(
                    checker.add_viewer(f"{name}/{index}", name),
                    self.deployment.urls,
                    index,
                    random.Random(self.rng.random()),
                )
                for index in range(VIEWERS)
            ]
            for viewer in viewers:
                viewer.start()
            until = min(end_time, time.monotonic() + 60.0)
            while time.monotonic() < until:
                await self._ask(name, viewers)
            await asyncio.gather(*(viewer.close() for viewer in viewers))
            self.tokens += checker.tokens
            self.problems += [f"{verdict.kind}: {verdict.about}: {verdict.detail}" for verdict in checker.verdicts]

    async def _ask(self, name: str, viewers: list[Viewer]) -> None:
        self.answers += 1
        key = f"60.{self.rng.getrandbits(40):x}"
        self.script.expect(key, MessagePlan(0.0, "finish", 60, 0.04))
        asker = self.rng.choice(viewers)
        await asker.ask(f"k-{key}", key)
        end_time = time.monotonic() + self.rng.uniform(4.0, 9.0)
        while time.monotonic() < end_time:
            await asyncio.sleep(0.5)
            for viewer in viewers:
                if self.rng.random() < CHURN / 120:
                    self.churned += 1
                    self.rng.choice((viewer.cut, viewer.move, viewer.reload))()
            if self.rng.random() < 0.01:
                self.stopped += 1
                await asker.stop()
        deadline = time.monotonic() + 20.0
        while not all(viewer.settled for viewer in viewers):
            if time.monotonic() > deadline:
                self.problems.append(f"stuck: {name}")
                return
            await asyncio.sleep(0.1)
        self.script.forget(key)

    async def _abort_connects(self, end_time: float) -> None:
        """Connect again and again, and abort at a random point."""
        while time.monotonic() < end_time:
            self.aborted_connects += 1
            task = asyncio.create_task(self._connect())
            await asyncio.sleep(self.rng.uniform(0.0, 0.06))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(self.rng.uniform(0.2, 0.8))

    async def _connect(self) -> None:
        url = self.rng.choice(self.deployment.urls)
        name = f"soak-{self.rng.randrange(CONVERSATIONS)}-0"
        with suppress(OSError, WebSocketException):
            async with connect(url, compression=None, open_timeout=2.0, close_timeout=0.1, proxy=None) as socket:
                await socket.send(json.dumps({"type": "hello"}))
                await socket.send(json.dumps({"type": "watch", "conversation": name}))
                try:
                    async for _ in socket:
                        pass
                finally:
                    socket.transport.abort()


def growth(base: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Return the growth of each count as a fraction of its base."""
    return {name: now[name] / base[name] - 1 if base[name] else now[name] for name in base}


async def soak(minutes: float, warm: float, seed: int) -> dict[str, Any]:
    """Run the soak test; return its counts and problems. Not safe to cancel: processes may be left."""
    script = Script()
    fork_server = ForkServer()
    try:
        with ProviderServer(script=script) as provider:
            async with Deployment(fork_server, provider.url, sabotage=("resource counts",)) as deployment:
                run = Soak(deployment, script, seed)
                await run.load(warm * 60)
                base = await run.count()
                print("base", json.dumps(base), flush=True)
                end_time = time.monotonic() + minutes * 60
                while (left := end_time - time.monotonic()) > 0:
                    await run.load(min(left, 300.0))
                    now = {instance.name: await resource_counts(instance) for instance in deployment.instances}
                    provider.calls.clear()
                    print(
                        f"{run.answers} answers, {run.aborted_connects} aborted connects", json.dumps(now), flush=True
                    )
                end = await run.count()
                run.problems += deployment.problems()
    finally:
        fork_server.close()
    return {
        "minutes": minutes,
        "answers": run.answers,
        "tokens": run.tokens,
        "churned": run.churned,
        "stopped": run.stopped,
        "aborted_connects": run.aborted_connects,
        "base": base,
        "end": end,
        "growth": {name: growth(base[name], end[name]) for name in base},
        "problems": run.problems,
    }


def main() -> int:
    """Run the soak test from the command line; return 1 if a count grew or a problem occurred."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--warm", type=float, default=3.0, help="minutes of warm-up before the first count")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    result = asyncio.run(soak(options.minutes, options.warm, options.seed))
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    grew = [
        f"{name}: {what} by {share:.1%}"
        for name, shares in result["growth"].items()
        for what, share in shares.items()
        if share > MAX_GROWTH
    ]
    print(f"grew: {', '.join(grew) or 'nothing'}; problems: {len(result['problems'])}")
    return 1 if grew or result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
