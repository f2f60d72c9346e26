"""Connections of each subject, so that one token cannot hold all that the other limits allow.

A core module.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from gateway.auth import ANONYMOUS
from gateway.rate_limits import subject_of

if TYPE_CHECKING:
    from gateway.auth import Identity

RETRY_S: Final = 10.0
"""Time after which a client should retry whose subject has too many connections."""

TOO_MANY: Final = "This subject has too many connections: close some."


class SubjectConnections:
    """The sockets, event streams and answers that are being sent, of each subject in this process."""

    __slots__ = ("_max_connections", "_open")

    def __init__(self, max_connections: int) -> None:
        """`max_connections`: of one subject; 0 for no limit."""
        self._max_connections = max_connections
        self._open: Counter[str] = Counter()

    def open(self, identity: Identity) -> bool:
        """Count a connection until `close`; return False and count nothing at the limit.

        Without authentication there is no subject, and the limit of the address holds.
        """
        subject = _subject(identity)
        if subject is None:
            return True
        if self._max_connections and self._open[subject] >= self._max_connections:
            return False
        self._open[subject] += 1
        return True

    def close(self, identity: Identity) -> None:
        """Stop counting a connection."""
        subject = _subject(identity)
        if subject is not None:
            self._open[subject] -= 1
            if not self._open[subject]:
                del self._open[subject]


def _subject(identity: Identity) -> str | None:
    return None if identity is ANONYMOUS else subject_of(identity, "")
