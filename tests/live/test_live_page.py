"""The fleet for operators: the page, `top` and `config` show the same state and no text of a user."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.live.client import Client
from tests.live.conftest import MODELS, OPERATOR, Deployment, Operated
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.live

SLOW = Scenario(pieces=tuple(f"Planted{n} " for n in range(400)), delay=0.02)
BEARER = {"authorization": f"Bearer {OPERATOR}"}


@pytest.fixture
async def page(operated: Operated) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"{operated.gateway.url}/live", headers=BEARER) as client:
        yield client


async def console(operated: Operated, *command: str, **environment: str) -> str:
    """Return the standard output of a command."""
    arguments = [sys.executable, "-m", "gateway", *command, "--store", operated.server.url]
    variables = {**os.environ, **environment}
    done = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, timeout=20, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def row_of(fleet: dict[str, Any], response: str) -> dict[str, Any] | None:
    return next((row for row in fleet["responses"] if row["response"] == response), None)


async def test_an_open_response_is_shown_with_viewers_and_worker(
    operated: Operated, conversation: str, page: httpx2.AsyncClient
) -> None:
    operated.provider.scenarios["Planted question"] = SLOW
    async with Client(conversation) as first, Client(conversation) as second:
        for client in (first, second):
            await client.connect(operated.gateway.socket_url)
            await client.watches()
        response = await first.ask("Planted question", model="fake")
        await first.shows(response)
        async with asyncio.timeout(5.0):
            row = None
            while row is None or row["viewers"] != 2 or row["worker"] is None:
                seen = (await page.get("/fleet")).json()
                row = row_of(seen, response)
                await asyncio.sleep(0.1)
        assert (row["conversation"], row["worker"], row["model"]) == (conversation, operated.worker.name, "fake")
        assert (row["state"], row["attempt"], row["behind"], row["lag"]) == ("running", 1, 0, 0)
        assert 0 < row["age"] < 10
        assert seen["queue"]["running"] >= 1
        assert [gateway["connections"] for gateway in seen["gateways"]] == [2]
        served = [
            (worker["name"], [each.partition(" -> ")[0] for each in worker["models"]]) for worker in seen["workers"]
        ]
        assert served == [(operated.worker.name, sorted(MODELS))]
        told = json.loads(await console(operated, "top", "--json"))
        assert row_of(told, response) is not None
        assert told.keys() == seen.keys()
        followed = await page.get(f"/responses/{response}")
        log = followed.json()["entries"]
        assert [entry["kind"] for entry in log[:3]] == ["queued", "start", "text"]
        assert log[1]["about"] == operated.worker.name
        rest = (await page.get(f"/responses/{response}", params={"after": log[2]["cursor"]})).json()["entries"]
        assert [entry["cursor"] for entry in rest[: len(log) - 3]] == [entry["cursor"] for entry in log[3:]]
        assert not any(words in text for words in ("Planted",) for text in (followed.text, json.dumps([seen, told])))
        await first.stop(response)
        await first.ended(response)
    ended = (await page.get(f"/responses/{response}")).json()["entries"][-1]
    assert (ended["kind"], ended["about"]) == ("end", "stopped")
    assert (await page.get("/responses/r00aaaaaaaaaaaaaaaa")).status_code == 404
    assert (await page.get("/responses/nonsense")).status_code == 404


async def test_without_the_token_no_data_is_served(operated: Operated) -> None:
    async with httpx2.AsyncClient(base_url=f"{operated.gateway.url}/live") as stranger:
        for path in ("/fleet", "/responses/r00aaaaaaaaaaaaaaaa"):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {OPERATOR}"}):
                refused = await stranger.get(path, headers=headers)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        moved = await stranger.get(f"{operated.gateway.url}/live")
        assert (moved.status_code, moved.headers["location"]) == (307, "live/")
        for file in ("/", "/live.js", "/live.css"):
            reply = await stranger.get(file)
            assert reply.status_code == 200
            assert "unsafe" not in reply.headers["content-security-policy"]
            assert OPERATOR not in reply.text


async def test_without_an_operator_token_the_page_is_absent(deployment: Deployment) -> None:
    async with httpx2.AsyncClient(base_url=deployment.gateways[0].url) as client:
        for path in ("/live", "/live/", "/live/fleet"):
            assert (await client.get(path, headers=BEARER)).status_code == 404


async def test_config_prints_settings_with_their_source(operated: Operated) -> None:
    printed = await console(operated, "config", "--lease", "3", TOKENWIRE_OPERATOR_TOKEN=OPERATOR)
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines()}
    assert lines["TOKENWIRE_STORE"] == ["option", operated.server.url]
    assert lines["TOKENWIRE_OPERATOR_TOKEN"] == ["environment", "********"]
    assert lines["TOKENWIRE_LEASE"] == ["option", "3s"]
    assert lines["TOKENWIRE_DRAIN"] == ["default", "30s"]
    assert OPERATOR not in printed
