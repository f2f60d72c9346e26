"""Retry policy: when a failed provider call is repeated, and after how long.

A call is repeated only before its first token: afterwards a retry would discard text that viewers have seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.providers import ProviderError

FIRST_PAUSE_S: Final = 1.0
MIN_PAUSE_S: Final = 0.1
"""Of a provider's `Retry-After`: each call adds an entry to the log."""

MAX_PAUSE_S: Final = 8.0
"""Of the exponential backoff. A provider's `Retry-After` may exceed it."""

MAX_DOUBLINGS: Final = 8
JITTER: Final = 0.1
"""Share by which a pause is lengthened at random, so that workers do not retry at the same time."""


class RetryPolicy:
    """The retries of one attempt; times are in seconds of any monotonic clock."""

    def __init__(self, timeout_s: float, now: float, random: Callable[[], float]) -> None:
        """No call starts later than `now + timeout_s`. `random` returns numbers from 0 to 1."""
        self._deadline = now + timeout_s
        self._random = random
        self._failures = 0

    def pause_s(self, error: ProviderError, now: float, *, received: bool) -> float | None:
        """Return the seconds until the next call; None if the response fails.

        `received`: whether the failed call had produced text or reasoning.
        """
        # The exponent has a limit: a provider may ask for thousands of retries with the shortest pause.
        backoff_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, MAX_DOUBLINGS))
        self._failures += 1
        pause_s = max(error.retry_after, MIN_PAUSE_S) if error.retry_after is not None else backoff_s
        pause_s *= 1 + JITTER * self._random()
        if received or not error.retryable or now + pause_s > self._deadline:
            return None
        return pause_s
