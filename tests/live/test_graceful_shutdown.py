"""Graceful shutdown: readiness fails first, then clients are drained one by one, and no client delays it."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import socket
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.admission import RETRY_ELSEWHERE_S
from gateway.drain import RECONNECT_WITHIN_S
from gateway.transports.event_stream import RECONNECT_WITHIN_MS
from tests.live.client import Client
from tests.live.conftest import MODELS, Deployment, entries, text_of
from tests.live.processes import GatewayProcess
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

WITHIN = 10.0
"""Seconds after the drain within which a gateway exits. A client that never reads could delay it by 15 s."""

IMMEDIATELY_S = 10.0
"""Far less than the drains of these tests, and enough for a busy machine."""


class EventReader:
    """A client of an event stream that records its events and when the stream ended."""

    def __init__(self, http: httpx2.AsyncClient, url: str, conversation: str) -> None:
        self.events: list[dict[str, object]] = []
        self.retry: int | None = None
        self.id: str | None = None
        self.ended = 0.0
        self._http = http
        self._url = f"{url}/v1/conversations/{conversation}/events"

    async def read(self) -> None:
        async with self._http.stream("GET", self._url) as reply:
            assert reply.status_code == 200
            # A stream that is cut off has no end of its body.
            with pytest.raises(httpx2.RemoteProtocolError):  # noqa: PT012
                async for line in reply.aiter_lines():
                    field, _, value = line.partition(": ")
                    if field == "data":
                        self.events.append(json.loads(value))
                    elif field == "id":
                        self.id = value
                    elif field == "retry":
                        self.retry = int(value)
        self.ended = time.monotonic()


def ready(gateway: GatewayProcess) -> int:
    return httpx2.get(f"{gateway.url}/readyz", timeout=5.0).status_code


async def until(condition: object, seconds: float = 5.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def draining_gateway(deployment: Deployment) -> Iterator[GatewayProcess]:
    """Another gateway of the deployment, with a drain of eight seconds and a pre-drain delay of four."""
    with GatewayProcess(deployment.server.url, "--drain", "8", "--notice", "4") as gateway:
        yield gateway


async def test_shutdown_fails_readiness_then_drains_and_rejects(
    deployment: Deployment, draining_gateway: GatewayProcess, conversation: str
) -> None:
    """In mid-answer: drained clients resume at another gateway and have the whole text."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(conversation)) for _ in range(40)]
        late = await stack.enter_async_context(Client(conversation))
        for client in clients:
            await client.connect(draining_gateway.socket_url)
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=30.0))
        readers = [EventReader(http, draining_gateway.url, conversation) for _ in range(10)]
        streams = [asyncio.create_task(reader.read()) for reader in readers]
        await until(lambda: all(reader.events for reader in readers))
        response = await clients[0].ask("/long 400")
        for client in clients:
            await client.shows(response)

        begun = time.monotonic()
        draining_gateway.terminate()
        await until(lambda: ready(draining_gateway) == 503, IMMEDIATELY_S)
        # The load balancer has not checked readiness yet: new clients are still accepted.
        await late.connect(draining_gateway.socket_url)
        await late.watches()
        assert not any(frame["type"] == "moving" for client in clients for frame in client.frames)

        await until(lambda: any(frame["type"] == "moving" for client in clients for frame in client.frames), 30.0)
        with pytest.raises(InvalidStatus) as refused:
            await connect(draining_gateway.socket_url)
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == str(math.ceil(RETRY_ELSEWHERE_S))
        reply = await http.get(f"{draining_gateway.url}/v1/conversations/{conversation}/events")
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"
        assert reply.json()["error"]["code"] == "overloaded"

        closed: list[float] = []
        for client in (*clients, late):
            assert await client.closed() == 1012
            closed.append(time.monotonic() - begun)
            (moving,) = [frame for frame in client.frames if frame["type"] == "moving"]
            assert 0 < moving["within"] <= RECONNECT_WITHIN_S
            await client.connect(deployment.urls()[0])
        await asyncio.gather(*streams)
        for reader in readers:
            assert any(event["type"] == "moving" for event in reader.events)
            assert reader.retry is not None
            assert reader.retry <= RECONNECT_WITHIN_MS
        assert await asyncio.to_thread(draining_gateway.wait) == 0
        assert time.monotonic() - begun < 8 + WITHIN
        assert "Traceback" not in draining_gateway.text
        text = await clients[0].settled(response)
        assert text == text_of(await entries(deployment.server.url, response))
        for client in (*clients, late):
            assert await client.settled(response) == text == client.answer(response).text
            assert client.answer(response).resets == []


