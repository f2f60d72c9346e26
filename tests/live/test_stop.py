"""A stop is final in every state, from any tab and at any gateway. It waits for no provider, worker or lease."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from gateway.streams import log_entries
from tests.live.client import Client
from tests.live.conftest import Deployment, entries, text_of
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.live

WITHIN_S = 10.0
"""Far less than the provider's silence and the leases of these tests, and enough for a busy machine."""

LONG_LEASE = ("--lease", "60")

SILENT = Scenario(wait=300.0)
STALLED = Scenario(pieces=("One ", "two ", "three"), ending="silence")
SLOW = Scenario(pieces=tuple(f"word{n} " for n in range(3000)), delay=0.02)


@pytest.fixture
async def tabs(deployment: Deployment, conversation: str) -> AsyncIterator[tuple[Client, Client]]:
    """Two tabs of one conversation, on two gateways."""
    async with Client(conversation) as first, Client(conversation) as second:
        await first.connect(deployment.urls()[0])
        await second.connect(deployment.urls()[1])
        for tab in (first, second):
            await tab.watches()
        yield first, second


async def stopped(client: Client, others: list[Client], response: str) -> float:
    """Stop a response from `client`; return the seconds until all clients have its end."""
    begun = time.monotonic()
    await client.stop(response)
    for each in (client, *others):
        answer = await each.ended(response)
        assert answer.reason == "stopped"
        assert answer.retryable
    return time.monotonic() - begun


async def only_end_is_last(deployment: Deployment, response: str) -> None:
    log = await entries(deployment.server.url, response)
    assert [value[:1] == log_entries.END for _, value in log].count(True) == 1
    assert log[-1][1][:1] == log_entries.END


async def test_stop_of_queued_response_without_worker(deployment_without_worker: Deployment, conversation: str) -> None:
    async with Client(conversation) as asking, Client(conversation) as other:
        await asking.connect(deployment_without_worker.urls()[0])
        await other.connect(deployment_without_worker.urls()[1])
        response = await asking.ask("no worker is running")
        await other.until(lambda: other.answer(response).state == "queued")
        assert await stopped(other, [asking], response) < WITHIN_S
        assert asking.answer(response).text == ""
        deployment_without_worker.worker()
        following = await asking.ask("and now", model="fake")
        assert await asking.settled(following) == "Hello, world!"
        assert deployment_without_worker.calls("no worker is running") == 0


