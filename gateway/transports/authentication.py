"""Checks tokens and logs why one is rejected, because a client sees only a code."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from gateway import metrics
from gateway.auth import Authenticator, Denied, Identity
from gateway.streams.log_throttle import LogThrottle

if TYPE_CHECKING:
    from gateway.wire import TokenProblem

logger = logging.getLogger(__name__)


class TokenCheck:
    """The authenticator of one gateway, with its log and metrics."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._throttle = LogThrottle()

    def check(self, token: str | None, now: float) -> Identity | Denied:
        """Return what a token opens; see `Authenticator.check`."""
        checked = self._authenticator.check(token, now)
        if isinstance(checked, Denied):
            self._log(checked.problem)
        return checked

    def _log(self, problem: TokenProblem) -> None:
        metrics.TOKENS_REJECTED.labels(problem).inc()
        suppressed = self._throttle.admit(problem, time.monotonic())
        if suppressed is not None:
            logger.warning("token_rejected", extra={"problem": problem, "suppressed": suppressed})
