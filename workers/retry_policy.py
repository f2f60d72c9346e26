"""Retry policy: which target gets the next provider call of a response, and after how long.

A failed call goes on at the next target at once. A target is called again only before the first token, because a
single target that failed in its answer is likely to fail again, and the partial text with a retry is offered instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workers.providers import ProviderError

FIRST_PAUSE_S: Final = 1.0
MIN_PAUSE_S: Final = 0.1
"""Of a provider's `Retry-After`: each call adds an entry to the log."""

MAX_PAUSE_S: Final = 8.0
"""Of the exponential backoff. A provider's `Retry-After` may exceed it."""

MAX_DOUBLINGS: Final = 8
JITTER: Final = 1.0
"""Share by which a pause is lengthened at random: answers that were rejected together must not return together."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one attempt at a response may spend on provider calls."""

    calls: int
    seconds: float
    """After the first failure no call starts later, except the first one of each target."""
    tokens: int
    """No call starts once the failed ones have used so many, prompts included; 0: no limit."""


class Call(NamedTuple):
    """The next call: the position of its target, and the seconds to wait before it."""

    target: int
    pause_s: float


class RetryPolicy:
    """The calls of one attempt; times are in seconds of any monotonic clock."""

    def __init__(self, targets: int, budget: Budget, now: float, random: Callable[[], float]) -> None:
        """`targets`: how many there are, in order of preference. `random` returns numbers from 0 to 1."""
        self._budget = budget
        self._deadline = now + budget.seconds
        """From the first failure on, and again from one after output: a long answer does not use the budget up."""
        self._random = random
        self._ready_at = [now] * targets
        self._failures = [0] * targets
        self._excluded = [False] * targets
        """Targets that would reject this request again."""
        self._tried: set[int] = set()
        self._target = -1
        self._calls = 0

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later: not if every target would reject it again."""
        return not all(self._excluded)

    def first(self, now: float, blocked_s: Sequence[float]) -> Call:
        """Return the first call. `blocked_s`: seconds for which the circuit breaker of each target is open.

        If all are open for longer than the budget, the first target is called all the same.
        """
        return self._choose(now, blocked_s, range(len(blocked_s))) or self._call(Call(0, 0.0))

    def again(self, now: float, blocked_s: Sequence[float]) -> Call | None:
        """Return the call instead of one that was not made, because its breaker is open again; see `next`."""
        self._calls -= 1
        target, count = self._target, len(self._ready_at)
        others = [(target + step) % count for step in range(1, count)]
        return self._choose(now, blocked_s, [target, *others])

    def next(
        self, error: ProviderError, now: float, blocked_s: Sequence[float], *, received: bool, tokens: int = 0
    ) -> Call | None:
        """Return the call after one that failed; None if the response fails.

        `received`: whether the failed call has produced text or reasoning. `tokens`: used by all calls.
        """
        target, count = self._target, len(self._ready_at)
        # The exponent has a limit: a provider may ask for thousands of retries with the shortest pause.
        backoff_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures[target], MAX_DOUBLINGS))
        if received or not any(self._failures):
            self._deadline = now + self._budget.seconds
        self._failures[target] += 1
        pause_s = max(error.retry_after, MIN_PAUSE_S) if error.retry_after is not None else backoff_s
        self._ready_at[target] = now + pause_s * (1 + JITTER * self._random())
        self._excluded[target] = self._excluded[target] or not error.retryable
        if self._calls >= self._budget.calls or (self._budget.tokens and tokens >= self._budget.tokens):
            return None
        others = [(target + step) % count for step in range(1, count)]
        return self._choose(now, blocked_s, others if received else [*others, target])

    def _choose(self, now: float, blocked_s: Sequence[float], targets: Sequence[int]) -> Call | None:
        """Return the call of the target that may be called first; of several at once, the first in `targets`."""
        ready = {
            target: max(now, self._ready_at[target], now + blocked_s[target])
            for target in targets
            if not self._excluded[target]
        }
        if now > self._deadline:
            # A target that was never called is called once, however long the others took.
            ready = {target: at for target, at in ready.items() if at <= now and target not in self._tried}
        target = min(ready, key=ready.__getitem__, default=None)
        if target is None or ready[target] > max(now, self._deadline):
            return None
        return self._call(Call(target, ready[target] - now))

    def _call(self, call: Call) -> Call:
        self._target = call.target
        self._tried.add(call.target)
        self._calls += 1
        return call
