"""How the clients of a gateway that leaves are sent away: each is told to move, and closed, at moments of its own.

Rules of this file: it asks no clock; time comes in, in seconds on any steady clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Client = TypeVar("Client")

MOVE_WITHIN: Final = 2.0
"""Seconds between the word and the close, of which a client takes a random one to move."""


class DrainSchedule(Generic[Client]):
    """The clients of one process, sent away evenly over a window.

    Not all are told at once: those that obey and those that wait to be closed would then leave in two waves, and the
    gateways that stay would feel the sum of them.
    """

    def __init__(self, clients: Sequence[Client], begin: float, window: float) -> None:
        """`clients` are sent away in this order, the last of them closed `window` seconds after `begin`."""
        self.within = min(MOVE_WITHIN, window / 2)
        """Seconds that a client which has been told has to move."""
        self._clients = clients
        self._begin = begin
        self._window = window
        self._told = 0
        self._closed = 0

    @property
    def over(self) -> bool:
        """Whether all have been closed."""
        return self._closed == len(self._clients)

    def tell(self, now: float) -> Sequence[Client]:
        """Those that are to be told to move, by now, and have not been."""
        told, self._told = self._told, self._due(now - self._begin)
        return self._clients[told : self._told]

    def close(self, now: float) -> Sequence[Client]:
        """Those that are to be closed, by now, and have not been; they were told before."""
        closed, self._closed = self._closed, min(self._told, self._due(now - self._begin - self.within))
        return self._clients[closed : self._closed]

    def _due(self, passed: float) -> int:
        """Of how many the moment has come: that of the first at once, and of the others one after the other."""
        over = self._window - self.within
        if passed < 0:
            return 0
        if passed >= over:
            return len(self._clients)
        return min(len(self._clients), int(len(self._clients) * passed / over) + 1)
