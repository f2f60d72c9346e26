"""Health decisions: whether the subscription is starved, and which partitions of the store are unavailable.

A core module: it reads no clock. Times are seconds of any steady clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_STARVED_INTERVALS: Final = 3
"""Intervals in a row in which only reconciliation found new entries, before the subscription is replaced."""

UNAVAILABLE_AFTER_S: Final = 1.5
"""Time that a reconciliation may take before viewers are notified that the store is unavailable."""

RECOVERED_WITHIN_S: Final = UNAVAILABLE_AFTER_S / 2
"""Time within which a reconciliation must complete for the store to count as available again (hysteresis)."""


class SubscriptionHealth:
    """Counts of one subscription, by interval: is it starved, that is, open but without messages?"""

    def __init__(self) -> None:
        self.messages = 0
        """Messages received in this interval."""
        self.compared = 0
        """Replicas compared with the store in this interval."""
        self.differing = 0
        """Replicas that differed from the store in this interval."""
        self._starved_intervals = 0

    @property
    def starved(self) -> bool:
        """Whether the last interval was a starved one."""
        return self._starved_intervals > 0

    def end_interval(self) -> bool:
        """Start the next interval; return whether the subscription must be replaced.

        A replica may differ because it was read before its message arrived. Only an interval with differences and
        without any message counts as starved.
        """
        if self.messages or (self.compared and not self.differing):
            self._starved_intervals = 0
        elif self.differing:
            self._starved_intervals += 1
        self.messages = self.compared = self.differing = 0
        return self._starved_intervals >= MAX_STARVED_INTERVALS

    def reset(self) -> None:
        """Forget starved intervals: a new subscription follows."""
        self._starved_intervals = 0


@dataclass(frozen=True, slots=True)
class Outage:
    """The partition became unavailable."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """The partition is available again, `after_s` seconds after the outage was detected."""

    after_s: float


class StoreHealth:
    """Outage hysteresis: the partitions of the store that are unavailable. Each change is returned once."""

    def __init__(self) -> None:
        self._unavailable_since: dict[int, float] = {}

    def is_unavailable(self, partition: int) -> bool:
        """Tell whether an outage of the partition was detected."""
        return partition in self._unavailable_since

    def delayed(self, partition: int, now: float) -> Outage | None:
        """Record that a request has not completed within UNAVAILABLE_AFTER_S."""
        if partition in self._unavailable_since:
            return None
        self._unavailable_since[partition] = now
        return Outage()

    def completed(self, partition: int, took_s: float, now: float) -> Recovery | None:
        """Record that a request completed. A late reply does not end an outage."""
        if took_s >= RECOVERED_WITHIN_S or partition not in self._unavailable_since:
            return None
        return Recovery(after_s=now - self._unavailable_since.pop(partition))
