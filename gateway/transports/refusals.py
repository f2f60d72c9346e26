"""What this process refuses before a request reaches a route: counted, and logged at a bounded rate."""

from __future__ import annotations

import logging
import time
from typing import Final

from gateway.streams import metrics
from gateway.streams.log_fields import error_fields
from gateway.streams.log_throttle import LogThrottle
from gateway.write_progress import WRITE_WITHIN_S

logger = logging.getLogger(__name__)

_throttle: Final = LogThrottle()


def slow_consumer_disconnected() -> None:
    """Log that a client was disconnected because it does not read."""
    suppressed = _throttle.admit("slow consumer", time.monotonic())
    if suppressed is not None:
        logger.info("slow_consumer_disconnected", extra={"after_s": WRITE_WITHIN_S, "suppressed": suppressed})


def request_failed(error: BaseException) -> None:
    """Log a fault in the handling of an HTTP request, which a client may be able to repeat."""
    suppressed = _throttle.admit(f"failed {type(error).__name__}", time.monotonic())
    if suppressed is not None:
        logger.error("request_failed", extra={**error_fields(error), "suppressed": suppressed})


def refused(reason: str) -> None:
    """Count a refusal; `reason` is one of a few constants."""
    metrics.REFUSALS.labels(reason).inc()
    suppressed = _throttle.admit(reason, time.monotonic())
    if suppressed is not None:
        logger.warning("request_refused", extra={"reason": reason, "suppressed": suppressed})
