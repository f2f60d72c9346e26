"""The gateway on a server with plain ASGI: uvicorn with its original protocols."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import uvicorn
from websockets.asyncio.client import connect

from gateway import app, write_progress
from gateway.cli.settings import load
from gateway.streams.store.store import open_store
from tests.live.client import Client
from tests.live.conftest import entries, text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.live.conftest import Deployment

pytestmark = pytest.mark.live


@asynccontextmanager
async def plain_gateway(url: str) -> AsyncIterator[tuple[app.Gateway, str]]:
    """Run a gateway in this process; yield it with the address of its WebSocket."""
    settings = load({"store": url})
    store = await open_store(settings.store, settings.lifetimes)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        shared = app.Gateway(settings, store, port, None)
        config = uvicorn.Config(
            app.create(shared, settings), lifespan="on", log_config=None, ws_per_message_deflate=False
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            yield shared, f"ws://127.0.0.1:{port}/v1/ws"
        finally:
            server.should_exit = True
            await serving
            await store.close()


async def test_answer_arrives_whole_and_can_be_stopped(deployment: Deployment, conversation: str) -> None:
    async with plain_gateway(deployment.server.url) as (shared, url):
        async with Client(conversation) as here, Client(conversation) as there:
            await here.connect(url)
            await there.connect(deployment.urls()[0])
            response = await here.ask("tell me all", model="default")
            for client in (here, there):
                answer = await client.ended(response)
                assert answer.reason == "complete"
                assert answer.text == text_of(await entries(deployment.server.url, response))
            response = await here.ask("and again", model="default")
            await here.shows(response, 10)
            await here.stop(response)
            assert (await here.ended(response)).text == (await there.ended(response)).text
        async with asyncio.timeout(5.0):
            while shared.connections:
                await asyncio.sleep(0.01)
        assert not shared.hub.rooms[conversation].watched


async def test_slow_consumer_is_disconnected(
    deployment: Deployment, conversation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_progress, "WRITE_WITHIN_S", 1.0)
    async with plain_gateway(deployment.server.url) as (shared, url):
        async with Client(conversation) as witness:
            await witness.connect(deployment.urls()[0])
            async with connect(url, max_queue=1, write_limit=1) as stopped:
                await stopped.send('{"type":"hello"}')
                transport = stopped.transport
                transport.pause_reading()
                # The snapshots fill every buffer on the way.
                for number in range(16):
                    await witness.settled(await witness.ask(f"{number} " + "long " * 5_000, model="fake"))
                while shared.connections:
                    await stopped.send(f'{{"type":"watch","conversation":"{conversation}"}}')
                    await asyncio.sleep(0.02)
        assert not shared.connections
