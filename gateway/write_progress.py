"""Whether a client that is slow to read is still reading: what it takes while writing to it is paused.

A full write buffer takes minutes to drain on a slow network, so progress counts and not an empty buffer. The kernel's
own limit, TCP_USER_TIMEOUT, is not used: it resets a client that reads all the time, if its receive window is never as
large as the next segment.

A core module: it reads no clock; times are arguments, in seconds of any steady clock.
"""

from __future__ import annotations

from typing import Final

WRITE_WITHIN_S: Final = 30.0
"""Time in which a client must take MIN_BYTES_PER_S; otherwise it is disconnected.

A receive window opens in steps of up to 95 kB on a connection within one machine, as of a proxy: at 8 kB/s every 12 s.
"""

MIN_BYTES_PER_S: Final = 1_000
"""Less is no client that reads: the slowest mobile networks carry several times as much."""

SILENT_WITHIN_S: Final = 18.0
"""Time in which a client must acknowledge what was written, or a probe of its window; otherwise no packet passes.

Less than the interval of heartbeats, at which it is looked at. The kernel probes an idle client every 10 s, and a
closed window at intervals that double: the first above this time begins 25 s after the window closed.
"""


def unreachable(silence: float) -> bool:
    """Tell whether to disconnect a client that has acknowledged nothing for so many seconds."""
    return silence >= SILENT_WITHIN_S


class UnreadData:
    """Whether a client takes data from the buffer of the kernel, while writing is not paused."""

    __slots__ = ("_acknowledged", "_since")

    def __init__(self) -> None:
        self._acknowledged = -1
        self._since = 0.0

    def stalled(self, unsent: int, acknowledged: int, now: float) -> bool:
        """Tell whether a client has taken nothing for WRITE_WITHIN_S, although there is something unsent.

        `acknowledged`: bytes that it has taken since it connected. To be called at intervals.
        """
        if not unsent or acknowledged != self._acknowledged:
            self._acknowledged, self._since = acknowledged, now
            return False
        return now - self._since >= WRITE_WITHIN_S


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
