"""Trace context: one trace per answer, from the client's request over the store to the provider call.

The context is passed on as a `traceparent` (W3C Trace Context, section 3.2). Without an SDK, which the operator
installs, nothing is recorded; a client's traceparent is passed on anyway. Attribute names follow OpenTelemetry's
conventions for GenAI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind

HEADER: Final = "traceparent"
RESPONSE: Final = "tokenwire.response"
CONVERSATION: Final = "gen_ai.conversation.id"

_TRACER: Final = trace.get_tracer("tokenwire")
_PROPAGATOR: Final = TraceContextTextMapPropagator()


def begin(
    name: str, kind: SpanKind, parent: str | None, attributes: dict[str, Any], *, begun_at: int | None = None
) -> Span:
    """Start a span under the traceparent `parent`, or under the current span without one. The caller ends the span.

    `begun_at`: start time in nanoseconds since 1970; now by default.
    """
    context = _PROPAGATOR.extract({HEADER: parent}) if parent else None
    return _TRACER.start_span(name, context, kind, attributes, start_time=begun_at)


def traceparent(span: Span) -> str | None:
    """Return the traceparent of a span, for its children in other processes; None without an SDK."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
