"""Without a worker, gateways alone end every answer within its deadline and two seconds."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.live.client import Client
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.stores import RealServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.transcript import Answer

pytestmark = pytest.mark.live

DEADLINE_S = 3.0
MARGIN_S = 2.0
MODELS = json.dumps({"default": "demo", "gpu": "demo"})


@pytest.fixture
def server() -> Iterator[RealServer]:
    with RealServer() as server:
        yield server


def gateway(server: RealServer) -> GatewayProcess:
    return GatewayProcess(
        server.url, TOKENWIRE_QUEUE_TIMEOUT=str(DEADLINE_S), TOKENWIRE_MODELS=MODELS, TOKENWIRE_LEASE="1"
    )


def failure(answer: Answer) -> str | None:
    """Return the code of a failed answer."""
    assert answer.reason == "failed"
    return answer.error["code"] if answer.error is not None else None


async def test_messages_without_a_worker_end_after_the_deadline(server: RealServer) -> None:
    with gateway(server) as first, gateway(server) as second:
        clients = [await Client(f"c{number}").connect((first, second)[number % 2].socket_url) for number in range(8)]
        begun = time.monotonic()
        asked = [(client, await client.ask("Hi")) for client in clients for _ in range(2)]
        for client, response in asked:
            answer = await client.ended(response)
            assert failure(answer) == "no_worker"
        took_s = time.monotonic() - begun
        assert DEADLINE_S - 0.5 <= took_s <= DEADLINE_S + MARGIN_S
        for client in clients:
            await client.close()


async def test_answer_ends_when_all_workers_are_killed_in_its_middle(server: RealServer) -> None:
    with gateway(server) as process, WorkerProcess(server.url, TOKENWIRE_LEASE="1") as worker:
        client = await Client("c1").connect(process.socket_url)
        response = await client.ask("/long 60")
        await client.until(lambda: len(client.answer(response).text) > 20)
        begun = time.monotonic()
        worker.kill()
        await client.until(lambda: client.answer(response).states[-1:] == ["recovering"])
        shown = client.answer(response).text
        answer = await client.ended(response)
        assert failure(answer) == "no_worker"
        assert time.monotonic() - begun <= DEADLINE_S + MARGIN_S
        assert answer.text.startswith(shown)
        assert answer.resets == []
        await client.close()


async def test_message_of_a_model_that_no_worker_serves_ends_beside_others(server: RealServer) -> None:
    only_default = json.dumps({"default": "demo"})
    with gateway(server) as process, WorkerProcess(server.url, TOKENWIRE_MODELS=only_default):
        client, other = [await Client(name).connect(process.socket_url) for name in ("c1", "c2")]
        begun = time.monotonic()
        response = await client.ask("Hi", model="gpu")
        assert (await other.ended(await other.ask("/long 1"))).reason == "complete"
        answer = await client.ended(response)
        assert failure(answer) == "no_worker"
        assert time.monotonic() - begun <= DEADLINE_S + MARGIN_S
        await asyncio.gather(client.close(), other.close())


async def test_restarted_store_without_workers_ends_the_messages_that_it_kept(server: RealServer) -> None:
    with gateway(server) as process:
        client = await Client("c1").connect(process.socket_url)
        response = await client.ask("Hi")
        begun = time.monotonic()
        server.kill()
        await asyncio.to_thread(server.start)
        answer = await client.ended(response)
        # Kept: its deadline counts from its submit. Lost: the client is told that it is gone.
        assert failure(answer) in ("no_worker", "gone")
        assert time.monotonic() - begun <= DEADLINE_S + MARGIN_S + 10.0
        await client.close()
