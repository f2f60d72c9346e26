"""Optional parameters of a request, and what is sent instead where a server refuses one.

Compatible servers differ in the parameters that they know. What a target accepted after a refusal is remembered for
later requests. A core module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from workers.providers import failures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_REFUSALS: Final = 5
"""Of one request: each costs a round trip before the first token."""

MAX_LIMIT: Final = 1_000_000_000
"""Of tokens of an answer."""

MAX_REPLY: Final = 10_000
"""Characters of a reply that are searched for the name of a parameter."""

UNNAMED_STATUSES: Final = frozenset({400, 422})
"""A reply with one of these may mean a parameter that it does not name."""

NAMED_STATUSES: Final = UNNAMED_STATUSES | {404, 405, 415, 500, 501}


_NAME_REFUSED: Final = re.compile(
    r"unknown|unsupported|not supported|unrecognized|unexpected|extra|additional|not permitted|not allowed|deprecated",
    re.IGNORECASE,
)
"""In a reply that refuses the name of a parameter, not its value."""


@dataclass(frozen=True, slots=True)
class Option:
    """A parameter: the fields of the request in order of preference. An empty last variant leaves the parameter out."""

    name: str
    variants: tuple[Mapping[str, Any], ...]
    required: bool = False
    """Whether a request without it means something else, so that its omission is not remembered."""
    of_client: bool = False
    """Whether a client chose the value, which may be what is refused: that says nothing about other requests."""
    limit: int | None = None
    """The number that the fields limit tokens to, which a server may find too large."""


class Parameters:
    """What one target accepts: for each parameter the first variant that it did not refuse."""

    def __init__(self, target: str) -> None:
        """`target`: its name in logs."""
        self.target = target
        self._accepted: dict[str, int] = {}
        self._limits: dict[str, int] = {}

    def request(self, options: Sequence[Option]) -> Attempt:
        """Return the attempts at one request."""
        return Attempt(self, options, dict(self._accepted), dict(self._limits))

    def remember(self, name: str, variant: int) -> None:
        """Send this variant of a parameter from now on."""
        self._accepted[name] = variant

    def remember_limit(self, name: str, limit: int) -> None:
        """Send no larger number from now on."""
        self._limits[name] = limit


class Attempt:
    """One request, which is repeated while its parameters are refused."""

    def __init__(
        self, parameters: Parameters, options: Sequence[Option], variants: dict[str, int], limits: dict[str, int]
    ) -> None:
        self._parameters = parameters
        self._options = options
        self._variants = {
            option.name: min(variants.get(option.name, 0), len(option.variants) - 1) for option in options
        }
        self._limits = limits
        self._lasting: dict[str, int] = {}
        self._changed: set[str] = set()
        self._unclear: set[str] = set()
        """Changes that only this request may need."""
        self._refusals = 0
        self._dropped: set[bool] = set()
        """Whether all parameters of the operator (False) or of the client (True) were left out."""

    @property
    def target(self) -> str:
        """The name of the target in logs."""
        return self._parameters.target

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the request."""
        return {
            name: value if option.limit is None else self._limit(option)
            for option in self._options
            for name, value in option.variants[self._variants[option.name]].items()
        }

    def _limit(self, option: Option) -> int:
        return min(option.limit or 0, self._limits.get(option.name, MAX_LIMIT))

    def refused(self, status: int, body: Any) -> bool:
        """Change what a reply with this status refuses; return whether the request is to be sent again.

        A reply that names no parameter is followed by one request without optional ones; without the client's too only
        if that is refused as well.
        """
        self._refusals += 1
        if self._refusals > MAX_REFUSALS or status not in NAMED_STATUSES:
            return False
        text = _text(body)
        if self._limited(text):
            return True
        sent = [option for option in self._options if self._variants[option.name] < len(option.variants) - 1]
        places = {place: option for option in sent if (place := _place(text, option)) >= 0}
        # The first one: a reply may advise to use another one instead.
        refused = [places[min(places)]] if places else []
        if not refused:
            of_client = not any(not option.of_client for option in sent)
            if status not in UNNAMED_STATUSES or of_client in self._dropped or failures.is_specific(body):
                return False
            self._dropped.add(of_client)
            refused = [option for option in sent if option.of_client == of_client]
        for option in refused:
            variant = self._variants[option.name] = self._variants[option.name] + 1
            self._changed.add(option.name)
            if option.of_client and not (_NAME_REFUSED.search(text) or _names(text, option.variants[variant])):
                self._unclear.add(option.name)
        if True in self._dropped:
            # The client's value was the cause, and the parameters before it were left out in vain.
            self._unclear.update(self._changed)
        return bool(refused)

    def _limited(self, text: str) -> bool:
        """Lower a limit to the one that a reply names; return whether it does."""
        for option in self._options:
            # The last variant is empty, where a parameter may be left out.
            if option.limit is None or not option.variants[self._variants[option.name]] or _place(text, option) < 0:
                continue
            named, lasts = _named_limit(text, self._limit(option))
            if named:
                self._limits[option.name] = named
                if lasts and not option.of_client:
                    self._lasting[option.name] = named
                self._changed.add(option.name)
                return True
        return False

    def accepted(self) -> list[str]:
        """Remember what the server accepted after a refusal; return the parameters that changed."""
        changed = sorted(self._changed)
        self._changed.clear()
        for name, limit in self._lasting.items():
            self._parameters.remember_limit(name, limit)
        for option in self._options:
            variant = self._variants[option.name]
            known = option.name in changed and option.name not in self._unclear
            if known and not (option.required and not option.variants[variant]):
                self._parameters.remember(option.name, variant)
        return changed


