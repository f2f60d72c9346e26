"""One provider call as operators see it, in metrics and in a trace: time to first token, duration and tokens."""

from __future__ import annotations

import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind, StatusCode, use_span

from gateway.streams import tracing
from workers import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from workers.providers import Event, Request

CHAT: Final = "chat"
"""The name of the operation in OpenTelemetry's conventions."""


class ProviderCall:
    """One call; its duration counts from its construction to `finish`."""

    def __init__(self, provider: str, model: str, request: Request, parent: str | None) -> None:
        """`provider` and `model`: names for metrics and spans. `parent`: the traceparent of the attempt."""
        self.received = False
        """Whether the call has produced text or reasoning."""
        self._labels = (CHAT, provider, model)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": CHAT,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
            "gen_ai.request.stream": True,
            tracing.CONVERSATION: request.conversation,
        }
        if request.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = request.max_tokens
        self._span = tracing.begin(f"{CHAT} {model}", SpanKind.CLIENT, parent, attributes)
        self._started_at = time.perf_counter()

    @asynccontextmanager
    async def reading(self, stream: AsyncGenerator[Event, None]) -> AsyncIterator[AsyncGenerator[Event, None]]:
        """Make this call's span the current one, for instrumented HTTP clients. Safe to cancel: closes the stream."""
        # `finish` records the error code alone: the text of an exception may contain a prompt.
        with use_span(self._span, record_exception=False, set_status_on_exception=False):
            async with aclosing(stream):
                yield stream

    def first_event(self, *, is_output: bool) -> None:
        """Record the first event; `is_output`: it is text or reasoning."""
        self.received = is_output
        self._span.add_event("first chunk")
        metrics.FIRST_CHUNK.labels(*self._labels).observe(time.perf_counter() - self._started_at)

    def used(self, usage: Mapping[str, int]) -> None:
        """Record the token counts of `workers.providers.Finish`."""
        for kind in ("input", "output"):
            if (count := usage.get(f"{kind}_tokens")) is not None:
                metrics.TOKENS.labels(*self._labels, kind).observe(count)
                self._span.set_attribute(f"gen_ai.usage.{kind}_tokens", count)

    def finish(self, error: str = "") -> None:
        """Record the end of the call; `error`: the code of its failure."""
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        metrics.DURATION.labels(*self._labels, metrics.code_label(error)).observe(
            time.perf_counter() - self._started_at
        )
