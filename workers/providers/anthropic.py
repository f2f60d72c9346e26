"""Provider for Anthropic's Messages API and compatible servers.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming. The SDK handles keys, addresses and errors; the
stream is parsed here, as in `openai.py` and for the same reason.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

import anthropic
import msgspec

from gateway.streams.targets import Target
from workers.providers import Event, Finish, FinishReason, Pace, Reasoning, Request, Text, no_pause
from workers.providers.exchange import (
    TIMEOUT,
    answer,
    credentials,
    decoded,
    incomplete,
    reported,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anthropic.types import MessageParam

    from workers.providers.exchange import Coalescer

DEFAULT_MAX_TOKENS = 4096
"""Anthropic requires a limit; this is the default."""

REASONS: dict[str, FinishReason] = {
    "end_turn": "complete",
    "stop_sequence": "complete",
    "pause_turn": "complete",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
    "tool_use": "tool_calls",
}
"""Anthropic's stop reasons; an unknown one counts as complete."""


class Part(msgspec.Struct):
    """The content of an event: a piece of a content block (text, thinking), or the end of the message (stop_reason)."""

    text: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None


class OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class Usage(msgspec.Struct):
    """Token counts so far; each event replaces the counts that it contains."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None


class Message(msgspec.Struct):
    usage: Usage | None = None


class Failure(msgspec.Struct):
    type: str | None = None


class Incoming(msgspec.Struct):
    """One event of the stream. Unknown types are ignored, as the API documentation requires."""

    type: str
    delta: Part | None = None
    content_block: Part | None = None
    message: Message | None = None
    usage: Usage | None = None
    error: Failure | None = None


INCOMING = msgspec.json.Decoder(Incoming)


def connect(target: str | Target, pace: Pace = no_pause) -> Messages:
    """Return the provider for a target or a model name. It has its own HTTP client; call `aclose` at the end.

    The SDK reads ANTHROPIC_BASE_URL; a target's own key and address win. Only ANTHROPIC_API_KEY is used as the key,
    because the SDK would otherwise use the account that is logged in on the machine. Raises ValueError if there is
    neither, or the address is invalid.
    """
    target = Target("anthropic", target) if isinstance(target, str) else target
    key, address = credentials(target)
    client = anthropic.AsyncAnthropic(
        api_key=key, base_url=address, max_retries=0, timeout=TIMEOUT, http_client=anthropic.DefaultAioHttpClient()
    )
    return Messages(client, target, pace)


class Messages:
    """One model of one server. Call it for an answer, see `workers.providers.Provider`."""

    def __init__(self, client: anthropic.AsyncAnthropic, target: Target, pace: Pace = no_pause) -> None:
        self._client = client
        self._model = target.model
        self._pace = pace
        self.host = client.base_url.host

    async def aclose(self) -> None:
        """Close the idle connections. Not safe to cancel: connections may stay open."""
        await self._client.close()

    def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        """Return the events of an answer as they arrive, see `workers.providers.exchange.answer`."""
        # Anthropic rejects empty messages, such as an answer that was stopped before its first token.
        messages = [message for message in request.messages if message["content"]]
        call = partial(
            self._client.messages.with_streaming_response.create,
            model=self._model,
            # A Message is one of the SDK's union members; mypy cannot derive which one from its role.
            messages=cast("list[MessageParam]", messages),
            max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            system=request.instructions or anthropic.omit,
            stream=True,
        )
        return answer(anthropic, call, Events(), self._pace)


class Events:
    """Parses the events of one answer."""

    def __init__(self) -> None:
        self._reason: FinishReason = "complete"
        self._usage = Usage()
        self._finished = False

    def read(self, data: bytes, pieces: Coalescer) -> bool:
        """See `workers.providers.exchange.Reader`."""
        event = decoded(INCOMING, data)
        match event.type:
            case "content_block_delta" | "content_block_start":
                if part := event.delta or event.content_block:
                    if part.thinking:
                        pieces.add(Reasoning, part.thinking)
                    if part.text:
                        pieces.add(Text, part.text)
            case "message_start":
                if event.message and event.message.usage:
                    self._usage = event.message.usage
            case "message_delta":
                if event.delta and event.delta.stop_reason:
                    self._reason = REASONS.get(event.delta.stop_reason, "complete")
                if event.usage:
                    self._usage = merged(self._usage, event.usage)
            case "message_stop":
                self._finished = True
            case "error":
                raise reported((event.error.type,) if event.error else ())
        return self._finished

    def finish(self) -> Finish:
        """See `workers.providers.exchange.Reader`."""
        if not self._finished:
            raise incomplete()
        return Finish(self._reason, counts(self._usage))


def merged(before: Usage, after: Usage) -> Usage:
    """Return the counts of `after`, completed by those of `before`: counts are cumulative."""
    both = msgspec.structs.asdict(before) | {
        name: value for name, value in msgspec.structs.asdict(after).items() if value is not None
    }
    return Usage(**both)


def counts(usage: Usage) -> dict[str, int]:
    """Return the counts under the names of `Finish.usage`.

    Anthropic counts cached tokens in addition to `input_tokens`, OpenAI includes them. Here they are included.
    """
    inputs = [usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens]
    details = usage.output_tokens_details
    named = {
        "input_tokens": None if usage.input_tokens is None else sum(count or 0 for count in inputs),
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": details.thinking_tokens if details else None,
        "cached_tokens": usage.cache_read_input_tokens,
    }
    return {name: count for name, count in named.items() if count is not None}
