"""A worker is killed or frozen in mid-answer: another takes over within its lease and two seconds.

`pytest tests/live/test_worker_death.py -m long` runs fifty trials of each kind.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
import time
from typing import TYPE_CHECKING, Literal

import pytest

from tests.live.client import Client
from tests.live.conftest import Deployment, entries, text_of
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from tests.live.processes import WorkerProcess

pytestmark = pytest.mark.live

LEASE_S = 1.0
SEED = 20261122
PIECES = tuple(f"word{n} " for n in range(150))


class Deaths:
    """Concurrent trials: responses of one worker that dies, and another takes over."""

    def __init__(self, deployment: Deployment, recovery: Literal["restart", "continue"] = "restart") -> None:
        self.deployment = deployment
        self.chance = random.Random(SEED)
        self.options = ("--lease", str(LEASE_S), "--recovery", recovery)
        self.recovery = recovery
        self.busy = deployment.worker(*self.options)
        self.waits: list[float] = []

    async def round(self, trials: int, kind: Literal["kill", "freeze"]) -> None:
        """Let `trials` answers reach different points, and end their worker at a random one."""
        deployment = self.deployment
        clients, prompts, responses = [], [], []
        # No answer ends before the workers have started.
        dead = threading.Event()
        for number in range(trials):
            prompt = f"{kind} {secrets.token_hex(4)}"
            deployment.provider.scenarios[prompt] = Scenario(pieces=PIECES, delay=0.04, finish=dead)
            client = await Client(f"death-{secrets.token_hex(4)}").connect(deployment.urls()[number % 2])
            responses.append(await client.ask(prompt, model="fake"))
            clients.append(client)
            prompts.append(prompt)
        # The first worker has claimed all jobs, so the next one has none.
        for client, response in zip(clients, responses, strict=True):
            await client.attempted(response, 1)
        spare = deployment.worker(*self.options)
        point = self.chance.randint(0, 400)
        await clients[0].until(lambda: len(clients[0].answer(responses[0]).text) >= point)
        died = time.monotonic()
        (self.busy.kill if kind == "kill" else self.busy.freeze)()
        dead.set()
        await asyncio.gather(
            *(
                self.follow(client, response, prompt, died)
                for client, response, prompt in zip(clients, responses, prompts, strict=True)
            )
        )
        if kind == "freeze":
            await self.wake(responses)
        self.busy.close()
        self.busy = spare

    async def follow(self, client: Client, response: str, prompt: str, died: float) -> None:
        await client.until(lambda: client.answer(response).attempt == 2)
        self.waits.append(time.monotonic() - died)
        answer = await client.ended(response)
        assert answer.reason == "complete"
        assert "recovering" in answer.states
        assert answer.resets == (["attempt"] if self.recovery == "restart" else [])
        assert (
            answer.text
            == text_of(await entries(self.deployment.server.url, response))
            == await client.settled(response)
        )
        if self.recovery == "restart":
            assert answer.text == "".join(PIECES)
        assert self.deployment.calls(prompt) == (2 if self.recovery == "restart" else 1)
        await client.close()

    async def wake(self, responses: list[str]) -> None:
        """The frozen worker resumes long after its lease and is fenced."""
        before = [await entries(self.deployment.server.url, response) for response in responses]
        frozen: WorkerProcess = self.busy
        told = len(frozen.output)
        frozen.resume()
        deadline = time.monotonic() + 10
        events = ("attempt_cancelled", "attempt_fenced", "response_ended")
        while sum(any(event in line for event in events) for line in frozen.output[told:]) < len(responses):
            assert time.monotonic() < deadline, frozen.text
            await asyncio.sleep(0.02)
        for response, log in zip(responses, before, strict=True):
            assert await entries(self.deployment.server.url, response) == log
            second = next(n for n, (entry, _) in enumerate(log) if entry.number == 2)
            assert {entry.number for entry, _ in log[second:]} == {2}


async def test_worker_killed_at_several_points_is_replaced(deployment_without_worker: Deployment) -> None:
    deaths = Deaths(deployment_without_worker)
    await deaths.round(3, "kill")
    await deaths.round(2, "kill")
    assert max(deaths.waits) < LEASE_S + 2


async def test_worker_frozen_beyond_lease_is_fenced(deployment_without_worker: Deployment) -> None:
    deaths = Deaths(deployment_without_worker)
    await deaths.round(4, "freeze")
    assert max(deaths.waits) < LEASE_S + 2


async def test_keep_text_setting_continues_after_worker_death(deployment_without_worker: Deployment) -> None:
    """With TOKENWIRE_RECOVERY=continue the text stays, and the provider is called for the rest."""
    deployment = deployment_without_worker
    deployment.provider.scenarios["go on"] = Scenario(pieces=PIECES[:40], delay=0.02)
    worker = deployment.worker("--recovery", "continue")
    async with Client("death-continue") as client:
        await client.connect(deployment.urls()[0])
        response = await client.ask("go on", model="fake")
        await client.until(lambda: len(client.answer(response).text) > 60)
        worker.kill()
        # The last message of the call is the instruction to continue.
        deployment.provider.scenario = Scenario(pieces=(" and", " so", " on."))
        deployment.worker("--recovery", "continue")
        answer = await client.ended(response)
        assert answer.resets == [], "nothing is taken back"
        assert answer.text.endswith(" and so on.")
        assert answer.text.startswith("word0 word1 ")
        assert answer.text == text_of(await entries(deployment.server.url, response))
        asked = deployment.provider.calls[-1].body["messages"]
        assert [message["role"] for message in asked] == ["user", "assistant", "user"]
        # The space is there once, whichever call it comes from.
        assert asked[1]["content"].rstrip() == answer.text.removesuffix(" and so on.")


async def test_job_that_kills_every_worker_fails(deployment_without_worker: Deployment) -> None:
    """Attempts are capped: the response ends `failed`, keeps its text, and can be retried."""
    deployment = deployment_without_worker
    deployment.provider.scenarios["poison"] = Scenario(pieces=PIECES, delay=0.04)
    async with Client("death-poison") as client:
        await client.connect(deployment.urls()[0])
        worker = deployment.worker("--attempts", "2", "--recovery", "restart")
        response = await client.ask("poison", model="fake")
        for attempt in (1, 2):
            await client.attempted(response, attempt)
            await client.until(lambda: len(client.answer(response).text) > 20)
            worker.kill()
            worker = deployment.worker("--attempts", "2", "--recovery", "restart")
        answer = await client.ended(response)
        assert answer.reason == "failed"
        assert answer.error is not None
        assert answer.error["code"] == "attempts"
        assert answer.retryable
        assert answer.text.startswith("word0 ")
        assert deployment.calls("poison") == 2


async def test_terminated_worker_hands_over_its_jobs(deployment_without_worker: Deployment) -> None:
    """SIGTERM: jobs may finish within the drain; the others are taken over immediately, not after a lease."""
    deployment = deployment_without_worker
    deployment.provider.scenarios["short"] = Scenario(pieces=PIECES[:30], delay=0.02)
    deployment.provider.scenarios["endless"] = Scenario(pieces=PIECES * 20, delay=0.02)
    leaving = deployment.worker("--lease", "30", "--drain", "2")
    async with Client("leave-1") as client, Client("leave-2") as other:
        await client.connect(deployment.urls()[0])
        await other.connect(deployment.urls()[1])
        short = await client.ask("short", model="fake")
        endless = await other.ask("endless", model="fake")
        await other.until(lambda: other.answer(endless).text)
        deployment.worker("--lease", "30")
        leaving.terminate()
        assert (await client.ended(short)).attempt == 1
        await other.until(lambda: other.answer(endless).attempt == 2, 6.0)
        assert leaving.wait() == 0
        await other.stop(endless)
        await other.ended(endless)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["kill", "freeze"])
async def test_fifty_worker_deaths_lose_nothing(
    deployment_without_worker: Deployment, kind: Literal["kill", "freeze"]
) -> None:
    deaths = Deaths(deployment_without_worker)
    for _ in range(10):
        await deaths.round(5, kind)
    waits = sorted(deaths.waits)
    print(f"{len(waits)} trials of {kind}: taken over after {waits[25]:.2f} s (median), {waits[-1]:.2f} s (most)")
    assert waits[-1] < LEASE_S + 2


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_thousand_fenced_attempts_change_nothing(deployment_without_worker: Deployment) -> None:
    """Fifty answers of a worker that is frozen past its lease and resumes: none of its entries follows the start
    of the next attempt.
    """
    deaths = Deaths(deployment_without_worker)
    for _ in range(20):
        await deaths.round(50, "freeze")
    waits = sorted(deaths.waits)
    print(f"{len(waits)} fenced attempts: taken over after {waits[500]:.2f} s (median), {waits[-1]:.2f} s (most)")
    assert len(waits) == 1000
