"""A generator that blocks its worker for several leases: every answer comes once, and the block is logged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.live.client import Client
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.stores import RealServer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.live

ANSWERS = 10
GENERATOR = """
import asyncio, os, time
calls = os.environ["CALLS"]
async def generate(request):
    text = request.messages[-1]["content"]
    with open(calls, "a") as file:
        file.write(text + "\\n")
    if text == "block":
        yield "thinking"
        time.sleep(4)
        yield "done"
        return
    for number in range(100):
        yield f"{number} "
        await asyncio.sleep(0.05)
"""


async def test_blocking_generator_keeps_the_leases_of_all_answers(tmp_path: Path) -> None:
    (tmp_path / "blocking.py").write_text(GENERATOR)
    calls = tmp_path / "calls"
    environment = {
        "PYTHONPATH": str(tmp_path),
        "CALLS": str(calls),
        "TOKENWIRE_MODELS": json.dumps({"default": "python/blocking:generate"}),
        "TOKENWIRE_LEASE": "1",
    }
    with (
        RealServer() as server,
        GatewayProcess(server.url) as gateway,
        WorkerProcess(server.url, **environment) as first,
        WorkerProcess(server.url, **environment) as second,
    ):
        clients = [await Client(f"c{number}").connect(gateway.socket_url) for number in range(ANSWERS)]
        asked = [(client, await client.ask(f"x{number}")) for number, client in enumerate(clients)]
        for client, response in asked:
            await client.attempted(response, 1)
        blocking = await Client("blocking").connect(gateway.socket_url)
        response = await blocking.ask("block")
        for client, each in [*asked, (blocking, response)]:
            answer = await client.ended(each)
            assert (answer.reason, answer.attempt, answer.resets) == ("complete", 1, [])
        assert len(calls.read_text().split()) == ANSWERS + 1
        lines = [line for worker in (first, second) for line in worker.output if "event_loop_blocked" in line]
        assert any("python/blocking:generate" in line and "where=blocking.py:" in line for line in lines), lines
        for client in (*clients, blocking):
            await client.close()
