"""The compose file: valid by its schema, and run as processes while users chat and services are killed."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import tempfile
import time
import urllib.parse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import jwt
import pytest
import yaml
from websockets.exceptions import WebSocketException

from gateway.cli.settings import Settings
from tests.core_coverage import ROOT
from tests.deploy.compose_processes import ComposeProcesses, interpolate, seconds
from tests.deploy.services import fetch
from tests.deploy.test_alerts import ALERTS, expressions, metrics_of
from tests.live.client import Client
from tests.provider_server import ProviderServer, Scenario
from tests.stores import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

FILE: Final = ROOT / "deploy" / "compose.yaml"
DOCUMENT: Final[dict[str, Any]] = yaml.safe_load(interpolate(FILE.read_text(), {}))
SERVICES: Final[dict[str, dict[str, Any]]] = DOCUMENT["services"]
TOKENWIRE_SERVICES: Final = ("gateway-1", "gateway-2", "worker-1", "worker-2")
KEY: Final = secrets.token_urlsafe(48)
OPERATOR: Final = secrets.token_urlsafe(24)
STORY: Final = tuple(f"word{number} " for number in range(120))
EXPRESSIONS: Final[dict[str, str]] = {alert["alert"]: alert["expr"] for alert in ALERTS}


def test_compose_file_matches_its_schema() -> None:
    package = find_spec("check_jsonschema")
    if package is None or package.origin is None:
        pytest.skip("the schema of compose files is not installed: make tools")
    schema = json.loads((Path(package.origin).parent / "builtin_schemas/vendor/compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(DOCUMENT)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**DOCUMENT, "services": {"gateway-1": {**SERVICES["gateway-1"], "restarts": "always"}}})


def test_every_service_is_bounded_and_sandboxed() -> None:
    assert set(SERVICES) == {*TOKENWIRE_SERVICES, "valkey", "caddy", "prometheus", "grafana"}
    for name, service in SERVICES.items():
        assert service["restart"] == "unless-stopped", name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert ":latest" not in service["image"], name
        assert ":" in service["image"], name
        # The image defines the health check of the Tokenwire services.
        assert "healthcheck" in service or name in TOKENWIRE_SERVICES, name
        assert set(service["networks"]) <= set(DOCUMENT["networks"]), name
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["profiles"] == ["observe"]


def test_only_gateways_and_workers_reach_the_store() -> None:
    assert "ports" not in SERVICES["valkey"]
    assert DOCUMENT["networks"]["store"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "store" in service["networks"]} == {
        *TOKENWIRE_SERVICES,
        "valkey",
    }
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"caddy": ["80:80", "443:443", "443:443/udp"], "grafana": ["127.0.0.1:3000:3000"]}


@pytest.mark.parametrize("name", TOKENWIRE_SERVICES)
def test_service_grace_period_covers_drain(name: str) -> None:
    drain = float(SERVICES[name]["environment"]["TOKENWIRE_DRAIN"])
    assert seconds(SERVICES[name]["stop_grace_period"]) >= drain + 10


def test_gateway_memory_limit_covers_its_cache() -> None:
    cache_mib: int = Settings.model_fields["memory"].default
    assert SERVICES["gateway-1"]["deploy"]["resources"]["limits"]["memory"] == "1g"
    assert cache_mib * 2 < 1024


class Deployment(ComposeProcesses):
    """The services of compose.yaml, with the views of a user and an operator."""

    def __init__(self, folder: Path, provider: ProviderServer) -> None:
        self.site = ""
        super().__init__(
            FILE,
            folder,
            {
                "jwt_key": KEY,
                # Caddy has a loopback address here.
                "PROXIES": "127.0.0.0/8",
                "gateway.env": f"TOKENWIRE_OPERATOR_TOKEN={OPERATOR}",
                "worker.env": f"OPENAI_API_KEY=sk-planted\nOPENAI_BASE_URL={provider.url}/v1",
            },
        )

    def up(self) -> None:
        """Start all services in the order of their dependencies."""
        self.site = f"{self.addresses['caddy']}:{free_port()}"
        self.start("valkey")
        self.start(*TOKENWIRE_SERVICES)
        self.start_proxy()
        if shutil.which("prometheus"):
            # Scrape each second instead of each 15, so that alerts show quickly.
            configuration = self.volume("prometheus", "./prometheus") / "prometheus.yaml"
            configuration.write_text(configuration.read_text().replace("15s", "1s"))
            self.start("prometheus")

    def start_proxy(self) -> None:
        """Start Caddy for a site without a certificate."""
        self.start("caddy", SITE=f"http://{self.site}", ADMIN=f"{self.addresses['caddy']}:2019")

    def restart_dead(self) -> None:
        """Restart services that a failed test left dead, as the engine would."""
        self.start(
            *(
                name
                for name in ("valkey", *TOKENWIRE_SERVICES)
                if name in self.running and not self.running[name].running
            )
        )

    def running_answers(self, worker: str) -> float:
        """Return the number of answers that a worker runs."""
        text = fetch(f"http://{self.addresses[worker]}:9100/metrics") or ""
        return float(re.findall(r"^tokenwire_worker_responses (\S+)$", text, re.MULTILINE)[0])

    def scrape(self) -> dict[str, float]:
        """Return every series by name and labels, summed over the running gateways and workers."""
        found: dict[str, float] = {}
        for name in TOKENWIRE_SERVICES:
            for line in (fetch(f"http://{self.addresses[name]}:9100/metrics") or "").splitlines():
                if not line.startswith("#"):
                    series, _, value = line.rpartition(" ")
                    found[series] = found.get(series, 0.0) + float(value)
        return found

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current result of a PromQL expression."""
        parameters = urllib.parse.urlencode({"query": expression})
        text = fetch(f"http://{self.addresses['prometheus']}:9090/api/v1/query?{parameters}")
        assert text is not None
        return list(json.loads(text)["data"]["result"])

    async def shows(self, alert: str, *, expected: bool = True, within: float = 20.0) -> None:
        """Wait until the condition of an alert holds, or with `expected=False` no longer holds."""
        if "prometheus" in self.running:
            await eventually(lambda: bool(self.query(EXPRESSIONS[alert])) is expected, within, alert)

    async def connect(self, client: Client) -> None:
        """Connect a client, with retries like a page."""
        async with asyncio.timeout(20.0):
            while True:
                try:
                    await client.connect(f"ws://{self.site}/v1/ws")
                    return
                except (OSError, WebSocketException):
                    await asyncio.sleep(0.1)


