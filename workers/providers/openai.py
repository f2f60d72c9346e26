"""Provider for OpenAI's Chat Completions API and compatible servers: Ollama, vLLM, OpenRouter and others.

Source: https://platform.openai.com/docs/api-reference/chat-streaming. The SDK handles keys, addresses and errors. The
stream is parsed here, because the SDK's chunk models cost more than twice as much as the rest of a token.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import openai

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
from workers.providers.exchange import TIMEOUT, answer, credentials, finished
from workers.providers.failures import incomplete, malformed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from openai.types.chat import ChatCompletionMessageParam

    from workers.providers import ProviderError
    from workers.providers.exchange import Coalescer


class Delta(msgspec.Struct):
    """The content of a chunk; `reasoning_content` and `reasoning` are the names of vLLM, DeepSeek and OpenRouter."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    finish_reason: Any = None
    """Where some servers have it."""


class Choice(msgspec.Struct):
    """One of the requested answers; only one is requested."""

    delta: Delta | None = None
    finish_reason: Any = None
    index: Any = None


class Chunk(msgspec.Struct):
    """An event of the common shape."""

    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None


CHUNKS = msgspec.json.Decoder(Chunk)


def connect(target: str | Target, pace: Pace = no_pause) -> ChatCompletions:
    """Return the provider for a target or a model name. It has its own HTTP client; call `aclose` at the end.

    The SDK reads OPENAI_API_KEY and OPENAI_BASE_URL; a target's own key and address win. Raises ValueError if there is
    neither, or the address is invalid.
    """
    target = Target("openai", target) if isinstance(target, str) else target
    key, address = credentials(target)
    client = openai.AsyncOpenAI(
        api_key=key,
        base_url=address,
        max_retries=0,
        timeout=TIMEOUT,
        http_client=openai.DefaultAioHttpClient(event_hooks=error_body.hooks(), follow_redirects=False),
    )
    return ChatCompletions(client, target, pace)


class ChatCompletions:
    """One model of one server. Call it for an answer, see `workers.providers.Provider`."""

    def __init__(self, client: openai.AsyncOpenAI, target: Target, pace: Pace = no_pause) -> None:
        self._client = client
        self._target = target
        self._pace = pace
        # With its port: several servers of one machine are different targets.
        self.host = client.base_url.netloc.decode()
        self._parameters = parameters.Parameters(f"{target.name} @ {self.host}")
        # OpenAI's newer models reject the old name, most compatible servers accept only that. Regional addresses such
        # as us.api.openai.com belong to OpenAI too.
        name = "max_completion_tokens" if client.base_url.host.endswith("api.openai.com") else "max_tokens"
        self._limit_name = target.max_tokens_name or name

    async def aclose(self) -> None:
        """Close the idle connections. Not safe to cancel: connections may stay open."""
        await self._client.close()

    def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        """Return the events of an answer as they arrive, see `workers.providers.exchange.answer`."""
        system = [{"role": "system", "content": request.instructions}] if request.instructions else []
        # A Message is one of the SDK's union members; mypy cannot derive which one from its role.
        messages = cast("list[ChatCompletionMessageParam]", [*system, *request.messages])
        target = self._target
        call = partial(
            self._client.chat.completions.with_streaming_response.create,
            model=target.model,
            messages=messages,
            stream=True,
        )
        options = parameters.openai(
            limit=target.max_tokens if request.max_tokens is None else request.max_tokens,
            limit_of_client=request.max_tokens is not None,
            limit_name=self._limit_name,
            stream_options=target.stream_options is not False,
            temperature=target.temperature,
            effort=target.effort,
        )
        attempt = self._parameters.request([*options, parameters.Option("extra_body", (target.extra_body,))])
        return answer(openai, call, attempt, Chunks, self._pace)


