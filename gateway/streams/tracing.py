"""One trace follows one answer, from the request through the store to the provider and the first frame.

What is passed on is a `traceparent` (W3C Trace Context, section 3.2). Without an SDK, which the operator brings,
nothing is recorded, and one that a client sent is passed on all the same. Names are those of OpenTelemetry's
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
    """Begin a span under `parent`, a traceparent; without one, under the span in whose context this is called.

    `begun_at`: nanoseconds since 1970, if not now. Whoever begins it ends it.
    """
    context = _PROPAGATOR.extract({HEADER: parent}) if parent else None
    return _TRACER.start_span(name, context, kind, attributes, start_time=begun_at)


def traceparent(span: Span) -> str | None:
    """What makes another process's span a child of this one; None where nobody traces."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
