"""Rate limit of requests: one token bucket per subject in this process, for all of its sockets and HTTP requests.

A request costs one unit, and the bytes that it brings cost more, because 45 bytes can request a snapshot. They are
counted after the request was accepted, so a bucket can be in debt; then the subject waits.

A core module: it reads no clock; times are arguments, in seconds of any steady clock.
"""

from __future__ import annotations

from typing import Final

from gateway.addresses import counted_as, is_loopback
from gateway.auth import ANONYMOUS, Identity

BURST_S: Final = 3.0
"""Size of a bucket: so many seconds' worth of requests may arrive at one moment."""

BYTES_PER_UNIT: Final = 16_384
"""Bytes of a snapshot, a page or a resumed log that cost as much as a request."""

NAMES_PER_UNIT: Final = 8
"""Responses named in a watch that cost as much as a request: each may have to be looked up in the store."""

WITHOUT_TOKEN_PER_S: Final = 100.0
"""Requests without a valid token of one address a second, pages and preflight requests of many users among them."""

MAX_RETRY_S: Final = 60.0
"""A refused request is told to wait at most this long, whatever the debt."""

MAX_SUBJECTS: Final = 20_000
"""Buckets kept; beyond that, the one that was used longest ago is forgotten, which is most likely full."""


class RateLimits:
    """The buckets of all subjects that sent requests lately."""

    __slots__ = ("_burst", "_full_at", "_rate")

    def __init__(self, rate: float) -> None:
        """`rate`: units a second of one subject; 0 for no limit."""
        self._rate = rate
        self._burst = rate * BURST_S
        self._full_at: dict[str, float] = {}
        """When each bucket is full again: all the state of a bucket. The one used last is the last."""

    def admit(self, subject: str | None, now: float, units: float = 1.0) -> float | None:
        """Take the units of a request and return None, or return the seconds after which to repeat it.

        A request is admitted if the bucket has a unit, and a subject of None always.
        """
        if subject is None or not self._rate:
            return None
        missing = 1.0 - (self._burst - self._used(subject, now))
        # Times are sums of fractions, so a unit may be short of one by a rounding error.
        if missing > 1e-6:
            return min(missing / self._rate, MAX_RETRY_S)
        self.spend(subject, now, units)
        return None

    def spend(self, subject: str | None, now: float, units: float) -> None:
        """Take units for what an admitted request brought; the bucket may get into debt."""
        if subject is None or not self._rate:
            return
        full_at = max(now, self._full_at.pop(subject, now)) + units / self._rate
        self._full_at[subject] = full_at
        if len(self._full_at) > MAX_SUBJECTS:
            del self._full_at[next(iter(self._full_at))]

    def _used(self, subject: str, now: float) -> float:
        return max(0.0, self._full_at.get(subject, now) - now) * self._rate


def subject_of(identity: Identity, address: str) -> str | None:
    """Return whose bucket a request uses: of its subject, without authentication of its address.

    None, no limit, for unauthenticated programs of this machine: all clients of a proxy here have its loopback address.
    """
    if identity is not ANONYMOUS:
        # The subject's length is bounded only by the token's; a hash has one size, and its seed cannot be guessed.
        return f"subject {hash(identity.subject):x}"
    return None if is_loopback(address) else f"address {counted_as(address)}"
