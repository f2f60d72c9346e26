"""A stop is final within a second in every state, from any tab and on any gateway."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from gateway.streams import log_entries
from tests.live.client import Client
from tests.live.conftest import House, entries, text_of
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.live

WITHIN = 1.0

SILENT = Scenario(wait=300.0)
STALLED = Scenario(pieces=("One ", "two ", "three"), ending="silence")
SLOW = Scenario(pieces=tuple(f"word{n} " for n in range(3000)), delay=0.02)


@pytest.fixture
async def tabs(house: House, conversation: str) -> AsyncIterator[tuple[Client, Client]]:
    """Two tabs of one conversation, on two gateways."""
    async with Client(conversation) as first, Client(conversation) as second:
        await first.connect(house.urls()[0])
        await second.connect(house.urls()[1])
        for tab in (first, second):
            await tab.watches()
        yield first, second


async def stopped(client: Client, others: list[Client], response: str) -> float:
    """Stop a response from `client`; return the seconds until everybody has its end."""
    begun = time.monotonic()
    await client.stop(response)
    for each in (client, *others):
        answer = await each.ended(response, 5.0)
        assert answer.reason == "stopped"
        assert answer.retryable
    return time.monotonic() - begun


async def only_end_is_last(house: House, response: str) -> None:
    log = await entries(house.server.url, response)
    assert [value[:1] == log_entries.END for _, value in log].count(True) == 1
    assert log[-1][1][:1] == log_entries.END


async def test_while_it_is_queued_and_no_worker_lives(empty_house: House, conversation: str) -> None:
    async with Client(conversation) as asking, Client(conversation) as other:
        await asking.connect(empty_house.urls()[0])
        await other.connect(empty_house.urls()[1])
        response = await asking.ask("nobody is there")
        await other.until(lambda: other.answer(response).state == "queued")
        assert await stopped(other, [asking], response) < WITHIN
        assert asking.answer(response).text == ""
        empty_house.worker()
        following = await asking.ask("and now", model="fake")
        assert await asking.settled(following) == "Hello, world!"
        assert empty_house.calls("nobody is there") == 0


async def test_while_others_are_ahead(house: House, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    house.provider.scenarios["slow ahead"] = SLOW
    ahead = await first.ask("slow ahead", model="fake")
    behind = await first.ask("behind")
    await second.until(lambda: behind in second.transcript.answers)
    assert await stopped(second, [first], behind) < WITHIN
    assert not first.answer(ahead).ends
    assert await stopped(second, [first], ahead) < WITHIN


async def test_before_the_first_token(house: House, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    prompt = f"silent {first.transcript.conversation}"
    house.provider.scenarios[prompt] = SILENT
    response = await first.ask(prompt, model="fake")
    await first.until(lambda: first.answer(response).state == "running")
    await house.provider.until(lambda: house.calls(prompt) == 1)
    assert await stopped(second, [first], response) < WITHIN
    call = next(call for call in house.provider.calls if call.prompt == prompt)
    await house.provider.until(lambda: call.disconnected)


async def test_while_it_streams(house: House, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    prompt = f"slow {first.transcript.conversation}"
    house.provider.scenarios[prompt] = SLOW
    response = await first.ask(prompt, model="fake")
    await second.until(lambda: len(second.answer(response).text) > 50)
    assert await stopped(second, [first], response) < WITHIN
    call = next(call for call in house.provider.calls if call.prompt == prompt)
    await house.provider.until(lambda: call.disconnected)
    await only_end_is_last(house, response)
    text = text_of(await entries(house.server.url, response))
    assert first.answer(response).text == second.answer(response).text == text == await first.settled(response)


async def test_while_the_provider_stalls(house: House, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    prompt = f"stalled {first.transcript.conversation}"
    house.provider.scenarios[prompt] = STALLED
    response = await first.ask(prompt, model="fake")
    await first.until(lambda: first.answer(response).text == "One two three")
    assert await stopped(first, [second], response) < WITHIN
    call = next(call for call in house.provider.calls if call.prompt == prompt)
    await house.provider.until(lambda: call.disconnected)
    assert await second.settled(response) == "One two three"


async def test_twice_and_by_everybody_at_once(house: House, tabs: tuple[Client, Client]) -> None:
    first, second = tabs
    house.provider.scenarios["slow, stopped twice"] = SLOW
    response = await first.ask("slow, stopped twice", model="fake")
    await first.until(lambda: first.answer(response).text)
    await asyncio.gather(*(client.stop(response) for client in (first, second) * 5))
    for client in tabs:
        await client.ended(response, WITHIN)
        assert len(await client.told(5, type="status", state="ended")) == 5
        assert client.answer(response).ends == 1
        assert not client.errors
    await only_end_is_last(house, response)


async def test_racing_the_natural_end(house: House, tabs: tuple[Client, Client]) -> None:
    """Whoever is first, there is one end, and both tabs agree on it and on the text."""
    first, second = tabs
    reasons = set()
    for turn in range(20):
        response = await first.ask(f"a quick one, {turn}", model="fake")
        # Before its first token, or behind it.
        await (second.shows(response) if turn % 2 else second.knows(response))
        await second.stop(response)
        answers = [await client.ended(response) for client in tabs]
        assert answers[0].reason == answers[1].reason
        assert answers[0].text == answers[1].text == await first.settled(response)
        await only_end_is_last(house, response)
        reasons.add(answers[0].reason)
    assert reasons <= {"stopped", "complete"}


async def test_while_the_worker_is_frozen(empty_house: House, conversation: str) -> None:
    """Its late tokens are refused by the store itself, and it stops when it learns of that."""
    house = empty_house
    house.provider.scenarios["slow"] = SLOW
    worker = house.worker("--lease", "30")
    async with Client(conversation) as first, Client(conversation) as second:
        await first.connect(house.urls()[0])
        await second.connect(house.urls()[1])
        response = await first.ask("slow", model="fake")
        await first.until(lambda: len(first.answer(response).text) > 30)
        worker.freeze()
        assert await stopped(second, [first], response) < WITHIN
        log = await entries(house.server.url, response)
        worker.resume()
        await house.provider.until(lambda: house.provider.calls[0].disconnected)
        assert await entries(house.server.url, response) == log
        assert first.answer(response).text == text_of(log)


async def test_while_the_worker_is_dead_and_while_it_recovers(empty_house: House, conversation: str) -> None:
    house = empty_house
    house.provider.scenarios["slow"] = SLOW
    house.provider.scenarios["slow again"] = SLOW
    worker = house.worker("--lease", "2")
    async with Client(conversation) as first, Client(conversation) as second:
        await first.connect(house.urls()[0])
        await second.connect(house.urls()[1])
        response = await first.ask("slow", model="fake")
        await first.until(lambda: len(first.answer(response).text) > 30)
        worker.kill()
        assert await stopped(second, [first], response) < WITHIN
        assert await first.settled(response) == first.answer(response).text

        another = house.worker("--lease", "2")
        response = await first.ask("slow again", model="fake")
        await first.until(lambda: len(first.answer(response).text) > 30)
        house.provider.scenarios["slow again"] = SILENT
        house.worker("--lease", "2")
        another.kill()
        await first.until(lambda: first.answer(response).resets)
        assert first.answer(response).text == ""
        assert "recovering" in first.answer(response).states
        await house.provider.until(lambda: house.calls("slow again") == 2)
        assert await stopped(second, [first], response) < WITHIN
        await house.provider.until(lambda: house.provider.calls[-1].disconnected)
