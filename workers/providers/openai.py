"""OpenAI's Chat Completions, and every server that speaks them: OpenAI itself, Ollama, vLLM, OpenRouter and others.

Source: https://platform.openai.com/docs/api-reference/chat-streaming. The SDK stays, for keys, addresses and errors;
the stream is parsed here, because its own chunk models cost more than twice the time of everything else a token needs.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, cast

import msgspec
import openai

from workers.providers import Event, Finish, FinishReason, Pace, Reasoning, Request, Text, at_once
from workers.providers.exchange import (
    PLACEHOLDER_KEY,
    TIMEOUT,
    answer,
    decoded,
    incomplete,
    reported,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from openai.types.chat import ChatCompletionMessageParam

    from workers.providers.exchange import Joined

REASONS: dict[str, FinishReason] = {
    "stop": "complete",
    "length": "length",
    "content_filter": "filtered",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
"""OpenAI's reasons; a compatible server's own word for having finished, such as `eos`, counts as complete."""


class Delta(msgspec.Struct):
    """What one chunk adds; `reasoning_content` and `reasoning` are what vLLM, DeepSeek and OpenRouter call thinking."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class Choice(msgspec.Struct):
    """One of the answers asked for; we ask for one."""

    delta: Delta | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """Token counts of the whole exchange; a detail that the server does not count is absent."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    def counts(self) -> dict[str, int]:
        """The counts under the names that `Finish.usage` has for them."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        counts = {
            "input_tokens": self.prompt_tokens,
            "output_tokens": self.completion_tokens,
            "reasoning_tokens": completion.reasoning_tokens if completion else None,
            "cached_tokens": prompt.cached_tokens if prompt else None,
        }
        return {name: count for name, count in counts.items() if count is not None}


class Failure(msgspec.Struct):
    """An error that came inside a stream, when it was too late for an HTTP status."""

    type: str | None = None
    code: str | int | None = None


class Chunk(msgspec.Struct):
    """One event of the stream."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Failure | str | None = None


CHUNKS = msgspec.json.Decoder(Chunk)


def connect(model: str, pace: Pace = at_once) -> ChatCompletions:
    """Return the provider for one model, with an HTTP client of its own; `aclose` it, or let it end with the process.

    The SDK reads OPENAI_API_KEY and OPENAI_BASE_URL. Raises ValueError when neither a key nor an address of another
    server is set, or the address is none.
    """
    key = os.environ.get("OPENAI_API_KEY")
    if not key and not os.environ.get("OPENAI_BASE_URL"):
        raise ValueError(f"openai/{model} needs OPENAI_API_KEY, or OPENAI_BASE_URL of a server that asks for no key")
    client = openai.AsyncOpenAI(
        api_key=key or PLACEHOLDER_KEY, max_retries=0, timeout=TIMEOUT, http_client=openai.DefaultAioHttpClient()
    )
    if client.base_url.scheme not in ("http", "https"):
        raise ValueError("OPENAI_BASE_URL is no address: write https://HOST/v1, or unset it")
    return ChatCompletions(client, model, pace)


class ChatCompletions:
    """One model of one server. Calling it starts an answer: see `workers.providers.Provider`."""

    def __init__(self, client: openai.AsyncOpenAI, model: str, pace: Pace = at_once) -> None:
        self._client = client
        self._model = model
        self._pace = pace
        # OpenAI's newer models refuse the old name, and most compatible servers know no other. Regional addresses
        # (us.api.openai.com) are OpenAI too.
        self._bound = "max_completion_tokens" if client.base_url.host.endswith("api.openai.com") else "max_tokens"

    async def aclose(self) -> None:
        """Close the connections that are kept for the next answers."""
        await self._client.close()

    def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        """The answer's events as they arrive, and one Finish at its end; see `workers.providers.exchange.answer`."""
        system = [{"role": "system", "content": request.instructions}] if request.instructions else []
        # A Message is one of their messages; mypy cannot tell which of the union its role makes it.
        messages = cast("list[ChatCompletionMessageParam]", [*system, *request.messages])
        call = partial(
            self._client.chat.completions.with_streaming_response.create,
            model=self._model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={} if request.max_tokens is None else {self._bound: request.max_tokens},
        )
        return answer(openai, call, Chunks(), self._pace)


class Chunks:
    """Reads the events of one answer."""

    def __init__(self) -> None:
        self._reason: FinishReason | None = None
        self._refused = False
        self._usage: dict[str, int] = {}

    def read(self, data: bytes, pieces: Joined) -> bool:
        """See `workers.providers.exchange.Reader`."""
        if data == b"[DONE]":
            return True
        chunk = decoded(CHUNKS, data)
        if chunk.choices:
            choice = chunk.choices[0]
            if delta := choice.delta:
                if thought := delta.reasoning_content or delta.reasoning:
                    pieces.add(Reasoning, thought)
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
