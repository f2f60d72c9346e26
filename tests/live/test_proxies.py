"""Three gateways and three workers behind nginx, HAProxy and Caddy, with the configurations of deploy/proxy/.

The delivery tests run here again with clients behind proxies: behind all three together in `make test`, and behind each
alone with `pytest tests/live/test_proxies.py -m long`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed

from gateway.streams import keys
from gateway.streams.store.store import open_store
from tests.live import test_delivery, test_stop
from tests.live.client import Client
from tests.live.conftest import Deployment, build, entries, text_of
from tests.live.processes import GatewayProcess
from tests.live.proxies import PROXIES, Proxy
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.live.processes import WorkerProcess

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

WORKERS = 3
TOKENS = tuple(f"word{n} " for n in range(40))
EVERY = 0.05
"""Seconds between two tokens: more than twice the batching interval of a worker."""

IDLE = 2.0
"""Idle timeout of the proxies in a test, instead of 60 seconds."""


@dataclass
class ProxiedDeployment(Deployment):
    """A deployment whose clients connect through proxies."""

    proxies: dict[str, Proxy] = field(default_factory=dict)
    workers: list[WorkerProcess] = field(default_factory=list)
    turn: Iterator[int] = field(default_factory=itertools.count)

    def urls(self) -> list[str]:
        """Return the URLs of the proxies, rotated on each call; at least two."""
        urls = [proxy.socket_url for proxy in self.proxies.values()]
        first = next(self.turn) % len(urls)
        return [*urls[first:], *urls[:first], urls[first]]


class FastHeartbeatGateway(GatewayProcess):
    """A gateway with a heartbeat every second."""

    module = "tests.live.fast_heartbeat_gateway"


@pytest.fixture(scope="module")
def whole() -> Iterator[ProxiedDeployment]:
    """A deployment with three gateways, three workers and every installed proxy."""
    with ExitStack() as stack:
        built = build(stack)
        gateways = [*built.gateways, stack.enter_context(GatewayProcess(built.server.url))]
        deployment = ProxiedDeployment(built.server, built.provider, gateways, stack)
        deployment.workers = [deployment.worker() for _ in range(WORKERS)]
        addresses = [gateway.url.removeprefix("http://") for gateway in gateways]
        for name, kind in PROXIES.items():
            if kind.present():
                deployment.proxies[name] = stack.enter_context(kind(addresses))
        if not deployment.proxies:
            pytest.skip(f"there is none of {', '.join(PROXIES)} on this machine")
        yield deployment
        # A gateway that a test has replaced.
        for gateway in deployment.gateways:
            gateway.close()


@pytest.fixture(params=["all", *(pytest.param(name, marks=pytest.mark.long) for name in PROXIES)])
def deployment(request: pytest.FixtureRequest, whole: ProxiedDeployment) -> ProxiedDeployment:
    """The deployment with its clients behind all proxies, or behind one."""
    if request.param == "all":
        return whole
    if request.param not in whole.proxies:
        pytest.skip(f"there is no {request.param} on this machine")
    only = {request.param: whole.proxies[request.param]}
    return ProxiedDeployment(
        whole.server, whole.provider, whole.gateways, whole.stack, proxies=only, workers=whole.workers
    )


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest, whole: ProxiedDeployment) -> Proxy:
    """Each of the proxies in turn."""
    if request.param not in whole.proxies:
        pytest.skip(f"there is no {request.param} on this machine")
    return whole.proxies[request.param]


# Delivery


tabs = test_stop.tabs
test_tabs_that_did_not_ask = test_delivery.test_other_tabs_receive_the_whole_answer
test_cursors_that_can_not_be_continued = test_delivery.test_cursor_that_cannot_be_resumed_leads_to_reset
test_submits_with_one_key = test_delivery.test_hundred_submits_with_one_key_are_one
test_stop_while_it_streams = test_stop.test_stop_of_streaming_response
test_stop_by_everybody = test_stop.test_concurrent_stops_write_one_end


async def test_random_disconnects_behind_proxy_lose_nothing(
    deployment: ProxiedDeployment, request: pytest.FixtureRequest
) -> None:
    """Each reconnect may use another proxy and another gateway."""
    answers = 50 if request.node.get_closest_marker("long") else 8
    cuts = await test_delivery.cut_at_random(deployment, answers)
    print(f"{cuts} cuts over {answers} answers")
    assert cuts >= 10 * answers


async def test_worker_death_behind_proxy_loses_nothing(deployment: ProxiedDeployment, whole: ProxiedDeployment) -> None:
    """Workers are killed in mid-answer: others take over, and every client has the whole text."""
    clients, responses, prompts = [], [], []
    for url in (*deployment.urls()[:-1], *deployment.urls()[:-1]):
        prompt = f"deaths {secrets.token_hex(4)}"
        deployment.provider.scenarios[prompt] = Scenario(pieces=TOKENS * 3, delay=0.02)
        client = await Client(f"proxied-{secrets.token_hex(4)}").connect(url)
        responses.append(await client.ask(prompt, model="fake"))
        clients.append(client)
        prompts.append(prompt)
    for client, response in zip(clients, responses, strict=True):
        await client.shows(response, 50)
    killed, whole.workers[:] = list(whole.workers), []
    for worker in killed:
        worker.kill()
    whole.workers.extend(whole.worker("--recovery", "restart") for _ in killed)
    for client, response, prompt in zip(clients, responses, prompts, strict=True):
        answer = await client.ended(response)
        assert answer.attempt == 2
        assert answer.resets == ["attempt"]
        assert answer.text == "".join(TOKENS * 3) == text_of(await entries(deployment.server.url, response))
        assert deployment.calls(prompt) == 2
        await client.close()


# Buffering and timeouts


async def test_proxy_does_not_buffer_tokens(whole: ProxiedDeployment, proxy: Proxy, conversation: str) -> None:
    """On a socket and on an event stream: a buffering proxy would deliver tokens in groups."""
    whole.provider.scenarios[conversation] = Scenario(pieces=TOKENS, delay=EVERY)
    sse: list[float] = []
    ws: list[float] = []
    async with Client(conversation) as client, httpx2.AsyncClient(timeout=30.0) as http:
        await client.connect(proxy.socket_url)
        await client.watches()
        opened = asyncio.Event()

        async def read() -> None:
            async with http.stream("GET", f"{proxy.url}/v1/conversations/{conversation}/events") as reply:
                async for line in reply.aiter_lines():
                    opened.set()
                    if line.startswith("data: "):
                        frame = json.loads(line.removeprefix("data: "))
                        if frame["type"] == "delta":
                            sse.append(time.monotonic())
                        elif frame["type"] == "end":
                            return

        reading = asyncio.create_task(read())
        await opened.wait()
        response = await client.ask(conversation, model="fake")
        while not client.answer(response).ends:
            before = len(client.frames)
            await client.until(lambda: len(client.frames) > before)  # noqa: B023 - awaited at once
            ws += [time.monotonic() for frame in client.frames[before:] if frame["type"] == "delta"]
        await reading
        assert client.answer(response).text == "".join(TOKENS)
    for moments in (ws, sse):
        pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
        print(f"{proxy.name}: {len(moments)} deltas, {statistics.median(pauses) * 1000:.0f} ms between two")
        assert len(moments) > len(TOKENS) / 2
        assert EVERY / 2 < statistics.median(pauses) < 2 * EVERY


async def silence(proxy: Proxy, conversation: str, seconds: float) -> tuple[bool, bool]:
    """Return whether an idle socket and an idle event stream are still open after so many seconds."""
    async with Client(conversation) as client, httpx2.AsyncClient(timeout=30.0) as http:
        await client.connect(proxy.socket_url)
        await client.watches()

        async def read() -> None:
            try:
                async with http.stream("GET", f"{proxy.url}/v1/conversations/{conversation}/events") as reply:
                    assert reply.status_code == 200
                    async for _ in reply.aiter_bytes():
                        pass
            except httpx2.RemoteProtocolError:
                # Disconnected within the chunked body.
                pass

        reading = asyncio.create_task(read())
        done, _ = await asyncio.wait([reading], timeout=seconds)
        if not done:
            reading.cancel()
        return client.close_code is None, not done


async def test_heartbeats_keep_proxy_connections_open(whole: ProxiedDeployment) -> None:
    """For three idle timeouts. With the default heartbeat, which is slower, every connection is closed."""
    with ExitStack() as stack:
        fast = [stack.enter_context(FastHeartbeatGateway(whole.server.url)) for _ in range(3)]
        impatient: list[tuple[str, Proxy, tuple[bool, bool]]] = []
        for name in whole.proxies:
            for gateways, open_after in ((fast, (True, True)), (whole.gateways, (False, False))):
                addresses = [gateway.url.removeprefix("http://") for gateway in gateways]
                impatient.append((name, stack.enter_context(PROXIES[name](addresses, IDLE)), open_after))
        found = await asyncio.gather(
            *(silence(proxy, f"idle-{secrets.token_hex(4)}", 3 * IDLE) for _, proxy, _ in impatient)
        )
        assert list(zip([name for name, _, _ in impatient], found, strict=True)) == [
            (name, open_after) for name, _, open_after in impatient
        ]


async def follow(client: Client, proxy: Proxy, response: str) -> list[int | None]:
    """Follow a response to its end, with reconnects through the proxy; return the close codes."""
    codes: list[int | None] = []
    async with asyncio.timeout(30.0):
        while not client.answer(response).ends:
            await client.until(lambda: client.close_code is not None or client.answer(response).ends)
            if not client.answer(response).ends:
                codes.append(client.close_code)
                await client.connect(proxy.socket_url)
    return codes


@dataclass
class Audience:
    """Clients in mid-answer behind one proxy, each on one of the gateways."""

    proxy: Proxy
    clients: list[Client]
    response: str

    async def stays(self) -> list[int | None]:
        """Follow the answer to its end, with reconnects; return the close codes."""
        codes = await asyncio.gather(*(follow(client, self.proxy, self.response) for client in self.clients))
        return [code for each in codes for code in each]

    async def has_all(self, deployment: Deployment) -> None:
        """Check that each client has the whole text once, without a reset."""
        text = text_of(await entries(deployment.server.url, self.response))
        assert text == "".join(TOKENS * 4)
        for client in self.clients:
            assert await client.settled(self.response) == text == client.answer(self.response).text
            assert client.answer(self.response).resets == []
            assert client.transcript.snapshots == 1
            await client.close()


async def audience(deployment: ProxiedDeployment, proxy: Proxy) -> Audience:
    conversation = f"proxied-{secrets.token_hex(4)}"
    deployment.provider.scenarios[conversation] = Scenario(pieces=TOKENS * 4, delay=0.03)
    clients = [await Client(conversation).connect(proxy.socket_url) for _ in range(6)]
    for client in clients:
        await client.watches()
    response = await clients[0].ask(conversation, model="fake")
    for client in clients:
        await client.shows(response, 50)
    return Audience(proxy, clients, response)


async def test_killed_gateway_behind_proxy_loses_nothing(whole: ProxiedDeployment) -> None:
    """Its clients reconnect through the same proxy and resume at another gateway."""
    audiences = await asyncio.gather(*(audience(whole, proxy) for proxy in whole.proxies.values()))
    victim = whole.gateways[0]
    victim.kill()
    for each, codes in zip(audiences, await asyncio.gather(*(each.stays() for each in audiences)), strict=True):
        print(f"{each.proxy.name}: {len(codes)} of {len(each.clients)} sockets were lost, with {codes}")
        assert 0 < len(codes) < len(each.clients)
        await each.has_all(whole)
    port = victim.url.rsplit(":", 1)[1]
    whole.gateways[0] = GatewayProcess(whole.server.url, "--port", port)


@pytest.mark.long
async def test_proxy_reload_under_load_loses_nothing(whole: ProxiedDeployment) -> None:
    """Streams stay open and new clients are accepted during the reload; Caddy before 2.7 closes its sockets."""

    async def reload(proxy: Proxy) -> None:
        reloading = asyncio.create_task(asyncio.to_thread(proxy.reload))
        while not reloading.done():
            async with Client(f"reload-{secrets.token_hex(4)}") as client:
                try:
                    await client.connect(proxy.socket_url)
                    await client.until(lambda: client.transcript.snapshots or client.close_code)
                except ConnectionClosed:
                    pass
                assert client.transcript.snapshots or not proxy.keeps_streams
        await reloading

    audiences = await asyncio.gather(*(audience(whole, proxy) for proxy in whole.proxies.values()))
    staying = [asyncio.create_task(each.stays()) for each in audiences]
    await asyncio.gather(*(reload(each.proxy) for each in audiences))
    for each, codes in zip(audiences, await asyncio.gather(*staying), strict=True):
        print(f"{each.proxy.name}: {len(codes)} of {len(each.clients)} sockets were closed, with {codes}")
        assert not codes or not each.proxy.keeps_streams
        await each.has_all(whole)


async def test_clients_never_reach_gateway_in_shutdown(whole: ProxiedDeployment) -> None:
    """From SIGTERM to the exit no new client is rejected: the proxy sees readiness fail, or tries another gateway."""
    victim = whole.gateways[1]
    port = victim.url.rsplit(":", 1)[1]
    victim.close()
    leaving = GatewayProcess(whole.server.url, "--port", port, "--drain", "4", "--notice", "2")

    async def connect_repeatedly(proxy: Proxy) -> int:
        conversation, times = f"leaving-{secrets.token_hex(4)}", 0
        async with httpx2.AsyncClient() as http:
            while leaving.running:
                async with Client(conversation) as client:
                    await client.connect(proxy.socket_url)
                    await client.watches()
                reply = await http.get(f"{proxy.url}/v1/conversations/{conversation}")
                assert reply.status_code == 200, proxy.name
                times += 1
        return times

    with leaving:
        held = [await Client("held").connect(proxy.socket_url) for proxy in whole.proxies.values() for _ in range(6)]
        leaving.terminate()
        times = await asyncio.gather(*(connect_repeatedly(proxy) for proxy in whole.proxies.values()))
        print(f"{times} connections during the shutdown of a gateway")
        assert leaving.wait() == 0
    for client in held:
        assert client.close_code in (None, 1012)
        await client.close()
    whole.gateways[1] = GatewayProcess(whole.server.url, "--port", port)


async def test_conversation_that_cannot_be_read_leaves_the_gateways_in_service(
    whole: ProxiedDeployment, proxy: Proxy, conversation: str
) -> None:
    """Each 503 for one conversation, from all gateways, between requests of others: they are answered."""
    spoilt = f"{conversation}-spoilt"
    store = await open_store(whole.server.url)
    try:
        await store.client.set(keys.history(spoilt), "no stream")
    finally:
        await store.close()
    async with httpx2.AsyncClient(timeout=30.0) as http:
        for number in range(20):
            refused = await http.get(f"{proxy.url}/v1/conversations/{spoilt}")
            assert refused.status_code == 503
            others = [await http.get(f"{proxy.url}/v1/conversations/{conversation}-{number}-{each}") for each in "abc"]
            assert [reply.status_code for reply in others] == [200, 200, 200]
