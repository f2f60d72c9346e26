"""Targets of model aliases: which model of which server answers, and with which parameters.

An alias leads to one target or to a list of them, in order of preference, or to an object with `targets` and timeouts.
A target is `provider/model`, or an object with the fields of `Target`. A core module: it reads no file and no
environment variable.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.streams.durations import parse_duration

PROVIDERS: Final = ("demo", "openai", "anthropic", "python")
REMOTE: Final = ("openai", "anthropic")
"""Providers that call a server."""

MAX_TARGETS: Final = 16
"""Of one alias: each may be called for one answer."""

_MAX_TIMEOUT_S: Final = 30 * 86_400.0

MIN_THINKING_TOKENS: Final = 1024
"""Anthropic rejects a smaller budget."""

DEFAULT_MODELS: Final = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6-luna"}
"""The model of a provider that has a key, where no alias is configured. Makers retire models, with months of notice."""

DEFAULT_MODELS_CHECKED: Final = "2026-11-28"
"""The date on which both names were compared with the makers' SDKs: listed there, and not announced to retire."""

OWN_FIELDS: Final = frozenset({"model", "messages", "stream", "system"})
"""Fields of a request that `extra_body` cannot replace."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_LIMIT_NAMES: Final = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Target:
    """One model of one server. A field that is None is left to the provider."""

    provider: str
    model: str = ""
    base_url: str | None = None
    key: str | None = None
    """`@FILE`, or the name of an environment variable; never the key."""
    prefill: bool = False
    """Whether the model continues an answer that is the last message of a request."""
    temperature: float | None = None
    effort: str | None = None
    thinking: int | bool | None = None
    """Tokens that the model may think, True to let the model decide, False for none."""
    max_tokens: int | None = None
    """The limit of an answer for which the client sets none."""
    prompt_caching: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    max_tokens_name: str | None = None
    stream_options: bool | None = None

    @property
    def name(self) -> str:
        """`provider/model`."""
        return f"{self.provider}/{self.model}" if self.model else self.provider


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of one alias, instead of the settings of the same names; None: the setting holds."""

    queue_timeout: float | None = None
    first_timeout: float | None = None
    idle_timeout: float | None = None
    answer_timeout: float | None = None


TIMEOUTS: Final = tuple(each.name for each in dataclasses.fields(Timeouts))


def parse_models(models: Any) -> dict[str, tuple[Target, ...]]:
    """Return the targets of each alias; raise ValueError, which names the alias and the field."""
    if not isinstance(models, Mapping) or not models:
        raise ValueError('not a JSON object of aliases, such as {"default": "demo"}')
    parse_timeouts(models)
    targets = {alias: parse_targets(alias, value) for alias, value in models.items()}
    if "default" not in targets:
        raise ValueError(
            f'no alias "default", which clients use: {{"default": "{next(iter(targets.values()))[0].name}", ...}}'
        )
    return targets


def parse_timeouts(models: Mapping[str, Any]) -> dict[str, Timeouts]:
    """Return the timeouts of each alias that has its own; raise ValueError, which names the alias and the field."""
    found = {}
    for alias, value in models.items():
        if not isinstance(value, Mapping) or "targets" not in value:
            continue
        given = {name: parse_duration(each) for name, each in value.items() if name != "targets" and each is not None}
        for name, seconds in given.items():
            if name not in TIMEOUTS:
                raise ValueError(
                    f"alias {alias!r}: {name!r} is not a field beside targets; the fields are {', '.join(TIMEOUTS)}"
                )
            if _number(0, _MAX_TIMEOUT_S, seconds) or not seconds:
                raise ValueError(f"alias {alias!r}: {name!r} is a duration such as 30s, at most 30d")
        found[alias] = Timeouts(**given)
    return found


def parse_targets(alias: str, value: Any) -> tuple[Target, ...]:
    """Return the targets of one alias, in order of preference; raise ValueError."""
    if isinstance(value, Mapping) and "targets" in value:
        value = value["targets"]
    if not isinstance(value, list | tuple):
        return (_parse(f"alias {alias!r}", value),)
    if not 1 <= len(value) <= MAX_TARGETS:
        raise ValueError(f"alias {alias!r}: a list has 1 to {MAX_TARGETS} targets, not {len(value)}")
    return tuple(_parse(f"alias {alias!r}, target {number}", item) for number, item in enumerate(value, 1))


