"""Settings: an error names the setting, the value seen and what is allowed, and never shows a secret."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from gateway.cli.settings import Settings, load
from gateway.settings import GatewaySettings
from gateway.streams.settings import (
    SettingsError,
    StoreSettings,
    effective,
    holds_password,
    without_password,
)
from gateway.streams.settings import unknown as unknown_settings
from gateway.streams.targets import Timeouts
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECRET = "s3cret-of-at-least-thirty-two-bytes"
PASSWORD = "hunter2-the-password"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("TOKENWIRE_", "OPENAI_", "ANTHROPIC_")):
            monkeypatch.delenv(name)


def unknown(environment: Mapping[str, str]) -> dict[str, str | None]:
    return unknown_settings(environment, Settings.model_fields)


def refused(**given: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(given)
    return str(caught.value)


def test_defaults_listen_on_loopback_with_a_memory_store() -> None:
    settings = load({})
    assert (settings.store, settings.host, settings.port) == ("memory://", "127.0.0.1", 8000)
    assert settings.loopback
    assert settings.key is None


def test_an_option_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENWIRE_PORT", "9000")
    assert load({}).port == 9000
    assert load({"port": "9001"}).port == 9001


WRONG = [
    ("port", "x", "integer"),
    ("port", "", "integer"),
    ("port", "-1", "greater than or equal to 0"),
    ("port", "65536", "less than or equal to 65535"),
    ("processes", "0", "greater than or equal to 1"),
    ("processes", "257", "less than or equal to 256"),
    ("auth", "basic", "'none' or 'jwt'"),
    ("hosts", "a.com,b.com/c", "'b.com/c' is no host name such as chat.example.com"),
    ("origins", "https://a.com,b.com", "'b.com' is no origin such as https://example.com"),
    ("origins", "null", "no origin such as"),
    ("sockets_per_subject", "-1", "greater than or equal to 0"),
    ("sockets_per_address", "0", "greater than or equal to 1"),
    ("open_per_subject", "-1", "greater than or equal to 0"),
    ("daily_per_subject", "-1", "greater than or equal to 0"),
    ("daily_per_conversation", "-1", "greater than or equal to 0"),
    ("sockets", "0", "greater than or equal to 1"),
    ("accepts", "-1", "greater than or equal to 0"),
    ("requests", "-1", "greater than or equal to 0"),
    ("queue_timeout", "0", "greater than or equal to 1"),
    ("answer_timeout", "0", "greater than 0"),
    ("notice", "-1", "greater than or equal to 0"),
    ("models", "demo", "not JSON"),
    ("models", "{}", 'such as {"default": "demo"}'),
    ("models", '["demo"]', 'such as {"default": "demo"}'),
    ("models", '{"default": 1}', "alias 'default': write"),
    ("models", '{"fast": "demo"}', 'no alias "default"'),
    ("proxies", "proxy.example", "no IP address or network"),
    ("proxies", "10.0.0.5/8", "no IP address or network"),
    ("demo_rate", "-1", "greater than or equal to 0"),
    ("demo_rate", "inf", "finite"),
    ("lease", "0.1", "greater than 0.1"),
    ("lease", "nan", "finite"),
    ("lease", "5 parsecs", "number"),
    ("attempts", "0", "greater than or equal to 1"),
    ("attempts", "1001", "less than or equal to 1000"),
    ("recovery", "resume", "'restart' or 'continue'"),
    ("concurrency", "0", "greater than or equal to 1"),
    ("window", "2", "less than or equal to 1"),
    ("window", "nan", "finite"),
    ("patience", "-1", "greater than or equal to 0"),
    ("store_patience", "0", "greater than or equal to 1"),
    ("calls", "0", "greater than or equal to 1"),
    ("call_tokens", "-1", "greater than or equal to 0"),
    ("first_timeout", "0", "greater than 0"),
    ("idle_timeout", "0", "greater than 0"),
    ("longest", "999", "greater than or equal to 1000"),
    ("context", "999", "greater than or equal to 1000"),
    ("retention", "59", "greater than or equal to 60"),
    ("retention", "inf", "finite"),
    ("history", "59", "greater than or equal to 60"),
    ("drain", "-1", "greater than or equal to 0"),
    ("memory", "15", "greater than or equal to 16"),
    ("metrics_port", "65536", "less than or equal to 65535"),
    ("log_format", "xml", "'text' or 'json'"),
    ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
@pytest.mark.parametrize("source", ["environment", "lower-case environment", "option"])
def test_a_wrong_value_is_named_with_the_allowed_values(
    name: str, value: str, allowed: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}
    if source == "option":
        given[name] = value
    else:
        variable = f"TOKENWIRE_{name.upper()}"
        monkeypatch.setenv(variable if source == "environment" else variable.lower(), value)
    message = refused(**given)
    assert f"TOKENWIRE_{name.upper()}={value!r}: " in message
    assert allowed in message


def test_every_setting_has_a_wrong_value_above() -> None:
    anything_goes = {"store", "host", "jwt_key", "jwt_audience", "jwt_issuer", "metrics_host", "operator_token"}
    assert {name for name, _, _ in WRONG} == set(Settings.model_fields) - anything_goes


def test_a_short_operator_token_is_refused_and_not_shown() -> None:
    message = refused(operator_token="guess-me-please")
    assert message == "TOKENWIRE_OPERATOR_TOKEN: the token has fewer than 16 bytes"
    token = load({"operator_token": "guess-me-if-you-can"}).operator_token
    assert token is not None
    assert "guess" not in repr(token)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TOKENWIRE_JWTKEY", "TOKENWIRE_JWT_KEY"),
        ("TOKENWIRE_ORIGIN", "TOKENWIRE_ORIGINS"),
        ("tokenwire_stor", "TOKENWIRE_STORE"),
        ("TOKENWIRE_LOGLEVEL", "TOKENWIRE_LOG_LEVEL"),
    ],
)
def test_a_misspelled_variable_is_refused_with_a_suggestion(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "its-value")
    assert refused() == f"{variable} is not a setting: did you mean {meant}?"


@pytest.mark.parametrize(
    "variable",
    [
        "TOKENWIRE_SERVICE_HOST",
        "TOKENWIRE_SERVICE_PORT_HTTP",
        "TOKENWIRE_GATEWAY_PORT",
        "TOKENWIRE_METRICS_PORT_9100_TCP_ADDR",
        "TOKENWIRE_ELSEWHERE",
    ],
)
def test_a_foreign_variable_does_not_stop_the_start(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "tcp://10.0.0.1:8000")
    load({})
    # Variables that Kubernetes sets are not reported at all.
    assert unknown(os.environ) == ({variable: None} if variable.endswith("ELSEWHERE") else {})


def test_a_port_set_by_kubernetes_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENWIRE_PORT", "tcp://10.0.0.1:8000")
    assert "enableServiceLinks: false" in refused()


def test_effective_settings_name_their_source_and_mask_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENWIRE_STORE", "redis://me:pa/ss@w0rd@example.com:6379/1?password=w0rd")
    monkeypatch.setenv("tokenwire_lease", "2.5")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:w0rd@example.com/v1")
    monkeypatch.setenv("TOKENWIRE_ORIGINS", "https://a.example,https://b.example")
    given = {"jwt_key": SECRET, "port": "9000", "models": '{"default": "demo"}'}
    rows = effective(load(given), given, os.environ)
    shown = {row.name: (row.value, row.source) for row in rows}
    assert [row.name for row in rows][: len(Settings.model_fields)] == [
        f"TOKENWIRE_{name.upper()}" for name in Settings.model_fields
    ]
    assert shown["TOKENWIRE_STORE"] == ("redis://********@example.com:6379/1?********", "environment")
    assert shown["TOKENWIRE_LEASE"] == ("2500ms", "environment")
    assert shown["TOKENWIRE_JWT_KEY"] == ("********", "option")
    assert shown["TOKENWIRE_PORT"] == ("9000", "option")
    assert shown["TOKENWIRE_MODELS"] == ('{"default": "demo"}', "option")
    assert shown["TOKENWIRE_ORIGINS"] == ("https://a.example,https://b.example", "environment")
    assert shown["TOKENWIRE_MEMORY"] == ("256", "default")
    assert shown["TOKENWIRE_OPERATOR_TOKEN"] == ("-", "default")
    assert shown["OPENAI_API_KEY"] == ("********", "environment")
    assert shown["OPENAI_BASE_URL"] == ("https://********@example.com/v1", "environment")
    assert not any(secret in str(rows) for secret in ("w0rd", "pa/ss", "planted", SECRET))


@pytest.mark.parametrize("address", ["memory://", "unix:///run/valkey.sock", "redis://127.0.0.1:6379/0"])
def test_an_address_without_a_password_is_shown_unchanged(address: str) -> None:
    assert without_password(address) == address


def test_a_text_that_is_no_address_is_masked() -> None:
    assert without_password("hunter2") == "********"


def test_every_wrong_value_is_named() -> None:
    message = refused(port="x", lease="0", host="0.0.0.0")
    assert {line.partition("=")[0] for line in message.splitlines()} == {"TOKENWIRE_PORT", "TOKENWIRE_LEASE"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.com", "localhost.example.com"])
def test_a_public_host_needs_a_key_or_auth_none(host: str) -> None:
    message = refused(host=host)
    assert f"TOKENWIRE_HOST={host!r}" in message
    assert "TOKENWIRE_JWT_KEY" in message
    assert "TOKENWIRE_AUTH=none" in message
    assert load({"host": host, "auth": "none"}).key is None
    assert load({"host": host, "jwt_key": SECRET}).key == SECRET
    assert load({"host": host, "auth": "jwt", "jwt_key": SECRET}).key == SECRET


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loopback_host_needs_no_key(host: str) -> None:
    assert load({"host": host}).loopback


def test_a_weak_secret_is_tolerated_on_loopback_only() -> None:
    assert load({"jwt_key": "k" * 48, "host": "127.0.0.1"}).key == "k" * 48
    assert "different characters" in refused(jwt_key="k" * 48, host="0.0.0.0")


def test_provider_keys_are_cleaned_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\n")
    load({})
    assert os.environ["OPENAI_API_KEY"] == "sk-one"
    monkeypatch.setenv("OPENAI_API_KEY", "@/nowhere")
    assert "OPENAI_API_KEY=@/nowhere: the file cannot be read" in refused()
    monkeypatch.setenv("OPENAI_API_KEY", "sk\n-two")
    assert refused().startswith("OPENAI_API_KEY: character 3")


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("redis://127.0.0.1:6379/0", False),
        ("redis://:secret@127.0.0.1/0", True),
        ("redis://user@127.0.0.1/0", True),
        ("sentinel://a:1,b:1/name?sentinel_username=n&sentinel_password=p", True),
        ("rediss://127.0.0.1?ssl_ca_certs=/ca.pem", False),
        ("localhost:6379", False),
        ("memory://", False),
    ],
)
def test_a_store_address_with_a_password_is_recognized(address: str, holds: bool) -> None:
    assert holds_password(address) is holds


def test_a_key_requires_tokens_unless_auth_is_none() -> None:
    assert load({"jwt_key": SECRET}).key == SECRET
    assert load({"jwt_key": SECRET, "auth": "none"}).key is None


def test_auth_jwt_without_a_key_is_refused() -> None:
    assert refused(auth="jwt") == "TOKENWIRE_AUTH=jwt needs TOKENWIRE_JWT_KEY"


ED25519 = (
    ed25519.Ed25519PrivateKey.generate()
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "fewer than 32 bytes"),
        ("too-short-a-secret", "fewer than 32 bytes"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n", "openssl pkey -pubout"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n", "not a public key in PEM form"),
        (ED25519, "neither an RSA nor an elliptic-curve key"),
        ("@/nowhere/key.pem", "the file cannot be read (No such file or directory)"),
        ("@\x00", "null byte"),
    ],
)
def test_an_unusable_key_is_refused_and_not_shown(key: str, why: str) -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        message = refused(jwt_key=key, host=host)
        assert message.startswith("TOKENWIRE_JWT_KEY: ")
        assert why in message
        assert not key or key not in message


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    assert load({"jwt_key": f"@{file}"}).key == SECRET


def test_no_repr_holds_a_secret() -> None:
    settings = load({"jwt_key": SECRET, "store": f"redis://:{PASSWORD}@db:6379"})
    for shown in (repr(settings), str(settings), f"{settings}", repr(settings.jwt_key)):
        assert SECRET not in shown
        assert PASSWORD not in shown


@pytest.mark.parametrize(
    "given", [{"port": "x"}, {"jwt_key": "@" + SECRET}, {"store": [PASSWORD]}, {"jwt_key": [SECRET]}]
)
def test_no_error_holds_a_secret(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENWIRE_JWT_KEY", SECRET)
    monkeypatch.setenv("TOKENWIRE_STORE", f"redis://:{PASSWORD}@db:6379")
    with pytest.raises(SettingsError) as caught:
        load(given)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert PASSWORD not in shown
    with pytest.raises(ValidationError) as raw:
        Settings(**given)
    assert SECRET not in str(raw.value)
    assert PASSWORD not in str(raw.value)


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError):
        load({}).port = 1


def test_hosts_are_a_list() -> None:
    assert load({"hosts": " a.com, b.com:80 ,[::2]"}).hosts == ("a.com", "b.com:80", "[::2]")
    assert load({"hosts": ("a.com",)}).hosts == ("a.com",)
    assert load({"hosts": ""}).hosts == ()


def test_origins_are_normalized() -> None:
    assert load({"origins": " HTTPS://A.com:443 , http://b.com:80,http://c.com:8080,* "}).origins == (
        "https://a.com",
        "http://b.com",
        "http://c.com:8080",
        "*",
    )
    assert load({"origins": ""}).origins == ()
    assert load({"origins": ("https://a.com",)}).origins == ("https://a.com",)


def test_targets_default_to_the_providers_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load({"models": '{"default": "openai/gpt-4o-mini"}'}).targets() == {"default": "openai/gpt-4o-mini"}
    assert load({"models": {"default": "python/a:b"}}).targets() == {"default": "python/a:b"}
    assert load({}).targets() == {"demo": "demo", "default": "demo"}
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    anthropic = load({}).targets()
    assert anthropic["default"] == anthropic["anthropic"]
    assert anthropic["default"].startswith("anthropic/")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1234/v1")
    openai = load({}).targets()
    assert openai["default"] == openai["openai"]
    assert set(openai) == {"demo", "anthropic", "openai", "default"}


def test_history_is_kept_at_least_as_long_as_logs() -> None:
    lifetimes = load({"retention": "3600", "history": "60"}).lifetimes
    assert (lifetimes.log, lifetimes.conversation, lifetimes.submission) == (3600, 3600, 86_400)
    assert load({"retention": "60", "history": "3600"}).lifetimes.conversation == 3600
    assert load({"retention": "60"}).lifetimes.submission == 86_400


def test_a_setting_that_is_a_duration_may_have_a_unit() -> None:
    assert load({"history": "30d"}).history == 30 * 86_400


def test_timeouts_of_an_alias_are_read() -> None:
    models = '{"default": {"targets": "demo", "queue_timeout": "90s"}}'
    assert load({"models": models}).timeouts() == {"default": Timeouts(queue_timeout=90.0)}
    assert load({}).timeouts() == {}


def test_top_and_tail_have_only_the_settings_of_the_store_and_the_log() -> None:
    assert set(StoreSettings.model_fields) == {"store", "log_level", "log_format"}


def test_gateway_and_worker_share_only_the_process_settings() -> None:
    shared = set(GatewaySettings.model_fields) & set(WorkerSettings.model_fields)
    assert shared == {
        *("store", "retention", "history", "log_level", "log_format"),
        *("models", "lease", "host", "drain", "metrics_port", "metrics_host"),
    }
    assert set(Settings.model_fields) == set(GatewaySettings.model_fields) | set(WorkerSettings.model_fields)


def test_white_space_around_secrets_is_dropped() -> None:
    settings = load({"store": "memory://\n", "jwt_key": f" {SECRET}\r\n", "operator_token": f"{SECRET}\n"})
    assert settings.store == "memory://"
    assert settings.key == SECRET
    assert settings.operator_token is not None
    assert settings.operator_token.get_secret_value() == SECRET
