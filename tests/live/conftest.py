"""Fixtures: a deployment that the session shares (store, provider, two gateways, a worker), and separate ones."""

from __future__ import annotations

import json
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from gateway.streams import log_entries, response_log
from gateway.streams.store.store import Store, open_store
from tests.live.client import Client
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.provider_server import ProviderServer
from tests.stores import RealServer
from tests.topologies import RealCluster, RealSentinels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from gateway.streams.log_entries import LogId

SERVERS: Final[dict[str, Callable[[], RealServer | RealSentinels | RealCluster]]] = {
    "server": RealServer,
    "sentinel": RealSentinels,
    "cluster": RealCluster,
    "redis-sentinel": partial(RealSentinels, "redis"),
    "redis-cluster": partial(RealCluster, "redis"),
}
"""Kinds of stores. Valkey, unless the name says Redis."""

TOPOLOGY_MODULES: Final = ("test_delivery", "test_outage", "test_stop", "test_worker_death")
"""Modules that also run on Sentinel and Cluster: all their tests in the long form, the tests of ALWAYS in each run."""
ALWAYS: Final = (
    "test_random_disconnects_lose_and_duplicate_nothing",
    "test_hundred_submits_with_one_key_are_one",
    "test_stop_of_streaming_response",
)

MODELS = {"default": "demo", "fake": "openai/fake"}
LEASE_S = 1.0


@dataclass
class Deployment:
    """A store, a provider, gateways and workers on this machine."""

    server: RealServer | RealSentinels | RealCluster
    provider: ProviderServer
    gateways: list[GatewayProcess]
    stack: ExitStack
    workers: list[WorkerProcess] = field(default_factory=list)

    def worker(self, *options: str, **environment: str) -> WorkerProcess:
        """Start another worker; the deployment closes it."""
        worker = WorkerProcess(
            self.server.url,
            *("--models", json.dumps(MODELS), "--lease", str(LEASE_S), "--demo-rate", "80", "--drain", "5"),
            *options,
            OPENAI_BASE_URL=f"{self.provider.url}/v1",
            OPENAI_API_KEY="sk-planted-secret",
            **environment,
        )
        self.stack.callback(worker.close)
        self.workers.append(worker)
        return worker

    def logs(self) -> str:
        """Return the output of all gateways and workers."""
        return "".join(process.text for process in (*self.gateways, *self.workers))

    def urls(self) -> list[str]:
        return [gateway.socket_url for gateway in self.gateways]

    def calls(self, prompt: str) -> int:
        """Return the number of provider calls with this prompt."""
        return sum(call.prompt == prompt for call in self.provider.calls)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of TOPOLOGY_MODULES on each kind of store."""
    fixture = next(
        (name for name in ("deployment", "deployment_without_worker") if name in metafunc.fixturenames), None
    )
    module = metafunc.module.__name__.rpartition(".")[2]
    if fixture is None or module not in TOPOLOGY_MODULES:
        return
    marks = () if metafunc.function.__name__ in ALWAYS else (pytest.mark.long,)
    kinds = ["server", *(pytest.param(kind, marks=marks) for kind in ("sentinel", "cluster"))]
    kinds += [pytest.param(kind, marks=pytest.mark.long) for kind in ("redis-sentinel", "redis-cluster")]
    metafunc.parametrize(fixture, kinds, indirect=True)


def build(stack: ExitStack, *options: str, on: str = "server") -> Deployment:
    """Start a deployment without workers; `stack` closes it."""
    server = SERVERS[on]()
    stack.callback(server.close)
    server.start()
    provider = stack.enter_context(ProviderServer())
    gateways = [stack.enter_context(GatewayProcess(server.url, *options)) for _ in range(2)]
    return Deployment(server, provider, gateways, stack)


@pytest.fixture(scope="session")
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """The deployment that most tests share, with one worker. Tests use different conversations."""
    with ExitStack() as stack:
        built = build(stack, on=getattr(request, "param", "server"))
        built.worker()
        yield built


@pytest.fixture
def deployment_without_worker(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A separate deployment without a worker."""
    with ExitStack() as stack:
        yield build(stack, on=getattr(request, "param", "server"))


OPERATOR = "an-operator's-planted-token"


@dataclass
class Operated:
    """A gateway and a worker with metrics ports, as in production."""

    server: RealServer
    provider: ProviderServer
    gateway: GatewayProcess
    worker: WorkerProcess

    async def answered(self, conversation: str, text: str, **fields: str) -> str:
        """Send a message, wait until its answer is settled, and return the id of the response."""
        async with Client(conversation) as client:
            await client.connect(self.gateway.socket_url)
            await client.watches()
            response = await client.ask(text, **fields)
            await client.settled(response)
            return response


@pytest.fixture(scope="session")
def operated() -> Iterator[Operated]:
    """See `Operated`."""
    with ExitStack() as stack:
        server = stack.enter_context(RealServer())
        provider = stack.enter_context(ProviderServer())
        watched = ("--metrics-port", "0")
        gateway = stack.enter_context(GatewayProcess(server.url, *watched, TOKENWIRE_OPERATOR_TOKEN=OPERATOR))
        worker = stack.enter_context(
            WorkerProcess(
                server.url,
                *("--models", json.dumps(MODELS), "--lease", str(LEASE_S), "--demo-rate", "80", *watched),
                OPENAI_BASE_URL=f"{provider.url}/v1",
                OPENAI_API_KEY="sk-planted-secret",
            )
        )
        yield Operated(server, provider, gateway, worker)


@pytest.fixture
def conversation() -> str:
    return f"c-{secrets.token_hex(6)}"


@pytest.fixture
async def store(deployment: Deployment) -> AsyncIterator[Store]:
    """A client of the store of the shared deployment."""
    opened = await open_store(deployment.server.url)
    yield opened
    await opened.close()


async def entries(url: str, response: str) -> list[tuple[LogId, bytes]]:
    """Return the current entries of a response log."""
    store = await open_store(url)
    try:
        return list(await response_log.read(store, response))
    finally:
        await store.close()


def text_of(entries: list[tuple[LogId, bytes]]) -> str:
    """Return the text of a log, which every client must show at its end."""
    text = b""
    for _, value in entries:
        if value[:1] == log_entries.START:
            text = b""
        elif value[:1] == log_entries.TEXT:
            text += value[1:]
    return log_entries.unescape(text)