def _parse(where: str, value: Any) -> Target:
    if isinstance(value, str):
        return _named(where, value)
    if not isinstance(value, Mapping):
        raise ValueError(f'{where}: write "provider/model", or an object with a "target"')
    fields = dict(value)
    name = fields.pop("target", None)
    if not isinstance(name, str):
        raise ValueError(f'{where}: "target" is missing: write {{"target": "provider/model", ...}}')
    target = _named(where, name)
    if misplaced := [each for each in fields if each in TIMEOUTS]:
        raise ValueError(
            f'{where}: {misplaced[0]!r} belongs beside "targets": {{"targets": ..., "{misplaced[0]}": ...}}'
        )
    if fields and target.provider not in REMOTE:
        raise ValueError(f"{where}: {next(iter(fields))!r} applies to openai and anthropic only, not to {name!r}")
    if unknown := [each for each in fields if each not in _CHECKS]:
        raise ValueError(f"{where}: {unknown[0]!r} is not a field of a target; the fields are {', '.join(_CHECKS)}")
    for each, given in fields.items():
        # The value is not quoted: it may be a key.
        if given is not None and (problem := _CHECKS[each](given)):
            raise ValueError(f"{where}: {each!r} {problem}")
    fields = {each: given for each, given in fields.items() if given is not None}
    for provider, own in _ONLY.items():
        if provider != target.provider and (foreign := own & fields.keys()):
            raise ValueError(f"{where}: {min(foreign)!r} applies to {provider} only")
    return dataclasses.replace(target, **fields)


def _named(where: str, name: str) -> Target:
    provider, _, model = name.partition("/")
    if provider not in PROVIDERS:
        raise ValueError(
            f"{where}: {name!r} is not a target: use demo, openai/MODEL, anthropic/MODEL, python/MODULE:NAME"
        )
    if not model and provider != "demo":
        raise ValueError(f"{where}: {name!r} names no model: write {provider}/MODEL")
    return Target(provider, model)


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "is true or false"


def _address(value: Any) -> str:
    problem = "is an address such as https://api.example.com/v1"
    if not isinstance(value, str):
        return problem
    try:
        address = urlsplit(value)
        # The port is parsed here.
        _ = address.port
    except ValueError:
        return problem
    if address.scheme not in ("http", "https") or not address.hostname or value != value.strip():
        return problem
    return (
        "contains a user or password: put the key into a file and its name into `key`" if "@" in address.netloc else ""
    )


def _key(value: Any) -> str:
    if isinstance(value, str) and ((len(value) > 1 and value[0] == "@") or _VARIABLE.fullmatch(value)):
        return ""
    return "is @FILE or the name of an environment variable, never the key itself"


def _number(low: float, high: float, value: Any) -> str:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return "" if good and low <= value <= high else f"is a number from {low:g} to {high:g}"


def _effort(value: Any) -> str:
    return "" if value in _EFFORTS else f"is one of {', '.join(_EFFORTS)}"


def _thinking(value: Any) -> str:
    if isinstance(value, bool) or (isinstance(value, int) and value >= MIN_THINKING_TOKENS):
        return ""
    return f"is true, false or a number of tokens from {MIN_THINKING_TOKENS}"


def _tokens(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else "is a whole number from 1"


def _body(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "is an object of further fields of the request"
    return f"cannot contain {min(taken)!r}, which the worker sets" if (taken := OWN_FIELDS & value.keys()) else ""


def _limit_name(value: Any) -> str:
    return "" if value in _LIMIT_NAMES else f"is {' or '.join(_LIMIT_NAMES)}"


_CHECKS: Final = {
    "base_url": _address,
    "key": _key,
    "prefill": _flag,
    "temperature": lambda value: _number(0, 2, value),
    "effort": _effort,
    "thinking": _thinking,
    "max_tokens": _tokens,
    "prompt_caching": _flag,
    "extra_body": _body,
    "max_tokens_name": _limit_name,
    "stream_options": _flag,
}
_ONLY: Final = {
    "openai": frozenset({"max_tokens_name", "stream_options"}),
    "anthropic": frozenset({"thinking", "prompt_caching"}),
}
"""Fields that one provider has."""
