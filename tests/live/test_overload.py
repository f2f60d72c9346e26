"""Load shedding: connections beyond the limits are rejected with a retry time, and existing clients are unaffected."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway.admission import BURST_S, RESERVED_SHARE, RETRY_WHEN_FULL_S
from gateway.app import SPARE_FILES
from tests.live.client import Client
from tests.live.processes import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.live.conftest import Deployment

pytestmark = pytest.mark.live


async def entered(opened: ClientConnection) -> dict[str, Any]:
    """Return the answer to hello: `ready`, or the `error` before the close."""
    with suppress(ConnectionClosed):
        await opened.send(json.dumps({"type": "hello"}))
    frame: dict[str, Any] = json.loads(await opened.recv())
    return frame


async def test_connection_limit_rejects_and_keeps_existing_clients(deployment: Deployment, conversation: str) -> None:
    with GatewayProcess(deployment.server.url, "--sockets", "5") as gateway:
        async with AsyncExitStack() as stack:
            inside = [await stack.enter_async_context(Client(conversation)) for _ in range(5)]
            for client in inside:
                await client.connect(gateway.socket_url)
                await client.watches()
            for _ in range(10):
                async with connect(gateway.socket_url) as opened:
                    last = await entered(opened)
                    assert last["code"] == "overloaded"
                    assert RETRY_WHEN_FULL_S / 2 <= last["retry_after"] <= RETRY_WHEN_FULL_S
                    await opened.wait_closed()
                    assert opened.close_code == 1013
            async with httpx2.AsyncClient() as http:
                reply = await http.get(f"{gateway.url}/v1/conversations/{conversation}/events")
                assert reply.status_code == 503
                assert RETRY_WHEN_FULL_S / 2 <= int(reply.headers["retry-after"]) <= RETRY_WHEN_FULL_S
                reply = await http.get(f"{gateway.url}/v1/conversations/{conversation}")
                assert (reply.status_code, reply.headers["connection"]) == (503, "close")
                for probe in ("healthz", "readyz"):
                    assert (await http.get(f"{gateway.url}/{probe}")).status_code == 200
            assert gateway.counts("tokenwire_refused_total")['code="1013"'] == 10
            response = await inside[0].ask("still here?", model="fake")
            for client in inside:
                await client.ended(response)
            await inside[0].close()
            async with Client(conversation) as again:
                await again.connect(gateway.socket_url)
                await again.watches()


@pytest.fixture
def few_files(deployment: Deployment) -> Iterator[GatewayProcess]:
    """A gateway that may open 100 files, and needs a dozen of them itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        gateway = GatewayProcess(deployment.server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with gateway:
        yield gateway


async def test_connection_limit_keeps_spare_files(few_files: GatewayProcess, conversation: str) -> None:
    """Spare descriptors remain for rejections and plain requests."""
    places = 100 - SPARE_FILES
    async with AsyncExitStack() as stack:
        answers = []
        for _ in range(100):
            opened = await stack.enter_async_context(connect(few_files.socket_url))
            answers.append(await entered(opened))
        assert [answer["type"] for answer in answers] == ["ready"] * places + ["error"] * (100 - places)
        async with httpx2.AsyncClient() as http:
            assert (await http.get(f"{few_files.url}/readyz")).status_code == 200
    async with Client(conversation) as client:
        await client.connect(few_files.socket_url)
        response = await client.ask("and now?", model="fake")
        await client.ended(response)
    assert "Traceback" not in few_files.text


async def test_clients_that_obey_retry_times_are_accepted_in_time(deployment: Deployment, conversation: str) -> None:
    """Four times the burst: each client is accepted after at most a few rejections, and a stream continues."""
    rate, count = 40, 160
    with GatewayProcess(deployment.server.url, "--accepts", str(rate)) as gateway:
        async with Client(conversation) as watching, AsyncExitStack() as stack:
            await watching.connect(gateway.socket_url)
            response = await watching.ask("/long 4000")
            await watching.shows(response)

            async def connect_until_accepted() -> int:
                for rejections in range(10):
                    opened = await stack.enter_async_context(connect(gateway.socket_url))
                    answer = await entered(opened)
                    if answer["type"] == "ready":
                        return rejections
                    assert answer["code"] == "overloaded"
                    # The retry time.
                    await asyncio.sleep(answer["retry_after"])
                raise AssertionError("rejected ten times")

            begun = time.monotonic()
            rejections = await asyncio.gather(*(connect_until_accepted() for _ in range(count)))
            took = time.monotonic() - begun
            print(f"{count} at {rate} a second in {took:.1f} s; refused {max(rejections)} times at most")
            assert took <= (count / rate - BURST_S) / RESERVED_SHARE + 3
            assert sum(rejections) <= 2 * count
            assert not watching.answer(response).ends
            await watching.stop(response)
            await watching.ended(response)
