"""Every setting: an environment variable `TOKENWIRE_<NAME>`, and a command line option of the same name."""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.auth import Authenticator, KeyUnusableError, normal_origin
from gateway.streams.store.store import Lifetimes

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_TOKEN: Final = 16
SECRET: Final = ("jwt_key", "operator_token", "store")
"""Settings whose values are never shown: a key, and an address that may hold a password."""


class SettingsError(ValueError):
    """A setting is wrong; the message names it, the value seen and what is allowed."""


class Settings(BaseSettings):
    """The settings of one process. A field's description is its documentation, on the command line too."""

    model_config = SettingsConfigDict(
        env_prefix="TOKENWIRE_",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    store: str = Field(
        "memory://",
        repr=False,
        description="memory://, embedded://[FOLDER], redis://, unix://, sentinel:// or cluster://",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    processes: int = Field(1, ge=1, le=256, description="processes of one gateway that share its port")
    auth: Literal["none", "jwt"] | None = Field(
        None, description="none or jwt; unset: jwt where there is a key, none on a loopback address, else refused"
    )
    jwt_key: SecretStr | None = Field(
        None, description="secret (HS256) or public key in PEM form (RS256, ES256) that verifies tokens; @FILE reads it"
    )
    jwt_audience: str | None = Field(None, description="audience that tokens must name; unset: any")
    origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins of the web pages that may connect, with commas between; * for every page"
    )
    proxies: str = Field(
        "", description="addresses of the proxies whose X-Forwarded-For is believed, with commas between"
    )
    sockets_per_address: int | None = Field(
        None, ge=1, description="connections from one address; unset: 256, and no limit for loopback addresses"
    )
    sockets: int | None = Field(
        None,
        ge=1,
        description="connections of one gateway process; unset: as many files as it may open, less 64",
    )
    accepts: int = Field(
        1000, ge=0, description="connections a second that one gateway process lets in; 0 for as many as come"
    )
    models: Annotated[dict[str, str] | None, NoDecode] = Field(
        None,
        description='JSON, alias to provider/model: {"default": "demo", "fast": "openai/gpt-4o-mini"}; unset: by keys',
    )
    demo_rate: float = Field(40.0, ge=0, description="tokens a second of the demo provider; 0 for as fast as it can")
    lease: float = Field(5.0, gt=0.1, description="seconds that a silent worker keeps its job")
    attempts: int = Field(3, ge=1, le=1000, description="workers that may try one response before it fails")
    recovery: Literal["restart", "continue"] = Field(
        "restart", description="what a new attempt does with the text of a dead worker: begin anew, or go on from it"
    )
    concurrency: int = Field(300, ge=1, description="responses that one worker generates at once")
    window: float = Field(0.025, ge=0, le=1, description="seconds for which tokens after the first are gathered")
    patience: float = Field(60.0, ge=0, description="seconds for which a provider that refuses is asked again")
    first_timeout: float = Field(120.0, gt=0, description="seconds that a provider may take to its first token")
    idle_timeout: float = Field(60.0, gt=0, description="seconds that a provider may be silent between tokens")
    longest: int = Field(1_000_000, ge=1000, description="bytes after which a response is cut off")
    context: int = Field(100_000, ge=1000, description="characters of history that go to the provider at the most")
    retention: float = Field(86_400.0, ge=60, description="seconds that a log is kept after its end: the resume window")
    history: float = Field(
        30 * 86_400.0, ge=60, description="seconds that a conversation is kept after its last change"
    )
    drain: float = Field(
        30.0,
        ge=0,
        description="seconds that a process takes to leave when told to: a worker's running responses get them to "
        "finish, a gateway's clients to move",
    )
    notice: float = Field(
        5.0,
        ge=0,
        description="of these, half of them at the most, those in which a leaving gateway only says so at /readyz",
    )
    memory: int = Field(256, ge=16, description="MiB of unwatched logs that a gateway keeps in memory at the most")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="a second port, with /metrics, /healthz and /readyz for operators, also of a worker; the processes "
        "of one gateway take one after the other from it on",
    )
    metrics_host: str | None = Field(None, description="address of it; unset: that of TOKENWIRE_HOST")
    operator_token: SecretStr | None = Field(
        None,
        description="what operators show as a bearer token for /live, and for /metrics from elsewhere; @FILE reads it; "
        "unset: neither",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity that is logged")
    log_format: Literal["text", "json"] = Field(
        "text", description="a line for people, or a JSON object, for each event"
    )

    @field_validator("origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        origins = [item.strip() for item in value.split(",") if item.strip()]
        normal = [item if item == "*" else normal_origin(item) for item in origins]
        if None in normal:
            raise ValueError(f"{origins[normal.index(None)]!r} is no origin such as https://example.com")
        return tuple(normal)

    @field_validator("models", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            models = json.loads(value)
        except ValueError as error:
            raise ValueError(f"not JSON ({error})") from error
        if not isinstance(models, dict) or not models:
            raise ValueError('not a JSON object of aliases, such as {"default": "demo"}')
        return models

    @field_validator("jwt_key", "operator_token", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            try:
                return Path(value[1:]).read_text().strip()
            except OSError as error:
                raise ValueError(f"the file can not be read ({error.strerror})") from error
        return value

    @field_validator("operator_token")
    @classmethod
    def _hard_to_guess(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < MIN_TOKEN:
            raise ValueError(f"the token has fewer than {MIN_TOKEN} bytes")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.auth == "jwt" and self.jwt_key is None:
            raise ValueError("TOKENWIRE_AUTH=jwt needs TOKENWIRE_JWT_KEY")
        try:
            Authenticator(self.key)
        except KeyUnusableError as error:
            raise ValueError(f"TOKENWIRE_JWT_KEY: {error}") from error
        if self.auth is None and self.jwt_key is None and not self.loopback:
            raise ValueError(
                f"TOKENWIRE_HOST={self.host!r} can be reached by others: set TOKENWIRE_JWT_KEY, "
                "or TOKENWIRE_AUTH=none to let everybody in"
            )
        return self

    @property
    def loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def key(self) -> str | None:
        """The key that verifies tokens; None lets everybody in."""
        return self.jwt_key.get_secret_value() if self.jwt_key is not None and self.auth != "none" else None

    @property
    def lifetimes(self) -> Lifetimes:
        """How long the store keeps things."""
        return Lifetimes(self.retention, max(self.history, self.retention), self.retention)

    def targets(self) -> dict[str, str]:
        """The worker's aliases: those configured, or the demo and each provider that has a key."""
        if self.models is not None:
            return dict(self.models)
        found = {"demo": "demo"}
        if os.environ.get("ANTHROPIC_API_KEY"):
            found["anthropic"] = "anthropic/claude-sonnet-4-5"
        if os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"):
            found["openai"] = "openai/gpt-4o-mini"
        found["default"] = found.get("openai") or found.get("anthropic") or "demo"
        return found


PREFIX: Final = "TOKENWIRE_"
SERVICE_LINK: Final = re.compile(r".*(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT_\d+_(TCP|UDP)(_\w+)?)")
"""What Kubernetes puts into every container of a namespace that has a service whose name begins with tokenwire."""

CREDENTIALS: Final = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
"""What the SDKs of the providers read themselves."""

MASK: Final = "********"


class Effective(NamedTuple):
    """A setting in effect: its variable, its value fit to be shown, and `default`, `environment` or `option`."""

    name: str
    value: str
    source: str


def effective(settings: Settings, given: Mapping[str, Any], environment: Mapping[str, str]) -> list[Effective]:
    """Every setting; `given` are the options. Of secrets it is only shown that they are set."""
    there = {name.upper() for name in environment}
    found = []
    for name in Settings.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        source = "option" if name in given else "environment" if variable in there else "default"
        found.append(Effective(variable, _shown(name, getattr(settings, name)), source))
    there_too = {name: value for name in CREDENTIALS if (value := environment.get(name))}
    return found + [
        Effective(name, MASK if name.endswith("KEY") else without_password(value), "environment")
        for name, value in there_too.items()
    ]


def _shown(name: str, value: Any) -> str:
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
            return f"{value:g}"
        case _:
            return (without_password(value) if name == "store" else str(value)) or "-"


def without_password(address: str) -> str:
    """An address fit to be shown: whoever it names, and whatever follows a question mark, is masked."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return MASK
    place, question, _ = rest.partition("?")
    # A password may hold an @ or a slash that nobody has spelled as %XX.
    _, at, tail = place.rpartition("@")
    return f"{scheme}://{MASK + at if at else ''}{tail if at else place}{question and question + MASK}"


def unknown(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Variables of the environment that look like settings and are none, each with the setting that may be meant."""
    names = [name.upper() for name in Settings.model_fields]
    found: dict[str, str | None] = {}
    for variable, value in environment.items():
        name = variable.upper().removeprefix(PREFIX)
        if not variable.upper().startswith(PREFIX) or name in names:
            continue
        if SERVICE_LINK.fullmatch(variable.upper()) or (name.endswith("_PORT") and "://" in value):
            continue
        near = difflib.get_close_matches(name, names, 1, cutoff=0.75)
        found[variable] = f"{PREFIX}{near[0]}" if near else None
    return found


def load(given: dict[str, Any]) -> Settings:
    """Read the settings from the environment and from options, which win; raises SettingsError."""
    misspelled = [f"{name} is no setting: is {near} meant?" for name, near in unknown(os.environ).items() if near]
    if misspelled:
        # Not only a warning: a key that is not looked at is a door that stands open.
        raise SettingsError("\n".join(misspelled))
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"][:1])
            # The whole value, of which the input may be a part; the input, where the variable is in lower case.
            seen = given.get(name, os.environ.get(f"TOKENWIRE_{name.upper()}", problem["input"]))
            shown = "" if name in SECRET else f"={seen!r}"
            message = problem["msg"].removeprefix("Value error, ")
            if isinstance(seen, str) and name.endswith("port") and seen.startswith("tcp://"):
                message = (
                    "set by Kubernetes, for a service of this name: put enableServiceLinks: false into the pod's spec"
                )
            lines.append(f"TOKENWIRE_{name.upper()}{shown}: {message}" if name else message)
        raise SettingsError("\n".join(lines)) from None
