"""One call to a provider, as an operator sees it in metrics and in a trace: how long until its first piece, how long in
all, how many tokens.
"""

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
"""The name of the operation, of those that OpenTelemetry's conventions know."""


class Call:
    """From the moment at which it is made."""

    def __init__(self, provider: str, model: str, request: Request, parent: str | None) -> None:
        """`provider` and `model` as they are named in metrics and spans; `parent` is the traceparent of the attempt."""
        self._labels = (CHAT, provider, model)
        about: dict[str, Any] = {
            "gen_ai.operation.name": CHAT,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
            "gen_ai.request.stream": True,
            tracing.CONVERSATION: request.conversation,
        }
        if request.max_tokens is not None:
            about["gen_ai.request.max_tokens"] = request.max_tokens
        self._span = tracing.begin(f"{CHAT} {model}", SpanKind.CLIENT, parent, about)
        self._begun = time.perf_counter()

    @asynccontextmanager
    async def answered(self, stream: AsyncGenerator[Event, None]) -> AsyncIterator[AsyncGenerator[Event, None]]:
        """Hear a provider, and close it; what instruments its HTTP client meanwhile belongs to this call."""
        # Of an exception only the code is told, in `over`: its text may hold what somebody wrote.
        with use_span(self._span, record_exception=False, set_status_on_exception=False):
            async with aclosing(stream):
                yield stream

    def heard(self) -> None:
        """The first piece has come."""
        self._span.add_event("first chunk")
        metrics.FIRST_CHUNK.labels(*self._labels).observe(time.perf_counter() - self._begun)

    def used(self, usage: Mapping[str, int]) -> None:
        """What the provider counted, as in `workers.providers.Finish`."""
        for kind in ("input", "output"):
            if (count := usage.get(f"{kind}_tokens")) is not None:
                metrics.TOKENS.labels(*self._labels, kind).observe(count)
                self._span.set_attribute(f"gen_ai.usage.{kind}_tokens", count)

    def over(self, error: str = "") -> None:
        """The call is over; `error` is the code of what it failed with."""
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        metrics.DURATION.labels(*self._labels, error).observe(time.perf_counter() - self._begun)
