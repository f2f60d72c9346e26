"""Circuit breaker of a target: when calls that are likely to fail are not made.

Several failures in a row open it for a pause. Then one call is tried: its success closes the breaker, its failure opens
it again, for longer. A rejected request says nothing about its target, except that its key or its account is refused.
Nor do the requests of one user alone while others ask: a provider may fail at what one of them sends.

A core module: it reads no clock. Times are seconds of any monotonic clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.providers import ProviderError

FAILURES: Final = 5
"""Failures in a row that open a breaker."""

MIN_USERS: Final = 3
"""Different users whose calls must have failed, or as many as have asked lately."""

RECENT_S: Final = 60.0
MAX_USERS: Final = 16
"""Users that are remembered, the latest ones: only whether there are a few of them counts."""

FIRST_PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 30.0
MAX_DOUBLINGS: Final = 8

TRIAL_S: Final = 10.0
"""Seconds after which another call is tried, if the first one has no result yet."""

JITTER: Final = 0.5
"""Share by which a pause is lengthened at random: the workers must not all try at the same time."""

FAULTS: Final = frozenset(
    (
        "provider_error",
        "provider_overloaded",
        "provider_quota",
        "provider_rate_limited",
        "provider_refused_key",
        "provider_silent",
        "provider_timeout",
        "provider_unreachable",
    )
)
"""Codes of failures that the next request would most likely meet too."""


class Breaker:
    """The state of one target in one process."""

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` returns numbers from 0 to 1."""
        self._random = random
        self._failures = 0
        self._openings = 0
        self._open_until = float("-inf")
        self._trying = False
        self._asked_at: dict[str, float] = {}
        """The latest users, to when they asked; the latest last."""
        self._failing: set[str] = set()
        """Users whose calls failed since the last success."""

    def blocked_s(self, now: float) -> float:
        """Return the seconds until the target may be called; 0.0 now."""
        return max(0.0, self._open_until - now)

    def called(self, user: str, now: float) -> None:
        """Record a call. The first one after a pause is the trial; until it ends no other call is made."""
        self._asked_at.pop(user, None)
        self._asked_at[user] = now
        if len(self._asked_at) > MAX_USERS:
            del self._asked_at[next(iter(self._asked_at))]
        if self._openings and not self._trying and now >= self._open_until:
            self._trying = True
            self._open_until = now + TRIAL_S

    def succeeded(self) -> bool:
        """Close the breaker, because the target has answered; return whether it was open."""
        was_open = self._openings > 0
        self._failures = self._openings = 0
        self._failing.clear()
        self._open_until = float("-inf")
        self._trying = False
        return was_open

    def failed(self, error: ProviderError, user: str, now: float) -> float:
        """Count a failure; return for how many seconds it opens the breaker, 0.0 if it does not."""
        if error.code not in FAULTS or (now < self._open_until and not self._trying):
            # While it is open, only calls that began before fail.
            return 0.0
        self._failures += 1
        failed_before = user in self._failing
        if len(self._failing) < MAX_USERS:
            self._failing.add(user)
        recent = sum(now - at <= RECENT_S for at in self._asked_at.values())
        if not self._openings and (self._failures < FAILURES or len(self._failing) < min(MIN_USERS, recent)):
            return 0.0
        if not (self._openings and failed_before):
            # A trial of a user whose call failed before shows nothing new: the pause stays as it was.
            self._openings += 1
        pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._openings - 1, MAX_DOUBLINGS))
        pause_s *= 1 + JITTER * self._random()
        self._trying = False
        self._open_until = now + pause_s
        return pause_s

    def opened_elsewhere(self, until: float) -> None:
        """Open the breaker until a time: another process found that the target fails."""
        self._open_until = max(self._open_until, until)
