"""The interface of providers: a request in, a stream of events out. A target is `provider/model`."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

from gateway.streams.targets import Target, parse_targets


class Message(TypedDict):
    """One message of a conversation. The last message of a request is the user's."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one answer.

    `model` is the provider's name of the model (the part after the slash of a target), `instructions` the system
    prompt, `max_tokens` a limit of the answer in the provider's tokens.
    """

    model: str
    messages: list[Message]
    instructions: str | None = None
    max_tokens: int | None = None
    conversation: str = ""
    response: str = ""
    user: str | None = None
    """The subject that asked (`sub` of its token); None without authentication."""
    claims: Mapping[str, Any] | None = None
    """The further claims of its token; None without authentication, or if they have more than 4 kB."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the client sent with its message; not authenticated."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, in order. After a trailing high surrogate the next piece starts with the low one."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning; never part of the answer."""

    text: str


FinishReason: TypeAlias = Literal["complete", "length", "refused", "filtered", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Finish:
    """The terminal event. A stream that ends without one has failed."""

    reason: FinishReason
    usage: Mapping[str, int] = field(default_factory=dict)
    """`input_tokens` and `output_tokens`; `reasoning_tokens` and `cached_tokens` if the provider counts them."""


Event: TypeAlias = Text | Reasoning | Finish
Provider: TypeAlias = Callable[[Request], AsyncGenerator[Event, None]]
Pace: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited by a provider before it reads again, so that tokens that arrive meanwhile are processed together."""


class Served(NamedTuple):
    """A target of a model alias: the provider, its name of the model, and the name of the provider."""

    provider: Provider
    model: str
    name: str
    host: str = ""
    """Of the provider's server, for operators."""
    prefill: bool = False
    """Whether the model continues an answer that is the last message of a request."""

    @property
    def label(self) -> str:
        """The target as operators see it: `provider/model @ host`."""
        name = f"{self.name}/{self.model}"
        return f"{name} @ {self.host}" if self.host else name


class ProviderError(Exception):
    """The provider rejected the request, failed, or closed the stream early.

    `message` is for the user and never contains the provider's text, which may contain a key or a prompt. `retryable`:
    the same request may succeed later, after `retry_after` seconds if the provider requests a pause.
    """

    def __init__(self, code: str, message: str, *, retryable: bool, retry_after: float | None = None) -> None:
        super().__init__(code)
        self.usage: Mapping[str, int] = {}
        """What the failed call used, as far as the provider counted; see `Finish.usage`."""
        self.detail = ""
        """What the provider called the reason, in at most 64 safe characters; "" where it gave none."""
        self.rejection: tuple[int, Any] | None = None
        """The status and the error object of an error in a body with status 200. The object is never logged."""
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after


async def no_pause() -> None:
    """Return immediately: the pace without a pause. Safe to cancel."""


def connect(target: str | Target, *, demo_rate: float, pace: Pace = no_pause) -> Served:
    """Return the provider of a target; raise ValueError, which says what to do, for one that cannot be served.

    The SDK is imported here, because a worker with only the demo provider needs none.
    """
    if isinstance(target, str):
        (target,) = parse_targets("default", target)
    module = importlib.import_module(f"workers.providers.{target.provider}")
    match target.provider:
        case "demo":
            return Served(module.connect(demo_rate), target.model or "demo", "demo")
        case "python":
            return Served(module.connect(target.model), target.model, "python")
        case _:
            provider = module.connect(target, pace)
            return Served(provider, target.model, target.provider, provider.host, target.prefill)
