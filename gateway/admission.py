"""Admission control of sockets and event streams: limits in total and per address, and the rate of new ones.

A rejected client gets a time after which to retry, at most MAX_RETRY_S. The times are staggered, so that rejected
clients do not return all at once.

A core module: it reads no clock and draws no random numbers. Both are arguments; times are seconds of any steady clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.addresses import counted_as
from gateway.connections import Limit, address_limit

if TYPE_CHECKING:
    from collections.abc import Callable

BURST_S: Final = 1.0
"""Size of the token bucket: so many seconds' worth of connections may arrive at one moment."""

ADDRESS_SHARE: Final = 0.1
"""Share of the rate up to which an address is served first. What it uses beyond comes after all other addresses."""

KEPT_S: Final = 0.25
"""Seconds' worth of connections that the bucket keeps, beyond BURST_S, for addresses within ADDRESS_SHARE."""

MAX_ADDRESSES: Final = 10_000
"""Addresses whose rates are known; the one that was seen longest ago is forgotten."""

RESERVED_SHARE: Final = 0.9
"""Share of the rate that is reserved for rejected clients; the rest is for clients that connect for the first time."""

MAX_RETRY_S: Final = 60.0
"""Retry times are at most this. Clients beyond retry in the second half of this time."""

RETRY_WHEN_FULL_S: Final = 10.0
"""Clients that a connection limit rejects retry in the second half of this time."""

RETRY_ELSEWHERE_S: Final = 1.0
"""Clients that a gateway in shutdown rejects retry within this time: another gateway accepts them."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a connection is rejected, and the seconds after which the client should retry."""

    reason: str
    retry_after: float
    address_full: bool = False
    """The address has too many connections, not this gateway."""
    shutting_down: bool = False
    """Another gateway may accept the connection immediately."""


@dataclass(slots=True)
class _Bucket:
    """Tokens that are left at a time, of at most `size`, refilled at `rate` a second."""

    rate: float
    size: float
    left: float
    at: float

    def refill(self, now: float) -> None:
        self.left = min(self.size, self.left + max(0.0, now - self.at) * self.rate)
        self.at = now


class Admission:
    """The sockets and event streams of one process, and the rate at which they arrive."""

    def __init__(
        self, max_connections: int, max_per_address: int | None, rate: float, random: Callable[[], float]
    ) -> None:
        """`max_per_address`: see `gateway.connections.address_limit`.

        `rate`: new connections a second, 0 for no rate limit. `random` returns a number in [0, 1).
        """
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._rate = rate
        self._random = random
        self._addresses: Counter[str] = Counter()
        self._connections = 0
        self._closed = False
        size = rate * (BURST_S + KEPT_S)
        self._all = _Bucket(rate, size, size, 0.0)
        self._rates: dict[str, _Bucket] = {}
        """The bucket of each address, the one that was seen longest ago first."""
        self._reserved_until = {True: 0.0, False: 0.0}
        """The retry time of the last client that the rate limit rejected, of addresses within their share or not."""

    def close(self) -> None:
        """Reject all connections from now on."""
        self._closed = True

    def accept(self, address: str, now: float) -> Rejection | None:
        """Count a connection from an address until `release`, or reject it and count nothing."""
        if self._closed:
            return Rejection("this gateway is shutting down", RETRY_ELSEWHERE_S * self._random(), shutting_down=True)
        name = counted_as(address)
        if self._addresses[name] >= address_limit(address, self._max_per_address):
            return self.rejection(Limit.ADDRESS)
        if self._connections >= self._max_connections:
            return self.rejection(Limit.TOTAL)
        retry_after = self._take_token(name, now) if self._rate else 0.0
        if retry_after:
            return Rejection("too many connections at once", retry_after)
        self._addresses[name] += 1
        self._connections += 1
        return None

    def rejection(self, limit: Limit) -> Rejection:
        """Return the rejection of a connection that is beyond a connection limit."""
        retry_after = RETRY_WHEN_FULL_S / 2 * (1 + self._random())
        if limit is Limit.ADDRESS:
            return Rejection("too many connections from one address", retry_after, address_full=True)
        return Rejection("too many connections", retry_after)

    def release(self, address: str) -> None:
        """Stop counting an accepted connection, which has ended."""
        name = counted_as(address)
        self._connections -= 1
        self._addresses[name] -= 1
        if not self._addresses[name]:
            del self._addresses[name]

    def _take_token(self, name: str, now: float) -> float:
        """Take a token and return 0, or return the time after which to retry."""
        own = self._rates.pop(name, None)
        if own is None:
            rate = self._rate * ADDRESS_SHARE
            own = _Bucket(rate, max(1.0, rate * BURST_S), max(1.0, rate * BURST_S), now)
            if len(self._rates) >= MAX_ADDRESSES:
                del self._rates[next(iter(self._rates))]
        self._rates[name] = own
        own.refill(now)
        self._all.refill(now)
        within_share = own.left >= 1
        kept = 0.0 if within_share else self._rate * KEPT_S
        if self._all.left >= 1 + kept:
            self._all.left -= 1
            own.left = max(0.0, own.left - 1)
            return 0.0
        # Rejected clients retry one after the other, at the rate at which they will be accepted.
        until = max(self._reserved_until[within_share], now) + 1 / (RESERVED_SHARE * self._rate)
        if until - now > MAX_RETRY_S:
            # There would be no end to the queue of clients that do not wait for their turn.
            return MAX_RETRY_S / 2 * (1 + self._random())
        self._reserved_until[within_share] = until
        return until - now
