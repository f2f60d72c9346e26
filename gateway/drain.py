"""Graceful shutdown: when each client of a gateway gets its reconnect hint, and when it is closed.

A core module: it reads no clock. Times are seconds of any steady clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Client = TypeVar("Client")

RECONNECT_WITHIN_S: Final = 2.0
"""Time between the reconnect hint and the close. A client reconnects at a random moment within it."""


class DrainSchedule(Generic[Client]):
    """The clients of one process, spread evenly over the drain.

    If all got the hint at once, those that reconnect and those that wait for the close would form two waves, and the
    other gateways would get both.
    """

    def __init__(self, clients: Sequence[Client], begin: float, window: float) -> None:
        """`clients` are drained in this order; the last is closed `window` seconds after `begin`."""
        self.hint_s = min(RECONNECT_WITHIN_S, window / 2)
        """Seconds within which a notified client is to reconnect."""
        self._clients = clients
        self._begin = begin
        self._window = window
        self._notified = 0
        self._closed = 0

    @property
    def over(self) -> bool:
        """Whether all clients have been closed."""
        return self._closed == len(self._clients)

    def notify(self, now: float) -> Sequence[Client]:
        """Return the clients whose reconnect hint is due; each is returned once."""
        notified, self._notified = self._notified, self._due(now - self._begin)
        return self._clients[notified : self._notified]

    def close(self, now: float) -> Sequence[Client]:
        """Return the clients whose close is due, once each; they were notified before."""
        closed, self._closed = self._closed, min(self._notified, self._due(now - self._begin - self.hint_s))
        return self._clients[closed : self._closed]

    def _due(self, passed: float) -> int:
        """Return how many clients are due: the first immediately, the others one after the other."""
        span = self._window - self.hint_s
        if passed < 0:
            return 0
        if passed >= span:
            return len(self._clients)
        return min(len(self._clients), int(len(self._clients) * passed / span) + 1)
