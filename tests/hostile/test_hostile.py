"""The short form of `python -m tests.hostile`: every kind of attack once, beside honest viewers."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Final

import jwt
import pytest

from tests.hostile.__main__ import MODELS, memory_mib
from tests.hostile.attacks import ATTACKS, Attacker
from tests.hostile.honest import Measured, converse
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.stores import RealServer

pytestmark = pytest.mark.live

KEY: Final = "a-key-of-these-tests-with-many-characters"
MAX_GROWTH_MIB: Final = 64.0


@pytest.mark.timeout(180)
async def test_every_attack_leaves_honest_viewers_exact() -> None:
    models = json.dumps(MODELS)
    with (
        RealServer() as server,
        GatewayProcess(server.url, "--models", models, TOKENWIRE_JWT_KEY=KEY) as gateway,
        WorkerProcess(server.url, "--models", models),
    ):
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        claims = {"sub": "attacker", "exp": time.time() + 600, "conversations": ["attacked"]}
        token = jwt.encode(claims, KEY, "HS256")
        measured = Measured()
        viewing = asyncio.create_task(converse(gateway.socket_url, KEY, "honest", measured, time.monotonic() + 1.0))
        memory = memory_mib(gateway.pid)

        async def attack(number: int) -> None:
            attacker = Attacker((host, int(port)), f"127.0.1.{number + 1}", token, "attacked", random.Random(number))
            try:
                await ATTACKS[number](attacker)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                # Refused or disconnected, as it should be.
                pass

        async with asyncio.TaskGroup() as group:
            for number in range(len(ATTACKS)):
                group.create_task(attack(number))
        await viewing
        assert measured.answers >= 1
        assert measured.wrong == []
        assert [line for line in gateway.text.splitlines() if " ERROR " in line or "Traceback" in line] == []
        assert memory_mib(gateway.pid) < memory + MAX_GROWTH_MIB
