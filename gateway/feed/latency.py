"""Latency metrics of the feed: the delay that a gateway adds, and the time to first token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import SpanKind

from gateway import metrics
from gateway.streams import tracing

if TYPE_CHECKING:
    from gateway.response_replica import ResponseReplica

MAX_SUBMITTED: Final = 10_000
"""Responses whose time to first token is measured at the same time."""


class Latency:
    """Measurements from receipt to flush. Times are seconds of the event loop's clock."""

    def __init__(self) -> None:
        self.received_at = 0.0
        """When the first entry was received that the next flush sends; 0.0 if there is none."""
        self._submitted_at: dict[str, float] = {}
        """Responses that were submitted at this gateway, oldest first."""

    def response_submitted(self, response: str, submitted_at: float) -> None:
        """Start to measure the time to first token of a response."""
        self._submitted_at[response] = submitted_at
        if len(self._submitted_at) > MAX_SUBMITTED:
            del self._submitted_at[next(iter(self._submitted_at))]

    def flushed(self, first_text_sent: list[ResponseReplica], now: float) -> None:
        """Record a flush. Responses whose first text it sent are removed from the list."""
        received_at = self.received_at or now
        if self.received_at:
            metrics.ADDED_DELAY.observe(now - self.received_at)
            self.received_at = 0.0
        while first_text_sent:
            self._record_first_text(first_text_sent.pop(), received_at, now)

    def _record_first_text(self, replica: ResponseReplica, received_at: float, now: float) -> None:
        submitted_at = self._submitted_at.pop(replica.response, None)
        if submitted_at is not None:
            metrics.FIRST_TOKEN.observe(now - submitted_at)
        if replica.queued is not None and replica.queued.trace is not None:
            attributes = {tracing.RESPONSE: replica.response, tracing.CONVERSATION: replica.queued.conversation}
            end = time.time_ns()
            begin = end - int((now - received_at) * 1e9)
            tracing.begin("first frame", SpanKind.INTERNAL, replica.queued.trace, attributes, begun_at=begin).end(end)
