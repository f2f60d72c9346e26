"""Who is let in: so many connections at once, so many from one address, and so many a second.

Rules of this file: it asks no clock and throws no dice; time, in seconds on any steady clock, and chance come in.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PER_ADDRESS: Final = 256

BURST: Final = 1.0
"""Seconds' worth of connections that may come at one moment."""

PROMISED: Final = 0.9
"""Share of the rate that is promised to those who were refused; the rest is for who comes unannounced."""

FULL_FOR: Final = 10.0
"""Seconds within which a place may become free; those who found none come back in the second half of them."""

ELSEWHERE_WITHIN: Final = 1.0
"""Seconds over which those spread who found a gateway that leaves: they are to find another one."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection is not let in, and after how many seconds it should be tried again."""

    reason: str
    retry_after: float
    crowded: bool = False
    """It is the address that has too many, not this gateway."""
    leaving: bool = False
    """Another gateway may let it in at once."""


class Admission:
    """The connections of one process, counted, and the rate at which they come."""

    def __init__(self, most: int, most_per_address: int | None, rate: float, chance: Callable[[], float]) -> None:
        """`most`: connections at once. `most_per_address`: None for the usual bound, and none for this machine's own.

        `rate`: connections a second, 0 for as many as come. `chance` returns a number in [0, 1).
        """
        self._most = most
        self._most_per_address = most_per_address
        self._rate = rate
        self._chance = chance
        self._addresses: Counter[str] = Counter()
        self._open = 0
        self._closed = False
        self._tokens = rate * BURST
        self._counted_at = 0.0
        self._promised_until = 0.0
        """When the last of those who were refused for the rate is to come back."""

    @property
    def open(self) -> int:
        """Connections that were let in and are not over."""
        return self._open

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    def admit(self, address: str, now: float) -> Refusal | None:
        """Count a connection from an address, until `dismiss`; or refuse it, and count nothing."""
        if self._closed:
            return Refusal("this gateway is leaving", ELSEWHERE_WITHIN * self._chance(), leaving=True)
        if self._open >= self._most:
            return Refusal("too many connections", self._after_a_place())
        if self._addresses[address] >= self._bound(address):
            return Refusal("too many connections from one address", self._after_a_place(), crowded=True)
        if self._rate and not self._take(now):
            # One after the other, as the rate allows: they do not meet again at this door.
            self._promised_until = max(self._promised_until, now) + 1 / (PROMISED * self._rate)
            return Refusal("too many connections at once", self._promised_until - now)
        self._addresses[address] += 1
        self._open += 1
        return None

    def dismiss(self, address: str) -> None:
        """A connection from an address that was let in is over."""
        self._open -= 1
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def _bound(self, address: str) -> float:
        if self._most_per_address is not None:
            return self._most_per_address
        # A proxy on this machine is every client's address.
        local = address.startswith("127.") or address in ("::1", "")
        return self._most if local else MAX_PER_ADDRESS

    def _after_a_place(self) -> float:
        return FULL_FOR / 2 * (1 + self._chance())

    def _take(self, now: float) -> bool:
        earned = (now - self._counted_at) * self._rate
        self._tokens = min(self._rate * BURST, self._tokens + earned)
        self._counted_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
