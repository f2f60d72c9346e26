"""The store is away for longer than a lease: nothing is lost, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import secrets
from typing import Literal

import pytest

from tests.live.client import Client
from tests.live.conftest import House, entries, text_of
from tests.provider_server import Scenario

pytestmark = pytest.mark.live

PIECES = tuple(f"word{n} " for n in range(300))
AWAY = 4.0
"""Seconds; four times the lease."""


@pytest.mark.parametrize("kind", ["killed", "frozen"])
async def test_answers_go_on_when_the_store_is_back(empty_house: House, kind: Literal["killed", "frozen"]) -> None:
    house = empty_house
    house.worker()
    house.worker()
    clients, responses, prompts = [], [], []
    for number in range(8):
        prompt = f"outage {secrets.token_hex(4)}"
        house.provider.scenarios[prompt] = Scenario(pieces=PIECES, delay=0.02)
        client = await Client(f"outage-{secrets.token_hex(4)}").connect(house.urls()[number % 2])
        responses.append(await client.ask(prompt, model="fake"))
        clients.append(client)
        prompts.append(prompt)
    for client, response in zip(clients, responses, strict=True):
        await client.shows(response, 50)
    if kind == "killed":
        house.server.kill()
    else:
        house.server.freeze()
    # Not for a condition: this is how long the outage is.
    await asyncio.sleep(AWAY)
    if kind == "killed":
        house.server.restart()
    else:
        house.server.resume()
    for client, response, prompt in zip(clients, responses, prompts, strict=True):
        answer = await client.ended(response)
        assert answer.reason == "complete"
        assert answer.resets == []
        assert answer.text == "".join(PIECES) == text_of(await entries(house.server.url, response))
        assert await client.settled(response) == answer.text
        assert house.calls(prompt) == 1
        assert client.close_code is None
        await client.close()
