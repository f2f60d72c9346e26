"""The attackers, as a process of their own: `python -m tests.hostile.attackers HOST PORT SEED COUNT`.

It prints how often each attack was made when it gets SIGTERM. The key that signs tokens is in KEY.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from typing import Final

import jwt

from tests.hostile.attacks import Attacker, attack_forever

ADDRESSES: Final = 20
"""Loopback addresses that the attackers share."""

CONVERSATIONS: Final = 50


async def main(host: str, port: int, seed: int, count: int) -> None:
    """Attack until SIGTERM."""
    os.nice(5)
    chance = random.Random(seed)
    counts: dict[str, int] = {}
    tasks = []
    for number in range(count):
        conversation = f"attacked-{number % CONVERSATIONS}"
        claims = {"sub": f"attacker-{number}", "exp": time.time() + 86_400, "conversations": [conversation]}
        token = jwt.encode(claims, os.environ["KEY"], "HS256")
        local = f"127.0.1.{1 + number % ADDRESSES}"
        attacker = Attacker((host, port), local, token, conversation, random.Random(chance.random()))
        tasks.append(asyncio.create_task(attack_forever(attacker, counts)))
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    parent = os.getppid()
    while not stopped.is_set() and os.getppid() == parent:
        try:
            await asyncio.wait_for(stopped.wait(), 1.0)
        except TimeoutError:
            pass
    print(json.dumps(counts), flush=True)
    failed = [task.exception() for task in tasks if task.done()]
    print(failed, file=sys.stderr, flush=True)
    # The connections end with the process.
    os._exit(1 if failed else 0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
