"""What this process refuses before a request reaches a route: counted, and logged at a bounded rate."""

from __future__ import annotations

import logging
import time
from typing import Final

from gateway.streams import metrics
from gateway.streams.log_throttle import LogThrottle

logger = logging.getLogger(__name__)

_throttle: Final = LogThrottle()


def refused(reason: str) -> None:
    """Count a refusal; `reason` is one of a few constants."""
    metrics.REFUSALS.labels(reason).inc()
    suppressed = _throttle.admit(reason, time.monotonic())
    if suppressed is not None:
        logger.warning("request_refused", extra={"reason": reason, "suppressed": suppressed})