async def test_drain_spreads_closes_over_its_window(deployment: Deployment, conversation: str) -> None:
    """No quarter of the window has more than its share of hints or closes."""
    drain = 5.0
    with GatewayProcess(deployment.server.url, "--drain", str(drain)) as gateway:
        moments: dict[Client, float] = {}
        clients = [Client(conversation) for _ in range(80)]
        for client in clients:
            await client.connect(gateway.socket_url)
            await client.watches()

        async def wait(client: Client) -> None:
            assert await client.closed() == 1012
            moments[client] = time.monotonic()

        begun = time.monotonic()
        gateway.terminate()
        await asyncio.gather(*(wait(client) for client in clients))
        passed = sorted(moment - begun for moment in moments.values())
        assert passed[-1] <= drain + WITHIN
        # Hints are spread over the first three seconds; each close is two seconds later.
        for second in range(int(drain)):
            share = sum(second <= moment < second + 1 for moment in passed)
            assert share <= 2 * len(clients) / (drain - RECONNECT_WITHIN_S), passed
        assert passed[-1] - passed[0] > (drain - RECONNECT_WITHIN_S) * 0.8
        for client in clients:
            await client.close()


@pytest.mark.parametrize("command", ["gateway", "run"])
async def test_client_that_never_reads_does_not_delay_shutdown(
    deployment: Deployment, conversation: str, command: str
) -> None:
    """Clients that never read, on a socket and on an event stream, and one that never sends hello."""
    drain = 2.0 if command == "gateway" else 0.0
    options = ("--drain", str(drain), "--models", json.dumps(MODELS))
    provider = {"OPENAI_BASE_URL": f"{deployment.provider.url}/v1", "OPENAI_API_KEY": "sk-planted-secret"}
    with GatewayProcess(deployment.server.url, *options, command=command, **provider) as gateway:
        port = int(gateway.url.rsplit(":", 1)[1])
        async with Client(conversation) as client, AsyncExitStack() as stack:
            await client.connect(gateway.socket_url)
            upgrade = (
                b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            follow = masked({"type": "hello"}) + masked({"type": "watch", "conversation": conversation})
            events = f"GET /v1/conversations/{conversation}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            for words, then in ((upgrade, follow), (events, b""), (upgrade, b"")):
                each = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                each.sendall(words)
                # The last read; a client may not send a frame before it (RFC 6455, section 4.1).
                assert (await asyncio.to_thread(each.recv, 100)).startswith(b"HTTP/1.1 ")
                each.sendall(then)
            deployment.provider.scenarios[conversation] = Scenario(pieces=("x" * 4000,) * 200)
            response = await client.ask(conversation, model="fake")
            await client.shows(response, 700_000)
            begun = time.monotonic()
            gateway.terminate()
            assert await asyncio.to_thread(gateway.wait) == 0
            print(f"exited {time.monotonic() - begun:.2f} s after the signal, with a drain of {drain} s")
            assert time.monotonic() - begun < drain + WITHIN


@pytest.mark.parametrize(
    ("options", "first"),
    [((), signal.SIGTERM), (("--processes", "2"), signal.SIGINT)],
    ids=["one process", "two processes"],
)
async def test_second_signal_ends_shutdown_immediately(
    deployment: Deployment, conversation: str, options: tuple[str, ...], first: signal.Signals
) -> None:
    """The same signal to the process and to its group counts once."""
    with GatewayProcess(deployment.server.url, "--drain", "60", "--notice", "10", *options) as gateway:
        clients = [Client(conversation) for _ in range(6)]
        for client in clients:
            await client.connect(gateway.socket_url)
            await client.watches()
        for _ in range(2):
            gateway._process.send_signal(first)
        # A fixed time, because the test shows that the process does not exit.
        await asyncio.sleep(1.0)
        assert gateway.running
        begun = time.monotonic()
        gateway._process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.wait) == 0
        assert time.monotonic() - begun < IMMEDIATELY_S
        assert "Traceback" not in gateway.text
        for client in clients:
            assert await client.closed() == 1012
            await client.close()


async def test_interrupt_skips_pre_drain_delay(deployment: Deployment) -> None:
    with GatewayProcess(deployment.server.url, "--drain", "60", "--notice", "20") as gateway:
        begun = time.monotonic()
        gateway._process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(gateway.wait) == 0
        assert time.monotonic() - begun < IMMEDIATELY_S


async def test_second_signal_makes_worker_hand_over_immediately(
    deployment_without_worker: Deployment, conversation: str
) -> None:
    worker = deployment_without_worker.worker("--drain", "60", "--lease", "30")
    async with Client(conversation) as client:
        await client.connect(deployment_without_worker.urls()[0])
        response = await client.ask("/long 400")
        await client.shows(response)
        worker.terminate()
        # A fixed time, because the answer continues during it.
        await asyncio.sleep(1.0)
        assert client.answer(response).attempt == 1
        begun = time.monotonic()
        worker.terminate()
        assert await asyncio.to_thread(worker.wait) == 0
        assert time.monotonic() - begun < IMMEDIATELY_S
        deployment_without_worker.worker()
        await client.attempted(response, 2, 15.0)
        await client.stop(response)
        await client.ended(response)


def masked(frame: dict[str, str]) -> bytes:
    """A client's text frame with a mask of zeros (RFC 6455, section 5.2)."""
    body = json.dumps(frame).encode()
    assert len(body) < 126
    return bytes([0x81, 0x80 | len(body), 0, 0, 0, 0]) + body
