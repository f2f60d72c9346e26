"""A rate limit for log events that somebody outside can cause: the first of an interval is logged, the others counted.

A core module: it reads no clock. Times are seconds of any steady clock.
"""

from __future__ import annotations

from typing import Final

INTERVAL_S: Final = 10.0
"""Time in which an event of one kind is logged once."""

MAX_KINDS: Final = 64
"""Kinds that are told apart; beyond them the oldest is forgotten."""


class LogThrottle:
    """The kinds of one log event, and when each was logged."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[float, int]] = {}
        """Each kind with the time when it was logged and how often it was suppressed since, oldest first."""

    def admit(self, kind: str, now: float) -> int | None:
        """Return how many events of this kind were suppressed since it was logged; None: suppress this one too."""
        logged = self._kinds.get(kind)
        if logged is not None and now - logged[0] < INTERVAL_S:
            self._kinds[kind] = logged[0], logged[1] + 1
            return None
        self._kinds.pop(kind, None)
        if len(self._kinds) >= MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[kind] = now, 0
        return logged[1] if logged is not None else 0
