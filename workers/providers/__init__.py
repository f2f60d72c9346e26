"""What a provider is: a request goes in, events come out, and it is chosen by the name before the slash."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, TypedDict


class Message(TypedDict):
    """One finished utterance, as the provider reads it; the last message of a request is the user's."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """All that a provider is told about one answer.

    `model` is the provider's own name of the model (what follows the slash of the operator's alias), `instructions`
    the system prompt if there is one, `max_tokens` a bound on the answer in the provider's tokens.
    """

    model: str
    messages: list[Message]
    instructions: str | None = None
    max_tokens: int | None = None
    conversation: str = ""
    response: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, in order. May end in half a surrogate pair; the next piece then begins with the rest."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks aloud before or between its answer; never part of the answer."""

    text: str


FinishReason: TypeAlias = Literal["complete", "length", "refused", "filtered", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Finish:
    """The provider's own terminal event. A stream that closes without one has failed."""

    reason: FinishReason
    usage: Mapping[str, int] = field(default_factory=dict)
    """`input_tokens` and `output_tokens`, and `reasoning_tokens` and `cached_tokens` where the provider counts them."""


Event: TypeAlias = Text | Reasoning | Finish
Provider: TypeAlias = Callable[[Request], AsyncGenerator[Event, None]]
Pace: TypeAlias = Callable[[], Awaitable[None]]
"""Awaited by a provider before it reads on: what arrives meanwhile costs no more than one token does."""


class Served(NamedTuple):
    """What an alias leads to: a provider, its own name of the model, and the provider's name."""

    provider: Provider
    model: str
    name: str


class ProviderError(Exception):
    """The provider refused, failed or broke off.

    `message` is for the person in the chat: it never repeats the provider's own words, which may hold a key or
    a prompt. `retryable` says whether the same request may succeed later; `retry_after` is the provider's own wish, in
    seconds.
    """

    def __init__(self, code: str, message: str, *, retryable: bool, retry_after: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after


async def at_once() -> None:
    """The pace of a provider that reads on without a pause."""


def connect(target: str, *, demo_rate: float, pace: Pace = at_once) -> Served:
    """Turn an operator's `provider/model` into what it leads to; raise ValueError for an unknown one.

    The provider's SDK is imported here and not before: a worker that only serves the demo needs none.
    """
    name, _, model = target.partition("/")
    match name:
        case "demo":
            provider = importlib.import_module("workers.providers.demo").connect(demo_rate)
            return Served(provider, model or "demo", name)
        case "openai" | "anthropic" | "python":
            if not model:
                raise ValueError(f"{target!r} names no model: write {name}/MODEL")
            module = importlib.import_module(f"workers.providers.{name}")
            provider = module.connect(model) if name == "python" else module.connect(model, pace)
            return Served(provider, model, name)
        case _:
            raise ValueError(f"{target!r} is no provider: use demo, openai/MODEL, anthropic/MODEL, python/MODULE:NAME")