async def test_stop_of_response_behind_another(deployment: Deployment, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    deployment.provider.scenarios["slow ahead"] = SLOW
    ahead = await first.ask("slow ahead", model="fake")
    behind = await first.ask("behind")
    await second.until(lambda: behind in second.transcript.answers)
    assert await stopped(second, [first], behind) < WITHIN_S
    assert not first.answer(ahead).ends
    assert await stopped(second, [first], ahead) < WITHIN_S


async def test_stop_before_first_token(deployment: Deployment, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    prompt = f"silent {first.transcript.conversation}"
    deployment.provider.scenarios[prompt] = SILENT
    response = await first.ask(prompt, model="fake")
    await first.until(lambda: first.answer(response).state == "running")
    await deployment.provider.until(lambda: deployment.calls(prompt) == 1)
    assert await stopped(second, [first], response) < WITHIN_S
    call = next(call for call in deployment.provider.calls if call.prompt == prompt)
    await deployment.provider.until(lambda: call.disconnected)


async def test_stop_of_streaming_response(deployment: Deployment, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    prompt = f"slow {first.transcript.conversation}"
    deployment.provider.scenarios[prompt] = SLOW
    response = await first.ask(prompt, model="fake")
    await second.until(lambda: len(second.answer(response).text) > 50)
    assert await stopped(second, [first], response) < WITHIN_S
    call = next(call for call in deployment.provider.calls if call.prompt == prompt)
    await deployment.provider.until(lambda: call.disconnected)
    await only_end_is_last(deployment, response)
    text = text_of(await entries(deployment.server.url, response))
    assert first.answer(response).text == second.answer(response).text == text == await first.settled(response)


async def test_stop_while_provider_stalls(deployment: Deployment, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    prompt = f"stalled {first.transcript.conversation}"
    deployment.provider.scenarios[prompt] = STALLED
    response = await first.ask(prompt, model="fake")
    await first.until(lambda: first.answer(response).text == "One two three")
    assert await stopped(first, [second], response) < WITHIN_S
    call = next(call for call in deployment.provider.calls if call.prompt == prompt)
    await deployment.provider.until(lambda: call.disconnected)
    assert await second.settled(response) == "One two three"


async def test_concurrent_stops_write_one_end(deployment: Deployment, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    deployment.provider.scenarios["slow, stopped twice"] = SLOW
    response = await first.ask("slow, stopped twice", model="fake")
    await first.until(lambda: first.answer(response).text)
    await asyncio.gather(*(client.stop(response) for client in (first, second) * 5))
    for client in tabs:
        await client.ended(response, WITHIN_S)
        assert len(await client.received_frames(5, type="status", state="ended")) == 5
        assert client.answer(response).ends == 1
        assert not client.errors
    await only_end_is_last(deployment, response)


async def test_stop_racing_natural_end_writes_one_end(deployment: Deployment, tabs: tuple[Client, Client]) -> None:
    """Both tabs agree on the end and the text, whichever end is first.

    The delay of the stop is bisected towards the moment of the natural end, so both outcomes occur on any machine.
    """
    first, second = tabs
    outcomes: Counter[str] = Counter()
    stopped_at, complete_at = 0.0, None
    for number in range(20):
        response = await first.ask(f"a quick one, {number}", model="fake")
        await second.sees(response)
        begin = time.monotonic()
        if complete_at is None and number:
            await second.ended(response)
        else:
            await asyncio.sleep((stopped_at + (complete_at or 0.0)) / 2)
        delay = time.monotonic() - begin
        await second.stop(response)
        answers = [await client.ended(response) for client in tabs]
        assert answers[0].reason == answers[1].reason
        assert answers[0].text == answers[1].text == await first.settled(response)
        await only_end_is_last(deployment, response)
        outcomes[str(answers[0].reason)] += 1
        if answers[0].reason == "complete":
            complete_at = delay
        else:
            stopped_at = delay
    assert set(outcomes) == {"stopped", "complete"}


async def test_stop_while_worker_is_frozen(deployment_without_worker: Deployment, conversation: str) -> None:
    """The store rejects its late tokens (fencing), and then the worker stops."""
    deployment = deployment_without_worker
    deployment.provider.scenarios["slow"] = SLOW
    worker = deployment.worker(*LONG_LEASE)
    async with Client(conversation) as first, Client(conversation) as second:
        await first.connect(deployment.urls()[0])
        await second.connect(deployment.urls()[1])
        response = await first.ask("slow", model="fake")
        await first.until(lambda: len(first.answer(response).text) > 30)
        worker.freeze()
        assert await stopped(second, [first], response) < WITHIN_S
        log = await entries(deployment.server.url, response)
        worker.resume()
        await deployment.provider.until(lambda: deployment.provider.calls[0].disconnected)
        assert await entries(deployment.server.url, response) == log
        assert first.answer(response).text == text_of(log)


async def test_stop_after_worker_death_and_during_recovery(
    deployment_without_worker: Deployment, conversation: str
) -> None:
    deployment = deployment_without_worker
    deployment.provider.scenarios["slow"] = SLOW
    deployment.provider.scenarios["slow again"] = SLOW
    worker = deployment.worker(*LONG_LEASE)
    async with Client(conversation) as first, Client(conversation) as second:
        await first.connect(deployment.urls()[0])
        await second.connect(deployment.urls()[1])
        response = await first.ask("slow", model="fake")
        await first.until(lambda: len(first.answer(response).text) > 30)
        worker.kill()
        assert await stopped(second, [first], response) < WITHIN_S
        assert await first.settled(response) == first.answer(response).text

        another = deployment.worker("--lease", "2")
        response = await first.ask("slow again", model="fake")
        await first.until(lambda: len(first.answer(response).text) > 30)
        deployment.provider.scenarios["slow again"] = SILENT
        deployment.worker("--lease", "2", "--recovery", "restart")
        another.kill()
        await first.until(lambda: first.answer(response).resets)
        assert first.answer(response).text == ""
        assert "recovering" in first.answer(response).states
        await deployment.provider.until(lambda: deployment.calls("slow again") == 2)
        assert await stopped(second, [first], response) < WITHIN_S
        await deployment.provider.until(lambda: deployment.provider.calls[-1].disconnected)
