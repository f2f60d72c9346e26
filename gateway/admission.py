"""Admission control: connection limits per process and address, the rate limit of new connections, load shedding.

A rejected client gets a time after which to retry. The times are staggered, so that rejected clients do not return all
at once.

A core module: it reads no clock and draws no random numbers. Both are arguments; times are seconds of any steady clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PER_ADDRESS: Final = 256
"""Default connection limit of one address."""

BURST_S: Final = 1.0
"""Size of the token bucket: so many seconds' worth of connections may arrive at one moment."""

RESERVED_SHARE: Final = 0.9
"""Share of the rate that is reserved for rejected clients; the rest is for clients that connect for the first time."""

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


class Admission:
    """The connections of one process, and the rate at which they arrive."""

    def __init__(
        self, max_connections: int, max_per_address: int | None, rate: float, random: Callable[[], float]
    ) -> None:
        """`max_per_address`: None for MAX_PER_ADDRESS, without a limit for loopback addresses.

        `rate`: new connections a second, 0 for no rate limit. `random` returns a number in [0, 1).
        """
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._rate = rate
        self._random = random
        self._addresses: Counter[str] = Counter()
        self._connections = 0
        self._closed = False
        self._tokens = rate * BURST_S
        self._refilled_at = 0.0
        self._reserved_until = 0.0
        """The retry time of the last client that the rate limit rejected."""

    def close(self) -> None:
        """Reject all connections from now on."""
        self._closed = True

    def accept(self, address: str, now: float) -> Rejection | None:
        """Count a connection from an address until `release`, or reject it and count nothing."""
        if self._closed:
            return Rejection("this gateway is shutting down", RETRY_ELSEWHERE_S * self._random(), shutting_down=True)
        if self._connections >= self._max_connections:
            return Rejection("too many connections", self._retry_when_full())
        if self._addresses[address] >= self._limit_of(address):
            return Rejection("too many connections from one address", self._retry_when_full(), address_full=True)
        if self._rate and not self._take_token(now):
            # Rejected clients retry one after the other, at the rate at which they will be accepted.
            self._reserved_until = max(self._reserved_until, now) + 1 / (RESERVED_SHARE * self._rate)
            return Rejection("too many connections at once", self._reserved_until - now)
        self._addresses[address] += 1
        self._connections += 1
        return None

    def release(self, address: str) -> None:
        """Stop counting an accepted connection, which has ended."""
        self._connections -= 1
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def _limit_of(self, address: str) -> float:
        if self._max_per_address is not None:
            return self._max_per_address
        # All clients of a proxy on this machine have its loopback address.
        loopback = address.startswith("127.") or address in ("::1", "")
        return self._max_connections if loopback else MAX_PER_ADDRESS

    def _retry_when_full(self) -> float:
        return RETRY_WHEN_FULL_S / 2 * (1 + self._random())

    def _take_token(self, now: float) -> bool:
        refill = (now - self._refilled_at) * self._rate
        self._tokens = min(self._rate * BURST_S, self._tokens + refill)
        self._refilled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
