"""`tokenwire doctor --providers`: one call of each target."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gateway.cli.main import main
from gateway.streams.credentials import proxy_problem
from gateway.streams.targets import Target, parse_models
from tests.provider_server import ProviderServer, Scenario
from workers.provider_check import ANSWER_TOKENS, Result, check
from workers.providers import connect

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderServer]:
    monkeypatch.setenv("SSL_CERT_DIR", "/")
    monkeypatch.setenv("MY_KEY", "sk-1")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with ProviderServer() as running:
        yield running


async def checked(*targets: Target, timeout_s: float = 10.0) -> list[Result]:
    return await check({"default": targets}, timeout_s)


def target(server: ProviderServer, provider: str = "openai", **fields: str) -> Target:
    path = "/v1" if provider == "openai" else ""
    return Target(provider, "m", base_url=f"{server.url}{path}", **{"key": "MY_KEY", **fields})  # type: ignore[arg-type]


async def test_each_different_target_is_called_once(server: ProviderServer) -> None:
    one, other = target(server), target(server, "anthropic")
    found = await check(
        {"default": [one, other], "fast": [one], "mine": [Target("python", "a:b")], "demo": [Target("demo")]}
    )
    assert [(result.alias, result.mark) for result in found] == [
        ("default, fast", "ok"),
        ("default", "ok"),
        ("mine", "ok"),
        ("demo", "ok"),
    ]
    assert found[0].text.startswith(f"openai/m @ {server.url[7:]} answers in ")
    assert len(server.calls) == 2
    assert all(call.body["max_tokens"] == ANSWER_TOKENS for call in server.calls)


@pytest.mark.parametrize(
    ("status", "error", "mark", "text"),
    [
        (401, "invalid_api_key", "FAIL", "provider_refused_key (HTTP status 401): check the key"),
        (404, "model_not_found", "FAIL", "provider_unknown_model (HTTP status 404): check the name of the model"),
        (402, "insufficient_quota", "FAIL", "provider_quota (HTTP status 402): add credit"),
        (429, "rate_limit_error", "WARN", "provider_rate_limited (HTTP status 429): try again later"),
        (500, "api_error", "FAIL", "provider_error (HTTP status 500): try again later"),
    ],
)
async def test_failure_says_what_to_do(server: ProviderServer, status: int, error: str, mark: str, text: str) -> None:
    server.scenario = Scenario(status=status, error=error)
    (result,) = await checked(target(server))
    assert result.mark == mark
    assert result.text.startswith(f"openai/m @ {server.url[7:]}: {text}")


async def test_silent_and_missing_targets_fail(server: ProviderServer) -> None:
    server.scenario = Scenario(wait=30)
    (silent,) = await checked(target(server), timeout_s=0.2)
    assert silent == (
        "default",
        "FAIL",
        f"openai/m @ {server.url[7:]}: no answer within 0.2 s; " + silent.text.partition("; ")[2],
    )
    (unreachable,) = await checked(Target("openai", "m", base_url="http://127.0.0.1:1/v1"))
    assert "provider_unreachable: check the address" in unreachable.text
    (missing,) = await checked(target(server, key="NO_SUCH_KEY"))
    assert missing == ("default", "FAIL", "key NO_SUCH_KEY: it is empty or not set")


def test_doctor_calls_providers_on_demand(server: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"default": {"target": "openai/m", "base_url": f"{server.url}/v1", "key": "MY_KEY"}}
    parse_models(models)
    monkeypatch.setenv("TOKENWIRE_MODELS", json.dumps(models))
    without = CliRunner().invoke(main, ["doctor"])
    assert server.calls == []
    assert "provider default" not in without.output
    found = CliRunner().invoke(main, ["doctor", "--providers"])
    assert "ok    model default: openai/m" in found.output
    assert f"ok    provider default: openai/m @ {server.url[7:]} answers in" in found.output
    assert "sk-1" not in found.output
    monkeypatch.setenv("MY_KEY", "sk\n1")
    refused = CliRunner().invoke(main, ["doctor"])
    assert refused.exit_code == 1
    assert "FAIL  model default: openai/m: key MY_KEY: character 3 of 4 is U+000A" in refused.output
    monkeypatch.setenv("MY_KEY", "sk-1")
    monkeypatch.setenv("ALL_PROXY", "socks5://me:secret@127.0.0.1:1080")
    proxied = CliRunner().invoke(main, ["doctor"])
    assert "FAIL  proxy: ALL_PROXY is not the address of an HTTP proxy" in proxied.output
    assert "secret" not in proxied.output


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("http://proxy:3128", True),
        ("proxy:3128", True),
        ("https://me:pw@proxy", True),
        ("", True),
        ("socks5://127.0.0.1:1080", False),
        ("ftp://proxy", False),
        ("http://proxy:port", False),
        ("http://", False),
        (" http://proxy:3128", False),
        ("http://[::1", False),
    ],
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_proxy_variable_that_cannot_be_used_is_named(name: str, value: str, *, good: bool) -> None:
    problem = proxy_problem({name: value})
    assert (problem is None) is good
    if problem is not None:
        assert problem.startswith(f"{name} is not the address")


def test_worker_names_a_proxy_variable_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(ValueError, match="HTTPS_PROXY is not the address"):
        connect("openai/m", demo_rate=0)