def _text(body: Any) -> str:
    try:
        return str(body)[:MAX_REPLY]
    except RecursionError:
        return ""


def _place(text: str, option: Option) -> int:
    """Return where a reply names a field of any variant of a parameter, or one inside of it; -1 if it does not."""
    words = {option.name, *(word for variant in option.variants for word in _words(variant))}
    found = re.search(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(words)))})(?![\w-])", text)
    return found.start() if found else -1


def _names(text: str, variant: Mapping[str, Any]) -> bool:
    """Tell whether a reply names a field of a variant, as one that is to be used instead."""
    return any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) for word in _words(variant))


_EXCEEDED: Final = re.compile(r"(\d+) *\+ *(\d+) *> *(\d+)", re.ASCII)
_REST: Final = re.compile(r"> *(\d+) *- *(\d+)", re.ASCII)
_CONTEXT: Final = re.compile(
    r"(?:context|prompt|input)[ _-]?(?:length|limit|size|window|tokens?)\W{0,3}(?:is|of)?\W{0,3}\d",
    re.IGNORECASE | re.ASCII,
)
_LIMIT: Final = re.compile(
    r"(?:>=?|<=?|maximum|\bmax\b|at most|up to|no more than|limit|exceed|(?:less|smaller|lower) than"
    r"|(?:not be|is) greater than|between *\d+ *and|[\[(] *\d+ *,|from *\d+ *to)"
    r"(?:[^\d{}:]|(?<=limit):|(?<=maximum):){0,60}?(\d+)\b",
    re.IGNORECASE | re.ASCII,
)
_SEPARATED: Final = re.compile(r"(?<=\d)[,_](?=\d{3}\b)", re.ASCII)


def _named_limit(text: str, sent: int) -> tuple[int, bool]:
    """Return the limit below `sent` that a reply names, or 0; and whether it holds for other requests too."""
    text = _SEPARATED.sub("", text)
    for pattern, sign in ((_EXCEEDED, 1), (_REST, 0)):
        if found := pattern.search(text):
            numbers = [int(each) for each in found.groups()]
            rest = numbers[2] - numbers[0] if sign else numbers[0] - numbers[1]
            return (rest, False) if 0 < rest < sent else (0, False)
    if _CONTEXT.search(text):
        return 0, False
    limits = [int(each) for each in _LIMIT.findall(text) if len(each) < 10 and 0 < int(each) < sent]
    return max(limits, default=0), True


def _words(variant: Any) -> list[str]:
    if not isinstance(variant, dict):
        return []
    return [word for name, value in variant.items() for word in (name, *_words(value)) if word != "type"]


def option(name: str, *variants: Mapping[str, Any]) -> Option:
    """Return a parameter that is left out where every variant is refused."""
    return Option(name, (*variants, {}))


def openai(
    *,
    limit: int | None,
    limit_name: str,
    stream_options: bool,
    temperature: float | None,
    effort: str | None,
    limit_of_client: bool = False,
) -> list[Option]:
    """Return the optional parameters of Chat Completions. `limit_name`: the name of the limit that is tried first."""
    options = []
    if stream_options:
        options.append(option("stream_options", {"stream_options": {"include_usage": True}}))
    if limit is not None:
        names = sorted(("max_completion_tokens", "max_tokens"), key=lambda name: name != limit_name)
        variants = (*({name: limit} for name in names), {})
        options.append(Option("max_tokens", variants, required=True, of_client=limit_of_client, limit=limit))
    if temperature is not None:
        options.append(option("temperature", {"temperature": temperature}))
    if effort is not None:
        options.append(option("reasoning_effort", {"reasoning_effort": effort}))
    return options


def anthropic(
    *,
    limit: int,
    thinking: int | bool | None,
    temperature: float | None,
    effort: str | None,
    prompt_caching: bool,
    limit_of_client: bool = False,
) -> list[Option]:
    """Return the parameters of Messages that a server may refuse. Models differ in their largest limit.

    They differ in the kinds of thinking that they know, too.
    """
    options = [Option("max_tokens", ({"max_tokens": limit},), limit=limit, of_client=limit_of_client)]
    if thinking is not None:
        options.append(option("thinking", *({"thinking": each} for each in _thinking(thinking))))
    if temperature is not None:
        options.append(option("temperature", {"temperature": temperature}))
    if effort is not None:
        options.append(option("effort", {"output_config": {"effort": effort}}))
    if prompt_caching:
        options.append(option("cache_control", {"cache_control": {"type": "ephemeral"}}))
    return options


def _thinking(thinking: int | bool) -> list[dict[str, Any]]:
    if thinking is False:
        return [{"type": "disabled"}, {"type": "between_tools"}]
    adaptive: list[dict[str, Any]] = [{"type": "adaptive", "display": "summarized"}, {"type": "adaptive"}]
    if thinking is True:
        return adaptive
    return [{"type": "enabled", "budget_tokens": int(thinking)}, *adaptive]
