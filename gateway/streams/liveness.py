"""Liveness: whether a silent worker may be considered dead, so that its jobs are taken over.

A worker renews each lease three times per lease. A missing renewal shows a dead worker only if it could have arrived.
It is not evidence

- while the store was unreachable or slow for this observer: then other workers could not renew either;
- at a server that has been the primary only briefly: it may have lost the last renewals in a failover.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MIN_SLOW_S: Final = 0.2
"""Seconds: a faster round trip never counts as slow, however short the lease."""

RELEASED_MS: Final = 24 * 3_600_000
"""The idle time in milliseconds that release.lua sets. It exceeds every lease, so a released job needs no judgement."""


def renewal_interval_s(lease_s: float) -> float:
    """Return the seconds between two renewals of a lease: two of them may fail before it expires."""
    return lease_s / 3


class TakeOverRule(NamedTuple):
    """From which idle time on a job may be taken over."""

    lease_s: float | None
    """Seconds of silence after which a worker is considered dead; None: only released jobs are taken over."""
    min_connected_s: float = 0.0
    """Seconds for which this process must have been connected to the server that holds the job."""

    @property
    def candidate_idle_ms(self) -> int:
        """The idle time in milliseconds from which a job is a candidate."""
        return RELEASED_MS if self.lease_s is None else int(self.lease_s * 1000)

    def min_idle_ms(self, *, round_trip_s: float, connected_s: float) -> int:
        """Return the idle time in milliseconds that a candidate needs.

        `round_trip_s`: how long the store took to list the candidates. `connected_s`: how long this process has been
        connected to the server that listed them.
        """
        if self.lease_s is None or round_trip_s > max(renewal_interval_s(self.lease_s), MIN_SLOW_S):
            return RELEASED_MS
        return self.candidate_idle_ms if connected_s >= self.min_connected_s else RELEASED_MS


RELEASED_ONLY: Final = TakeOverRule(None)
"""Take over only released jobs."""


class StoreObserver:
    """One worker's observations of the store; times are in seconds of any monotonic clock."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._impaired_at = float("-inf")
        self._outage_since: float | None = None

    def failed(self, now: float) -> bool:
        """Record that a call failed because the store was unavailable; return whether an outage starts."""
        self._impaired_at = now
        starts = self._outage_since is None
        if self._outage_since is None:
            self._outage_since = now
        return starts

    def recovered(self, now: float) -> float | None:
        """Record that all servers answer; return the seconds of the outage that ends, None without an outage."""
        since, self._outage_since = self._outage_since, None
        return None if since is None else now - since

    def answered(self, started_at: float, now: float) -> None:
        """Record a call that succeeded; a slow one delayed the renewals of other workers as well."""
        if now - started_at > renewal_interval_s(self._lease_s):
            self._impaired_at = now

    def rule(self, now: float) -> TakeOverRule:
        """Return the rule for a take-over now: silence counts again one lease after the last impairment."""
        reliable = now - self._impaired_at > self._lease_s
        return TakeOverRule(self._lease_s if reliable else None, self._lease_s)
