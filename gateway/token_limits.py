"""Whose rate a request takes from before its token is checked: a signature costs more than most requests.

A token that was valid lately counts for its subject. Any other counts for its client's address, and a valid one gives
the unit back: a flood of bad tokens is not verified beyond the rate of its address.

A core module: it reads no clock; times are arguments, in seconds of any steady clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.auth import ANONYMOUS, Identity
from gateway.rate_limits import subject_of

if TYPE_CHECKING:
    from gateway.auth import Denied
    from gateway.rate_limits import RateLimits

MAX_TOKENS: Final = 20_000
"""Tokens that were valid lately; the one that was used longest ago is forgotten, and then counts for its address."""


class TokenLimits:
    """The tokens that were valid lately, and the rate limit of addresses for all others."""

    __slots__ = ("_addresses", "_subjects")

    def __init__(self, addresses: RateLimits) -> None:
        """`addresses`: the rate limit of requests without a valid token."""
        self._addresses = addresses
        self._subjects: dict[int, str] = {}
        """The bucket of the subject of each token, by the token's hash: its seed cannot be guessed."""

    def subject(self, token: str) -> str | None:
        """Return the bucket of the subject of a token that was valid lately; None for any other."""
        return self._subjects.get(hash(token))

    def admit(self, token: str | None, address: str, now: float) -> float | None:
        """Take a unit of an address and return None, or return the seconds after which to repeat the request.

        Then call `checked`. A token that was valid lately takes nothing.
        """
        if token is not None and hash(token) in self._subjects:
            return None
        return self._addresses.admit(subject_of(ANONYMOUS, address), now)

    def checked(self, token: str, identity: Identity | Denied | None, address: str, now: float) -> None:
        """Remember an admitted token if it is valid, and give the unit of its address back."""
        known = self._subjects.pop(hash(token), None)
        if not isinstance(identity, Identity):
            return
        subject = subject_of(identity, address)
        if known is None:
            self._addresses.spend(subject_of(ANONYMOUS, address), now, -1.0)
        if identity is not ANONYMOUS and subject is not None:
            self._subjects[hash(token)] = subject
            if len(self._subjects) > MAX_TOKENS:
                del self._subjects[next(iter(self._subjects))]