class Chunks:
    """Parses the events of one answer: text by a typed decoder, everything else field by field."""

    def __init__(self) -> None:
        self.ended = False
        self._usage: dict[str, int] = {}
        self.reason: str | None = None
        self._refused = False
        self._failure: ProviderError | None = None
        self._whole = False
        """Whether a complete message was read that does not say that more follow."""
        self._objects = 0
        self._index: int | None = None
        self._messages = ""
        """Text of complete messages, which some servers send again with each event."""

    def read(self, data: bytes, pieces: Coalescer) -> bool:
        """See `workers.providers.exchange.Reader`."""
        try:
            chunk = CHUNKS.decode(data)
        except (ValueError, RecursionError):
            return self._read_objects(data, pieces)
        if chunk.choices and not chunk.usage and not chunk.error:
            choice = chunk.choices[0]
            delta = choice.delta
            # The last chunk of a server that does not stream may contain more than a delta.
            if delta is not None and not (choice.finish_reason or choice.index or delta.finish_reason):
                reasoning = delta.reasoning_content or delta.reasoning
                if reasoning:
                    pieces.add(Reasoning, reasoning)
                if delta.content:
                    pieces.add(Text, delta.content)
                    return False
                if reasoning:
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

    def _read_object(self, chunk: lenient.Object, pieces: Coalescer) -> bool:
        self._objects += 1
        choices = chunk.get("choices")
        choice = self._only(lenient.choice_of(choices), pieces)
        # Routers put the error of the provider behind them into the choice.
        error = failures.in_event(chunk) or failures.in_event({"error": choice.get("error"), "choices": choices})
        if error is not None:
            self._fail(error)
        if not choices:
            pieces.unclear = pieces.unclear or failures.unclear(chunk)
        delta, whole = choice.get("delta"), choice.get("message")
        if whole is None and isinstance(chunk.get("message"), dict):
            whole = chunk["message"]
        if delta is not None:
            self._add(lenient.content(delta), pieces)
        elif whole is None:
            self._add(lenient.content(choice), pieces)
            self._whole = bool(choice)
        if whole is not None:
            self._add_message(lenient.content(whole), pieces)
            self._whole = chunk.get("done") is None
        holders = [each for each in (choice, delta, whole, chunk.get("x_groq"), chunk) if isinstance(each, dict)]
        for holder in holders:
            self._usage.update(lenient.usage(holder.get("usage", holder if holder is chunk else None)))
        for holder in holders:
            # The first of each: `stop_reason` may be the text at which the model stopped.
            for name in _REASON_FIELDS:
                value = holder.get(name)
                if value is not None and (reason := reasons.given(value)) is not None:
                    self.reason = reasons.merged(self.reason, reason)
                    break
        done = (
            chunk.get("done") is True
            or (not choices and chunk.get("type") in lenient.END_TYPES)
            or (whole is not None and chunk.get("object") == "chat.completion")
        )
        self.ended = self.ended or done or self.reason is not None
        return done

    def _only(self, choice: lenient.Object, pieces: Coalescer) -> lenient.Object:
        """Return a choice of the answer that is read; an empty one for one of another answer to the request."""
        index = lenient.count(choice["index"]) or 0 if choice.get("index") else 0
        if self._index is None:
            # Common chunks are not read here, and have the number 0.
            self._index = 0 if pieces.begun or not choice else index
        return choice if index == self._index else {}

    def _add(self, found: list[lenient.Pieces], pieces: Coalescer) -> None:
        for kind, text in found:
            self._refused = self._refused or kind == "refusal"
            pieces.add(Reasoning if kind == "reasoning" else Text, text)

    def _add_message(self, found: list[lenient.Pieces], pieces: Coalescer) -> None:
        """Add a complete message, unless its text came in pieces; of one that grows, only what is new."""
        text = "".join(piece.text for piece in found if piece.kind == "text")
        if pieces.has_text and not self._messages:
            return
        if self._messages and text.startswith(self._messages):
            self._add([lenient.Pieces("text", text[len(self._messages) :])], pieces)
            self._messages = text
        else:
            self._add(found, pieces)
            self._messages += text

    def read_document(self) -> None:
        """See `workers.providers.exchange.Reader`."""
        self.ended = self.ended or (self._whole and self._objects == 1)

    def _fail(self, error: ProviderError) -> None:
        """Raise a failure. After the reason for the end it only counts as an explanation of an unknown one."""
        if self.reason is None:
            raise error
        self._failure = error

    @property
    def usage(self) -> dict[str, int]:
        """See `workers.providers.exchange.Reader`."""
        return self._usage

    def finish(self) -> Finish:
        """See `workers.providers.exchange.Reader`."""
        if not self.ended:
            raise incomplete()
        reason = finished(self.reason, self._failure)
        return Finish("refused" if self._refused and reason == "complete" else reason, self._usage)


_REASON_FIELDS: Final = ("finish_reason", "finishReason", "done_reason", "stop_reason")
