"""The store is unavailable for longer than a lease: clients are notified, nothing is lost, no call is repeated."""

from __future__ import annotations

import asyncio
import resource
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.live.client import Client
from tests.live.conftest import Deployment, entries, text_of
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from tests.live.processes import WorkerProcess

pytestmark = pytest.mark.live

OUTAGE_S = 4.0
"""Seconds; four times the lease."""

PIECES = tuple(f"word{n} " for n in range(300))
FLOOD = tuple(f"{n:09} " * 1000 for n in range(1200))
"""12 MB, as fast as a socket reads it: twelve times the maximum of an answer."""

MAX_CHARS = 1_000_000


class Asked:
    """Open answers, each with a client that has a part of the text."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.clients: list[Client] = []
        self.responses: list[str] = []
        self.prompts: list[str] = []

    async def ask(self, scenario: Scenario) -> None:
        prompt = f"outage {secrets.token_hex(4)}"
        self.deployment.provider.scenarios[prompt] = scenario
        client = await Client(f"outage-{secrets.token_hex(4)}").connect(self.deployment.urls()[len(self.clients) % 2])
        self.responses.append(await client.ask(prompt, model="fake"))
        self.clients.append(client)
        self.prompts.append(prompt)

    async def show(self, characters: int) -> None:
        for client, response in zip(self.clients, self.responses, strict=True):
            await client.shows(response, characters)

    async def wait(self) -> None:
        """Wait until every client received the status `waiting`."""
        for client, response in zip(self.clients, self.responses, strict=True):
            await client.received_frames(1, type="status", response=response, state="waiting")

    async def end(self, reason: str, text: str) -> None:
        for client, response, prompt in zip(self.clients, self.responses, self.prompts, strict=True):
            answer = await client.ended(response)
            assert answer.reason == reason
            assert answer.resets == []
            assert answer.text == text == text_of(await entries(self.deployment.server.url, response))
            assert await client.settled(response) == answer.text
            assert self.deployment.calls(prompt) == 1
            assert client.close_code is None
            await client.close()


def memory(worker: WorkerProcess) -> int:
    """Return the resident memory in bytes."""
    return int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def outage(deployment: Deployment, kind: Literal["killed", "frozen"], asked: Asked, seconds: float) -> float:
    """Make the store unavailable for so many seconds; return the time of its recovery."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    if kind == "killed":
        deployment.server.kill()
    else:
        deployment.server.freeze()
    await asked.wait()
    # A fixed time: the duration of the outage.
    await asyncio.sleep(begun + seconds - loop.time())
    if kind == "killed":
        deployment.server.restart()
    else:
        deployment.server.resume()
    return loop.time()


@pytest.mark.parametrize("kind", ["killed", "frozen"])
@pytest.mark.parametrize("seconds", [OUTAGE_S, pytest.param(30.0, marks=(pytest.mark.long, pytest.mark.timeout(120)))])
async def test_answers_continue_after_store_outage(
    deployment_without_worker: Deployment, kind: Literal["killed", "frozen"], seconds: float
) -> None:
    deployment = deployment_without_worker
    deployment.worker()
    deployment.worker()
    asked = Asked(deployment)
    for _ in range(8):
        await asked.ask(Scenario(pieces=PIECES, delay=0.02))
    await asked.show(50)
    shown = [len(client.answer(response).text) for client, response in zip(asked.clients, asked.responses, strict=True)]
    back = await outage(deployment, kind, asked, seconds)
    for client, response, before in zip(asked.clients, asked.responses, shown, strict=True):
        await client.shows(response, before + 1)
    print(f"{seconds:.0f} s {kind}: shown {asyncio.get_running_loop().time() - back:.2f} s after the store's return")
    await asked.end("complete", "".join(PIECES))


async def test_provider_output_during_outage_is_bounded_in_memory(deployment_without_worker: Deployment) -> None:
    """A worker buffers at most the maximum length of an answer, not all that the provider sends."""
    deployment = deployment_without_worker
    worker = deployment.worker()
    asked = Asked(deployment)
    for _ in range(4):
        await asked.ask(Scenario(pieces=("Now: ", *FLOOD), wait=0.5))
    for client, response in zip(asked.clients, asked.responses, strict=True):
        await client.attempted(response, 1)
    before = memory(worker)
    await outage(deployment, "frozen", asked, OUTAGE_S)
    grown = memory(worker) - before
    print(f"4 answers of 12 MB while the store was unavailable: the worker grew by {grown / 1e6:.1f} MB")
    # Without the limit the worker would hold 48 MB of text; with it, 4 MB and its overhead.
    assert grown < 48_000_000 / 4
    await asked.end("length", ("Now: " + "".join(FLOOD))[:MAX_CHARS])
