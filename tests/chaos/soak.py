"""`python -m tests.chaos.soak --minutes 60`: churn and cancellations for a long time, and what is left of them.

Every minute one viewer in twenty is cut off or loads its page anew; answers are stopped; and twice a second somebody
connects who leaves at any point of the way in. The processes are counted (memory, descriptors, tasks, connections of
the store's pool) when nobody is there: once after a first wave, and once more at the end.
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
from tests.chaos.house import House, Member
from tests.chaos.nursery import Nursery
from tests.chaos.provider import Script
from tests.chaos.schedule import Turn
from tests.chaos.viewer import Viewer
from tests.provider_server import ProviderServer

CONVERSATIONS: Final = 20
VIEWERS: Final = 5
"""Of each conversation."""

CHURN: Final = 0.05
"""Of all viewers, a minute."""

EMPTY_FOR: Final = 45.0
"""Seconds after which a gateway has dropped the conversations that nobody watches."""

MOST_GROWTH: Final = 0.02


async def census(member: Member) -> dict[str, float]:
    """Count what a process holds."""
    child = member.child
    assert child is not None
    before = child.text.count("CENSUS")
    child.signal(signal.SIGUSR1)
    deadline = time.monotonic() + 10.0
    while child.text.count("CENSUS") == before:
        assert time.monotonic() < deadline, f"{member.name} does not count"
        await asyncio.sleep(0.05)
    (said,) = [line for line in child.text.splitlines() if line.startswith("CENSUS")][before:]
    counts = json.loads(said.removeprefix("CENSUS "))
    pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE") / 1024,
        # But for those connections to the store that wait for their next use.
        "descriptors": len(list(Path(f"/proc/{child.pid}/fd").iterdir())) - counts.pop("idle"),
        **counts,
    }


class Soak:
    """Everybody who comes and goes."""

    def __init__(self, house: House, script: Script, seed: int) -> None:
        self.house = house
        self.script = script
        self.chance = random.Random(seed)
        self.checker = Checker()
        self.asked = self.tokens = self.strangers = self.churned = self.stopped = 0
        self.wrong: list[str] = []

    async def load(self, seconds: float) -> None:
        """Let them come and go for so long; nobody is left then."""
        over = time.monotonic() + seconds
        tasks = [asyncio.create_task(self._talk(number, over)) for number in range(CONVERSATIONS)]
        tasks.append(asyncio.create_task(self._intrude(over)))
        await asyncio.gather(*tasks)

    async def count(self) -> dict[str, dict[str, float]]:
        """A census of all processes, now that nobody is there."""
        await asyncio.sleep(EMPTY_FOR)
        return {member.name: await census(member) for member in self.house.members}

    async def _talk(self, number: int, over: float) -> None:
        """One conversation after another, each of a few questions, so that what is done with can be dropped."""
        while time.monotonic() < over:
            name = f"soak-{number}-{self.asked}"
            # A checker for each: what it has seen is no part of what is counted.
            checker = Checker()
            viewers = [
                Viewer(
                    checker.watcher(f"{name}/{index}", name),
                    self.house.urls,
                    index,
                    random.Random(self.chance.random()),
                )
                for index in range(VIEWERS)
            ]
            for viewer in viewers:
                viewer.start()
            until = min(over, time.monotonic() + 60.0)
            while time.monotonic() < until:
                await self._ask(name, viewers)
            await asyncio.gather(*(viewer.close() for viewer in viewers))
            self.tokens += checker.tokens
            self.wrong += [f"{verdict.kind}: {verdict.about}: {verdict.detail}" for verdict in checker.verdicts]

    async def _ask(self, name: str, viewers: list[Viewer]) -> None:
        self.asked += 1
        key = f"60.{self.chance.getrandbits(40):x}"
        self.script.expect(key, Turn(0.0, "finish", 60, 0.04))
        asker = self.chance.choice(viewers)
        await asker.ask(f"k-{key}", key)
        over = time.monotonic() + self.chance.uniform(4.0, 9.0)
        while time.monotonic() < over:
            await asyncio.sleep(0.5)
            for viewer in viewers:
                if self.chance.random() < CHURN / 120:
                    self.churned += 1
                    self.chance.choice((viewer.cut, viewer.move, viewer.reload))()
            if self.chance.random() < 0.01:
                self.stopped += 1
                await asker.stop()
        deadline = time.monotonic() + 20.0
        while not all(viewer.settled for viewer in viewers):
            if time.monotonic() > deadline:
                self.wrong.append(f"stuck: {name}")
                return
            await asyncio.sleep(0.1)
        self.script.forget(key)

    async def _intrude(self, over: float) -> None:
        """Somebody connects, and leaves at any point."""
        while time.monotonic() < over:
            self.strangers += 1
            task = asyncio.create_task(self._visit())
            await asyncio.sleep(self.chance.uniform(0.0, 0.06))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(self.chance.uniform(0.2, 0.8))

    async def _visit(self) -> None:
        url = self.chance.choice(self.house.urls)
        name = f"soak-{self.chance.randrange(CONVERSATIONS)}-0"
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
    """By how much each count is above its base, as a share."""
    return {name: now[name] / base[name] - 1 if base[name] else now[name] for name in base}


async def soak(minutes: float, warm: float, seed: int) -> dict[str, Any]:
    """Run it; return what was counted, and what was wrong."""
    script = Script()
    nursery = Nursery()
    try:
        with ProviderServer(script=script) as provider:
            async with House(nursery, provider.url, sabotage=("census",)) as house:
                run = Soak(house, script, seed)
                await run.load(warm * 60)
                base = await run.count()
                print("base", json.dumps(base), flush=True)
                over = time.monotonic() + minutes * 60
                while (left := over - time.monotonic()) > 0:
                    await run.load(min(left, 300.0))
                    now = {member.name: await census(member) for member in house.members}
                    provider.calls.clear()
                    print(f"{run.asked} answers, {run.strangers} strangers", json.dumps(now), flush=True)
                end = await run.count()
                run.wrong += house.problems()
    finally:
        nursery.close()
    return {
        "minutes": minutes,
        "answers": run.asked,
        "tokens": run.tokens,
        "churned": run.churned,
        "stopped": run.stopped,
        "strangers": run.strangers,
        "base": base,
        "end": end,
        "growth": {name: growth(base[name], end[name]) for name in base},
        "wrong": run.wrong,
    }


def main() -> int:
    """Run what the command line asks for; 1 where something grew or was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--warm", type=float, default=3.0, help="minutes of the first wave")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the result")
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
        if share > MOST_GROWTH
    ]
    print(f"grew: {', '.join(grew) or 'nothing'}; wrong: {len(result['wrong'])}")
    return 1 if grew or result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
