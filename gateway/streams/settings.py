"""Settings that gateways and workers share, and how every setting is read, checked and shown.

A setting is a field of a `BaseSettings` class, the environment variable `TOKENWIRE_<NAME>` and, unless it is a secret,
a command line option. Each process reads the class that it needs: `gateway.settings.GatewaySettings`,
`workers.settings.WorkerSettings`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.streams.credentials import ADDRESSES, KEYS, read_credentials, read_secret_file
from gateway.streams.durations import format_duration, parse_duration
from gateway.streams.store.store import Lifetimes
from gateway.streams.targets import DEFAULT_MODELS, Target, Timeouts, parse_models, parse_timeouts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX: Final = "TOKENWIRE_"
SECRETS: Final = ("jwt_key", "operator_token", "store")
"""Settings whose values are never shown: keys, and an address that may hold a password."""

MASK: Final = "********"

CREDENTIALS: Final = (*KEYS, *ADDRESSES)
"""Variables that the providers' SDKs read."""

SERVICE_LINK: Final = re.compile(r".*(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT_\d+_(TCP|UDP)(_\w+)?)")
"""Variables that Kubernetes adds to every container of a namespace with a service named `tokenwire...`."""


class SettingsError(ValueError):
    """A setting is wrong. The message names it, the value seen and the values allowed."""


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds, as a number or with a unit."""


class StoreSettings(BaseSettings):
    """What every command needs: the store, and the log output."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    store: str = Field(
        "memory://",
        repr=False,
        description="memory://, embedded://[FOLDER], redis://, unix://, sentinel:// or cluster://; @FILE reads it",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest severity that is logged"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="format of a log event: a text line or a JSON object"
    )

    @field_validator("store", mode="before")
    @classmethod
    def _read_store_file(cls, value: Any) -> Any:
        value = read_secret_file(value)
        # A line end from a console would become part of a database number or a password.
        return value.strip() if isinstance(value, str) else value


class ProcessSettings(StoreSettings):
    """What gateways and workers share."""

    retention: Duration = Field(86_400.0, ge=60, description="how long a log is kept after its end: the resume window")
    history: Duration = Field(30 * 86_400.0, ge=60, description="how long a conversation is kept after its last change")
    models: Annotated[dict[str, Any] | None, NoDecode] = Field(
        None,
        description='JSON object, alias to its targets: "provider/model", an object with parameters, or a list of both '
        'in order of preference: {"default": "demo", "fast": "openai/MODEL"}; {"targets": ...} adds timeouts; unset: '
        "the demo, and each provider that has a key",
    )
    lease: Duration = Field(
        5.0,
        gt=0.1,
        description="how long a silent worker keeps its job; the same for gateways, which show that one is silent",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    drain: Duration = Field(
        30.0,
        ge=0,
        description="graceful shutdown: how long a worker's running responses may take to finish, and over how long a "
        "gateway's clients are asked to reconnect",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="second port with /metrics, /healthz and /readyz, for operators; process N of --processes has the "
        "N-th port from this one",
    )
    metrics_host: str | None = Field(None, description="address of the metrics port; unset: TOKENWIRE_HOST")

    @field_validator("models", mode="before")
    @classmethod
    def _parse_models(cls, value: Any) -> Any:
        models = value
        if isinstance(value, str):
            try:
                models = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"not JSON ({error})") from error
        if value is not None:
            parse_models(models)
        return models

    @property
    def lifetimes(self) -> Lifetimes:
        """How long the store keeps logs, conversations and idempotency keys."""
        return Lifetimes(self.retention, max(self.history, self.retention))

    def targets(self) -> dict[str, str]:
        """Return alias to `provider/model`, for display; several are separated by commas."""
        return {alias: ", ".join(each.name for each in targets) for alias, targets in self.model_targets().items()}

    def model_targets(self) -> dict[str, tuple[Target, ...]]:
        """Return the targets of each alias: those configured, or the demo and each provider that has a key."""
        if self.models is not None:
            return parse_models(self.models)
        found: dict[str, tuple[Target, ...]] = {"demo": (Target("demo"),)}
        for provider in ("anthropic", "openai"):
            # Anthropic's address alone is no reason: tools of this machine set it too.
            names = (f"{provider.upper()}_API_KEY", *(("OPENAI_BASE_URL",) if provider == "openai" else ()))
            if any(os.environ.get(name) for name in names):
                found[provider] = found["default"] = (Target(provider, DEFAULT_MODELS[provider]),)
        found.setdefault("default", found["demo"])
        return found

    def timeouts(self) -> dict[str, Timeouts]:
        """Return the timeouts of each alias that has its own."""
        return parse_timeouts(self.models or {})


