"""Provider for OpenAI's Chat Completions API and compatible servers: Ollama, vLLM, OpenRouter and others.

Source: https://platform.openai.com/docs/api-reference/chat-streaming. The SDK handles keys, addresses and errors. The
stream is parsed here, because the SDK's chunk models cost more than twice as much as the rest of a token.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

import msgspec
import openai

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

    from openai.types.chat import ChatCompletionMessageParam

    from workers.providers.exchange import Coalescer

REASONS: dict[str, FinishReason] = {
    "stop": "complete",
    "length": "length",
    "content_filter": "filtered",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
"""OpenAI's finish reasons; an unknown one of a compatible server, such as `eos`, counts as complete."""


class Delta(msgspec.Struct):
    """The content of a chunk; `reasoning_content` and `reasoning` are the names of vLLM, DeepSeek and OpenRouter."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class Choice(msgspec.Struct):
    """One of the requested answers; only one is requested."""

    delta: Delta | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """Token counts of the exchange; counts that the server does not provide are None."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def counts(self) -> dict[str, int]:
        """Return the counts under the names of `Finish.usage`."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        counts = {
            "input_tokens": self.prompt_tokens,
            "output_tokens": self.completion_tokens,
            "reasoning_tokens": completion.reasoning_tokens if completion else None,
            "cached_tokens": prompt.cached_tokens if prompt else None,
        }
        return {name: count for name, count in counts.items() if count is not None}


class Failure(msgspec.Struct):
    """An error inside a stream, after the HTTP status was sent."""

    type: str | None = None
    code: str | int | None = None


class Chunk(msgspec.Struct):
    """One event of the stream."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Failure | str | None = None


CHUNKS = msgspec.json.Decoder(Chunk)


def connect(target: str | Target, pace: Pace = no_pause) -> ChatCompletions:
    """Return the provider for a target or a model name. It has its own HTTP client; call `aclose` at the end.

    The SDK reads OPENAI_API_KEY and OPENAI_BASE_URL; a target's own key and address win. Raises ValueError if there is
    neither, or the address is invalid.
    """
    target = Target("openai", target) if isinstance(target, str) else target
    key, address = credentials(target)
    client = openai.AsyncOpenAI(
        api_key=key, base_url=address, max_retries=0, timeout=TIMEOUT, http_client=openai.DefaultAioHttpClient()
    )
    return ChatCompletions(client, target, pace)


class ChatCompletions:
    """One model of one server. Call it for an answer, see `workers.providers.Provider`."""

    def __init__(self, client: openai.AsyncOpenAI, target: Target, pace: Pace = no_pause) -> None:
        self._client = client
        self._model = target.model
        self._pace = pace
        self.host = client.base_url.host
        # OpenAI's newer models reject the old name, most compatible servers accept only that. Regional addresses such
        # as us.api.openai.com belong to OpenAI too.
        self._limit_name = "max_completion_tokens" if client.base_url.host.endswith("api.openai.com") else "max_tokens"

    async def aclose(self) -> None:
        """Close the idle connections. Not safe to cancel: connections may stay open."""
        await self._client.close()

    def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        """Return the events of an answer as they arrive, see `workers.providers.exchange.answer`."""
        system = [{"role": "system", "content": request.instructions}] if request.instructions else []
        # A Message is one of the SDK's union members; mypy cannot derive which one from its role.
        messages = cast("list[ChatCompletionMessageParam]", [*system, *request.messages])
        call = partial(
            self._client.chat.completions.with_streaming_response.create,
            model=self._model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={} if request.max_tokens is None else {self._limit_name: request.max_tokens},
        )
        return answer(openai, call, Chunks(), self._pace)


class Chunks:
    """Parses the events of one answer."""

    def __init__(self) -> None:
        self._reason: FinishReason | None = None
        self._refused = False
        self._usage: dict[str, int] = {}

    def read(self, data: bytes, pieces: Coalescer) -> bool:
        """See `workers.providers.exchange.Reader`."""
        if data == b"[DONE]":
            return True
        chunk = decoded(CHUNKS, data)
        if chunk.choices:
            choice = chunk.choices[0]
            if delta := choice.delta:
                if reasoning := delta.reasoning_content or delta.reasoning:
                    pieces.add(Reasoning, reasoning)
                if delta.content:
                    pieces.add(Text, delta.content)
                if delta.refusal:
                    self._refused = True
                    pieces.add(Text, delta.refusal)
            if choice.finish_reason:
                self._reason = REASONS.get(choice.finish_reason, "complete")
        if chunk.usage:
            self._usage = chunk.usage.counts()
        if chunk.error:
            raise reported((chunk.error.code, chunk.error.type) if isinstance(chunk.error, Failure) else ())
        return False

    def finish(self) -> Finish:
        """See `workers.providers.exchange.Reader`."""
        if self._reason is None:
            raise incomplete()
        return Finish("refused" if self._refused else self._reason, self._usage)