async def eventually(condition: Callable[[], object], within: float, what: str) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not met within {within} s: {what}"
        await asyncio.sleep(0.2)


async def until_empty(remaining: Callable[[], object], within: float = 10.0) -> None:
    """Wait until nothing remains."""
    deadline = time.monotonic() + within
    while left := remaining():
        assert time.monotonic() < deadline, f"left after {within} s: {left}"
        await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with ProviderServer(Scenario(pieces=STORY, delay=0.02)) as server:
        server.scenarios["be refused first"] = Scenario(status=429, times=1, headers={"retry-after": "1"})
        yield server


@pytest.fixture(scope="module")
def deployment(provider: ProviderServer) -> Iterator[Deployment]:
    if shutil.which("caddy") is None:
        pytest.skip("caddy is not installed")
    folder = Path(tempfile.mkdtemp(prefix="tw-compose-"))
    deployed = Deployment(folder, provider)
    try:
        deployed.up()
        yield deployed
    finally:
        deployed.close()
        shutil.rmtree(folder)


class Users:
    """Users of the site, each with a separate token."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.clients: list[Client] = []

    async def join(self, conversation: str) -> Client:
        """Return a connected client that watches a conversation."""
        claims = {"sub": conversation, "exp": time.time() + 600, "conversations": [conversation]}
        client = Client(conversation, jwt.encode(claims, KEY, "HS256"))
        self.clients.append(client)
        await self._deployment.connect(client)
        return client


@pytest.fixture
async def users(deployment: Deployment) -> AsyncIterator[Users]:
    users = Users(deployment)
    yield users
    for client in users.clients:
        await client.close()
    await asyncio.to_thread(deployment.restart_dead)


# Metrics that stay at zero in a healthy deployment; the fault tests below move some of them.
ZERO_WHEN_HEALTHY: Final = {
    "tokenwire_gaps_total",
    "tokenwire_leaving",
    "tokenwire_queue_lag_seconds",
    "tokenwire_repairs_total",
    "tokenwire_store_errors_total",
    "tokenwire_viewers_behind",
}


@pytest.mark.live
async def test_chat_moves_every_metric_in_expressions(deployment: Deployment, users: Users) -> None:
    alice, tab = await users.join("c-alice"), await users.join("c-alice")
    await tab.watches()
    seen: set[str] = set()

    def moved() -> set[str]:
        seen.update(series.partition("{")[0] for series, value in deployment.scrape().items() if value)
        return seen

    first = await alice.ask("Tell a story.")
    await alice.shows(first, 100)
    moved()
    tab.cut()
    await alice.shows(first, 200)
    await deployment.connect(tab)
    for client in (alice, tab):
        answer = await client.ended(first)
        assert (answer.reason, answer.text) == ("complete", "".join(STORY))
    stopped = await alice.ask("Tell another.")
    await alice.shows(stopped)
    await alice.stop(stopped)
    assert (await alice.ended(stopped)).reason == "stopped"
    refused = await alice.ask("be refused first")
    assert (await alice.ended(refused)).reason == "complete"

    stranger = await Client("c-alice", "no token").connect(f"ws://{deployment.site}/v1/ws")
    assert await stranger.closed() == 4401
    assert fetch(f"http://{deployment.site}/metrics") is None
    assert fetch(f"http://{deployment.site}/healthz") == "ok\n"
    assert fetch(f"http://{deployment.site}/live/fleet") is None
    fleet = json.loads(fetch(f"http://{deployment.site}/live/fleet", OPERATOR) or "{}")
    assert (len(fleet["gateways"]), len(fleet["workers"])) == (2, 2)

    wanted = {name for _, expression in expressions() for name in metrics_of(expression)} - {"up"}
    have = {series.partition("{")[0] for series in deployment.scrape()}
    # A labelled counter has no series before its first increment.
    assert wanted <= have | {"tokenwire_fences_total"}
    await until_empty(lambda: wanted - ZERO_WHEN_HEALTHY - moved())


@pytest.mark.live
async def test_killed_worker_loses_nothing(deployment: Deployment, users: Users) -> None:
    clients = [await users.join(f"c-worker-{number}") for number in range(12)]
    answers = [await user.ask("Tell a story.") for user in clients]
    for user, answer in zip(clients, answers, strict=True):
        await user.shows(answer, 50)
    busy, other = sorted(("worker-1", "worker-2"), key=deployment.running_answers, reverse=True)
    deployment.kill(busy)
    await deployment.shows("TokenwireProcessDown")
    for user, answer in zip(clients, answers, strict=True):
        ended = await user.ended(answer)
        assert (ended.reason, ended.text) == ("complete", "".join(STORY))
    assert sum(value for name, value in deployment.scrape().items() if 'kind="take_over"' in name) > 0
    await deployment.shows("TokenwireTakeOvers")
    deployment.kill(other)
    await deployment.shows("TokenwireNoWorker", within=40.0)
    late = await users.join("c-late")
    waiting = await late.ask("Tell a story.")
    await asyncio.to_thread(deployment.start, "worker-1", "worker-2")
    assert (await late.ended(waiting)).text == "".join(STORY)
    await deployment.shows("TokenwireNoWorker", expected=False)
    await deployment.shows("TokenwireProcessDown", expected=False)


@pytest.mark.live
async def test_killed_gateway_loses_nothing(deployment: Deployment, users: Users) -> None:
    clients = [await users.join(f"c-gateway-{number}") for number in range(6)]
    answers = [await user.ask("Tell a story.") for user in clients]
    for user, answer in zip(clients, answers, strict=True):
        await user.shows(answer, 50)
    deployment.kill("gateway-1")
    for user, answer in zip(clients, answers, strict=True):
        await user.until(lambda user=user, answer=answer: user.close_code is not None or user.answer(answer).ends)  # type: ignore[misc]
        if not user.answer(answer).ends:
            await deployment.connect(user)
        ended = await user.ended(answer)
        assert (ended.reason, ended.text, ended.resets) == ("complete", "".join(STORY), [])
    await deployment.shows("TokenwireProcessDown")
    await asyncio.to_thread(deployment.start, "gateway-1")
    await deployment.shows("TokenwireProcessDown", expected=False)


@pytest.mark.live
async def test_killed_store_loses_nothing(deployment: Deployment, users: Users) -> None:
    user = await users.join("c-store")
    answer = await user.ask("Tell a story.")
    await user.shows(answer, 100)
    deployment.kill("valkey")
    await eventually(lambda: fetch(f"http://{deployment.addresses['gateway-1']}:8000/readyz") is None, 5.0, "not ready")
    await deployment.shows("TokenwireStoreUnavailable")
    await asyncio.to_thread(deployment.start, "valkey")
    ended = await user.ended(answer)
    assert (ended.reason, ended.text) == ("complete", "".join(STORY))


@pytest.mark.live
async def test_killed_proxy_loses_nothing(deployment: Deployment, users: Users) -> None:
    user = await users.join("c-proxy")
    answer = await user.ask("Tell a story.")
    await user.shows(answer, 100)
    deployment.kill("caddy")
    await user.closed()
    await asyncio.to_thread(deployment.start_proxy)
    await deployment.connect(user)
    ended = await user.ended(answer)
    assert (ended.reason, ended.text, ended.resets) == ("complete", "".join(STORY), [])


@pytest.mark.live
async def test_every_service_stops_within_its_grace_period(deployment: Deployment, users: Users) -> None:
    user = await users.join("c-leave")
    answer = await user.ask("Tell a story.")
    await user.shows(answer, 50)
    stopping = [asyncio.to_thread(deployment.stop, name) for name in ("worker-1", "gateway-1")]
    assert await asyncio.gather(*stopping) == [0, 0]
    if user.close_code is not None:
        await deployment.connect(user)
    ended = await user.ended(answer)
    assert (ended.reason, ended.text) == ("complete", "".join(STORY))
    rest = [asyncio.to_thread(deployment.stop, name) for name in ("worker-2", "caddy", "valkey")]
    assert await asyncio.gather(*rest) == [0, 0, 0]