def is_secret(field: Any) -> bool:
    """Tell whether a field holds a secret, which is no command line option."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


class EffectiveSetting(NamedTuple):
    """A setting in effect: its variable, its value with secrets masked, and `default`, `environment` or `option`."""

    name: str
    value: str
    source: str


def effective(
    settings: BaseSettings, options: Mapping[str, Any], environment: Mapping[str, str]
) -> list[EffectiveSetting]:
    """Return every setting of a process, and the credentials of provider SDKs, with secrets masked."""
    variables = {name.upper() for name in environment}
    rows = []
    for name, field in type(settings).model_fields.items():
        variable = f"{PREFIX}{name.upper()}"
        source = "option" if name in options else "environment" if variable in variables else "default"
        rows.append(EffectiveSetting(variable, display(name, getattr(settings, name), is_duration(field)), source))
    credentials = {name: value for name in CREDENTIALS if (value := environment.get(name))}
    return rows + [
        EffectiveSetting(name, MASK if name.endswith("KEY") else without_password(value), "environment")
        for name, value in credentials.items()
    ]


def is_duration(field: Any) -> bool:
    """Tell whether a field holds seconds that may have a unit."""
    return any(isinstance(each, BeforeValidator) and each.func is parse_duration for each in field.metadata)


def display(name: str, value: Any, duration: bool = False) -> str:
    """Return a setting's value as text, with secrets masked; `-` where it is unset."""
    if value is None:
        return "-"
    if isinstance(value, SecretStr):
        return MASK
    match value:
        case dict():
            return json.dumps(value)
        case tuple():
            return ",".join(value) or "-"
        case float():
            return format_duration(value) if duration else f"{value:g}"
        case _:
            return (without_password(value) if name == "store" else str(value)) or "-"


def without_password(address: str) -> str:
    """Return an address with its user, password and query masked."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return MASK
    authority, question, _ = rest.partition("?")
    # A password may hold an @ or a slash that is not spelled as %XX.
    _, at, tail = authority.rpartition("@")
    return f"{scheme}://{MASK + at if at else ''}{tail if at else authority}{question and question + MASK}"


def holds_password(address: str) -> bool:
    """Tell whether an address names a user, or has a password in its query."""
    _, _, rest = address.partition("://")
    authority, _, query = rest.partition("?")
    return "@" in authority or "password=" in query


def unknown(environment: Mapping[str, str], names: Iterable[str]) -> dict[str, str | None]:
    """Return variables that start with TOKENWIRE_ and are no setting, each with the most similar setting, if any.

    `names` are the settings of all commands.
    """
    upper = [name.upper() for name in names]
    found: dict[str, str | None] = {}
    for variable, value in environment.items():
        name = variable.upper().removeprefix(PREFIX)
        if not variable.upper().startswith(PREFIX) or name in upper:
            continue
        if SERVICE_LINK.fullmatch(variable.upper()) or (name.endswith("_PORT") and "://" in value):
            continue
        near = difflib.get_close_matches(name, upper, 1, cutoff=0.75)
        found[variable] = f"{PREFIX}{near[0]}" if near else None
    return found


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def load(kind: type[AnySettings], options: Mapping[str, Any], names: Iterable[str]) -> AnySettings:
    """Return the settings from the environment and from options, which win.

    `names` are the settings of all commands. Raises SettingsError, which names every wrong setting.
    """
    misspelled = [
        f"{name} is not a setting: did you mean {near}?" for name, near in unknown(os.environ, names).items() if near
    ]
    if misspelled:
        # A warning is not enough: a misspelled TOKENWIRE_JWT_KEY would leave the gateway open.
        raise SettingsError("\n".join(misspelled))
    try:
        read_credentials(os.environ)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    try:
        return kind(**options)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"][:1])
            # The whole value, of which the input may be a part; the input, where the variable is in lower case.
            seen = options.get(name, os.environ.get(f"{PREFIX}{name.upper()}", problem["input"]))
            # A key that was written into a target instead of its file must not reach a log.
            shown = "" if name in SECRETS or (name == "models" and "key" in str(seen)) else f"={seen!r}"
            message = problem["msg"].removeprefix("Value error, ")
            if isinstance(seen, str) and name.endswith("port") and seen.startswith("tcp://"):
                message = (
                    "set by Kubernetes for a service of this name: put enableServiceLinks: false into the pod's spec"
                )
            lines.append(f"{PREFIX}{name.upper()}{shown}: {message}" if name else message)
        raise SettingsError("\n".join(lines)) from None
