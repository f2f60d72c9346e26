"""`python -m tests.hostile --minutes 60`: 200 attackers beside 200 honest viewers of one gateway.

First the honest viewers alone, as the base; then with the attackers; then a time without either. It prints added delay,
memory and exactness, and ends with an error where an answer was wrong or memory stayed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.hostile.honest import VIEWERS, Measured, converse
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.stores import RealServer

if TYPE_CHECKING:
    from collections.abc import Sequence

MODELS: Final = {
    "default": "demo",
    **{name: f"python/tests.hostile.generators:{name}" for name in ("timed", "bad_usage", "controls", "large")},
}
STORE_MIB: Final = 1024
"""Memory of the store. All conversations together must not fill it: the attackers have 50, of 8 MiB a day each."""

BASE_S: Final = 30.0
"""Duration of the base: honest viewers only."""

SETTLE_S: Final = 300.0
"""Time after which the memory must be back."""

PROGRESS_S: Final = 10.0
"""Interval of the lines that show progress."""

MAX_MEMORY: Final = 1.1
"""Memory after the attack, as a multiple of the base."""

MAX_P99_S: Final = 0.05
"""Bound of the 99th percentile of the delay that the attack adds to honest viewers."""


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile in milliseconds; 0 without values."""
    ranked = sorted(values)
    return round(1000 * ranked[min(len(ranked) - 1, int(len(ranked) * share))], 1) if ranked else 0.0


async def honest(url: str, key: str, conversations: int, seconds: float, measured: Measured) -> Measured:
    """Run the honest viewers for so long."""
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for number in range(conversations):
            group.create_task(converse(url, key, f"honest-{number}", measured, until))
    return measured


def shown(name: str, measured: Measured) -> str:
    """Return a line about what the honest viewers noticed."""
    half, most, worst = (percentile(measured.delays, share) for share in (0.5, 0.99, 0.999))
    return (
        f"{name}: {measured.answers} answers, {len(measured.wrong)} wrong, {measured.interruptions} interruptions; "
        f"delay p50 {half} ms, p99 {most} ms, p99.9 {worst} ms"
    )


async def run(minutes: float, attackers: int, honest_viewers: int, seed: int, settle: float) -> bool:
    """Run all phases; return whether every bound holds."""
    key = secrets.token_urlsafe(48)
    with ExitStack() as stack:
        store = ("--maxmemory", f"{STORE_MIB}mb", "--maxmemory-policy", "noeviction")
        server = stack.enter_context(RealServer("valkey", *store))
        models = json.dumps(MODELS)
        limits = {
            "TOKENWIRE_SOCKETS_PER_ADDRESS": "256",
            "TOKENWIRE_DAILY_PER_SUBJECT": "8",
            "TOKENWIRE_DAILY_PER_CONVERSATION": "8",
        }
        gateway = stack.enter_context(GatewayProcess(server.url, "--models", models, TOKENWIRE_JWT_KEY=key, **limits))
        for _ in range(2):
            stack.enter_context(WorkerProcess(server.url, "--models", models))
        conversations = max(1, honest_viewers // VIEWERS)
        base = await honest(gateway.socket_url, key, conversations, BASE_S, Measured())
        print(shown("base", base), flush=True)
        memory = memory_mib(gateway.pid)
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        arguments = [sys.executable, "-m", "tests.hostile.attackers", host, port, str(seed), str(attackers)]
        attack = await asyncio.create_subprocess_exec(
            *arguments, env={**os.environ, "KEY": key}, stdout=asyncio.subprocess.PIPE
        )
        attacked = Measured()
        measuring = asyncio.create_task(honest(gateway.socket_url, key, conversations, 60 * minutes, attacked))
        most, shown_at = memory, time.monotonic()
        while not measuring.done():
            assert gateway.running, gateway.text[-3000:]
            most = max(most, memory_mib(gateway.pid))
            if time.monotonic() - shown_at > PROGRESS_S:
                shown_at = time.monotonic()
                print(f"{shown('so far', attacked)}; {memory_mib(gateway.pid):.0f} MiB; {attacked.reasons}", flush=True)
            await asyncio.wait([measuring], timeout=1.0)
        await measuring
        attack.send_signal(signal.SIGTERM)
        output, _ = await attack.communicate()
        print(shown("attacked", attacked), flush=True)
        print(f"attacks: {output.decode().strip()}", flush=True)
        for line in attacked.wrong[:10]:
            print(f"  {line}", flush=True)
        left = memory_mib(gateway.pid)
        deadline = time.monotonic() + settle
        while left > MAX_MEMORY * memory and time.monotonic() < deadline:
            await asyncio.sleep(1.0)
            left = memory_mib(gateway.pid)
        print(
            f"memory of the gateway: base {memory:.0f} MiB, at most {most:.0f} MiB, "
            f"{left:.0f} MiB {settle - max(0.0, deadline - time.monotonic()):.0f} s after the attack",
            flush=True,
        )
        added = percentile(attacked.delays, 0.99) - percentile(base.delays, 0.99)
        print(f"added delay, p99: {added:.1f} ms", flush=True)
        errors = [line for line in gateway.text.splitlines() if " ERROR " in line or "Traceback" in line]
        for line in errors[:10]:
            print(f"  {line}", flush=True)
        return (
            not attacked.wrong
            and not errors
            and left <= MAX_MEMORY * memory
            and added <= 1000 * MAX_P99_S
            and len(json.loads(output)) > 0
        )


def main() -> int:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--attackers", type=int, default=200)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds after which the memory must be back")
    options = parser.parse_args()
    held = asyncio.run(run(options.minutes, options.attackers, options.viewers, options.seed, options.settle))
    print("every bound held" if held else "A BOUND DID NOT HOLD", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
