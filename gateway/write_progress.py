"""Whether a client that is slow to read is still reading: what it takes while writing to it is paused.

A full write buffer takes minutes to drain on a slow network, so progress counts and not an empty buffer.

A core module: it reads no clock; times are arguments, in seconds of any steady clock.
"""

from __future__ import annotations

from typing import Final

WRITE_WITHIN_S: Final = 15.0
"""Time in which a client must take MIN_BYTES_PER_S of what is sent; otherwise it is disconnected."""

MIN_BYTES_PER_S: Final = 1_000
"""Less is no client that reads: the slowest mobile networks carry several times as much."""


class WriteProgress:
    """One pause of writing, in windows of WRITE_WITHIN_S."""

    __slots__ = ("_unsent", "due")

    def __init__(self, unsent: int, now: float) -> None:
        """`unsent`: bytes that the client has not taken yet."""
        self._unsent = unsent
        self.due = now + WRITE_WITHIN_S
        """The end of the window: when to call `stalled`."""

    def stalled(self, unsent: int, now: float) -> bool:
        """Tell whether the client took too little in the window that ends now, if one does; begin the next window."""
        if now < self.due:
            return False
        taken = self._unsent - unsent
        self._unsent = unsent
        self.due = now + WRITE_WITHIN_S
        return taken < MIN_BYTES_PER_S * WRITE_WITHIN_S and unsent > 0
