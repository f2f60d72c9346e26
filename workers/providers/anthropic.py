"""Provider for Anthropic's Messages API and compatible servers.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming. The SDK handles keys, addresses and errors; the
stream is parsed here, as in `openai.py` and for the same reason.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anthropic
import msgspec

from gateway.streams.log_entries import MAX_COUNT
from gateway.streams.targets import Target
from workers.providers import (
    Event,
    Finish,
    Pace,
    Reasoning,
    Request,
    Text,
    error_body,
    failures,
    lenient,
    no_pause,
    parameters,
    reasons,
)
from workers.providers.blank import is_blank
from workers.providers.exchange import TIMEOUT, answer, credentials, finished
from workers.providers.failures import incomplete, malformed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anthropic.types import MessageParam

    from workers.providers import ProviderError
    from workers.providers.exchange import Coalescer

DEFAULT_MAX_TOKENS = 16_384
"""Anthropic requires a limit. Reasoning counts against it, and current models reason by default."""


class Part(msgspec.Struct):
    """A piece of a content block."""

    text: str | None = None
    thinking: str | None = None


class Incoming(msgspec.Struct):
    """An event of the common shape."""

    type: str
    delta: Part | None = None
    error: Any = None


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
        api_key=key,
        base_url=address,
        max_retries=0,
        timeout=TIMEOUT,
        http_client=anthropic.DefaultAioHttpClient(event_hooks=error_body.hooks(), follow_redirects=False),
    )
    return Messages(client, target, pace)


class Messages:
    """One model of one server. Call it for an answer, see `workers.providers.Provider`."""

    def __init__(self, client: anthropic.AsyncAnthropic, target: Target, pace: Pace = no_pause) -> None:
        self._client = client
        self._target = target
        self._pace = pace
        # With its port: several servers of one machine are different targets.
        self.host = client.base_url.netloc.decode()
        self._parameters = parameters.Parameters(f"{target.name} @ {self.host}")

    async def aclose(self) -> None:
        """Close the idle connections. Not safe to cancel: connections may stay open."""
        await self._client.close()

    def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        """Return the events of an answer as they arrive, see `workers.providers.exchange.answer`."""
        # Anthropic rejects blank messages, such as an answer that was stopped before its first word.
        messages = [message for message in request.messages if not is_blank(message["content"])]
        target = self._target
        limit = next(each for each in (request.max_tokens, target.max_tokens, DEFAULT_MAX_TOKENS) if each is not None)
        if target.thinking is not None and not isinstance(target.thinking, bool):
            # The budget is part of the limit, and the limit has to be larger.
            limit += target.thinking
        call = partial(
            self._client.messages.with_streaming_response.create,
            model=target.model,
            # A Message is one of the SDK's union members; mypy cannot derive which one from its role.
            messages=cast("list[MessageParam]", messages),
            max_tokens=limit,
            system=request.instructions or anthropic.omit,
            stream=True,
        )
        options = parameters.anthropic(
            limit=limit,
            limit_of_client=request.max_tokens is not None,
            thinking=target.thinking,
            temperature=target.temperature,
            effort=target.effort,
            prompt_caching=target.prompt_caching,
        )
        attempt = self._parameters.request([*options, parameters.Option("extra_body", (target.extra_body,))])
        return answer(anthropic, call, attempt, Events, self._pace)


class Events:
    """Parses the events of one answer: text by a typed decoder, everything else field by field."""

    def __init__(self) -> None:
        self.ended = False
        self._counts: dict[str, int] = {}
        self.reason: str | None = None
        self._failure: ProviderError | None = None

    def read(self, data: bytes, pieces: Coalescer) -> bool:
        """See `workers.providers.exchange.Reader`."""
        try:
            event = INCOMING.decode(data)
        except (ValueError, RecursionError):
            return self._read_objects(data, pieces)
        if event.type == "content_block_delta" and event.delta is not None and event.error is None:
            thinking, text = event.delta.thinking, event.delta.text
            if thinking:
                pieces.add(Reasoning, thinking)
            if text:
                pieces.add(Text, text)
            if text or thinking:
                return False
        return self._read_objects(data, pieces)

    def _read_objects(self, data: bytes, pieces: Coalescer) -> bool:
        if lenient.is_done(data):
            self.ended = True
            return True
        found = lenient.objects(data)
        if not found:
            pieces.unclear = pieces.unclear or failures.of_text(data.decode("utf-8", "replace"))
        if found is None:
            raise malformed()
        return any(self._read_object(each, pieces) for each in found)

    def _read_object(self, event: lenient.Object, pieces: Coalescer) -> bool:
        if event.get("done") is True:
            self.ended = True
            return True
        kind = _kind(event)
        if (error := failures.in_event(event)) is not None:
            if self.reason is None:
                raise error
            self._failure = error
        pieces.unclear = pieces.unclear or failures.unclear(event)
        delta, message = event.get("delta"), event.get("message")
        match kind:
            case "content_block_delta":
                self._add(delta, pieces)
            case "content_block_start":
                self._add(event.get("content_block"), pieces)
            case "message_start" | "message_delta" | "message_stop":
                if isinstance(message, dict):
                    self._add(message.get("content"), pieces)
            case "message":
                # The whole message instead of a stream.
                self._add(event.get("content"), pieces)
                self.ended = True
        for holder in (message, delta, event):
            if isinstance(holder, dict) and kind in _MESSAGE_KINDS:
                self._counts |= _counts(holder.get("usage"))
                if reason := reasons.given(holder.get("stop_reason")):
                    self.reason = reasons.merged(self.reason, reason)
                    self.ended = True
        if kind in lenient.END_TYPES:
            self.ended = True
        return kind == "message" or kind in lenient.END_TYPES

    def _add(self, part: Any, pieces: Coalescer) -> None:
        for kind, text in lenient.content(part if isinstance(part, list) else [part]):
            pieces.add(Reasoning if kind == "reasoning" else Text, text)

    @property
    def usage(self) -> dict[str, int]:
        """See `workers.providers.exchange.Reader`."""
        return usage(self._counts)

    def read_document(self) -> None:
        """See `workers.providers.exchange.Reader`. A whole message ends the answer by itself."""

    def finish(self) -> Finish:
        """See `workers.providers.exchange.Reader`."""
        if not self.ended:
            raise incomplete()
        return Finish(finished(self.reason, self._failure), self.usage)


_MESSAGE_KINDS: Final = ("message_start", "message_delta", "message_stop", "message")
_KIND_OF_FIELD: Final = {
    "content_block": "content_block_start",
    "delta": "content_block_delta",
    "message": "message_start",
    "stop_reason": "message",
}
_COUNTS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


def _kind(event: lenient.Object) -> str:
    """Return the type of an event, or the type that has its fields; unknown types are ignored, as documented."""
    if isinstance(kind := event.get("type"), str):
        return kind
    delta = event.get("delta")
    if isinstance(delta, dict) and "stop_reason" in delta:
        return "message_delta"
    if event.get("role") and event.get("content"):
        return "message"
    return next((kind for field, kind in _KIND_OF_FIELD.items() if event.get(field) is not None), "")


def _counts(value: Any) -> dict[str, int]:
    """Return the provider's own counts that a usage object contains; each event replaces them."""
    if not isinstance(value, dict):
        return {}
    found = {name: number for name in _COUNTS if (number := lenient.count(value.get(name))) is not None}
    details = value.get("output_tokens_details")
    if isinstance(details, dict) and (number := lenient.count(details.get("thinking_tokens"))) is not None:
        found["thinking_tokens"] = number
    return found


def usage(counts: dict[str, int]) -> dict[str, int]:
    """Return the counts under the names of `Finish.usage`.

    Anthropic counts cached tokens in addition to `input_tokens`, OpenAI includes them. Here they are included.
    """
    named = {
        "input_tokens": sum(counts.get(name, 0) for name in _COUNTS[:3]) if "input_tokens" in counts else None,
        "output_tokens": counts.get("output_tokens"),
        "reasoning_tokens": counts.get("thinking_tokens"),
        "cached_tokens": counts.get("cache_read_input_tokens"),
    }
    return {name: min(number, MAX_COUNT) for name, number in named.items() if number is not None}
