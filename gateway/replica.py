"""What both replicas share: the overlap filter for entries that arrive twice or out of order, and the text index.

A replica is this process's copy of one log. The cursor of a frame is always one from which a read continues right after
that frame, so a viewer may disconnect between any two frames. A core module: it never waits.
"""

from __future__ import annotations

from array import array
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.streams.log_entries import HistoryId, LogId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_PIECE_BYTES: Final = 65_536
"""Bytes of text that one read returns at most, except that an entry and a message are never divided.

What follows is read by the next flush, so a viewer that is far behind neither holds more than a piece in its write
buffer nor delays others.
"""

UNKNOWN: Final = LogId(-1, -1)
"""Stands for a cursor that a client sent and that no log ever had."""


class Outcome(Enum):
    """The result of applying entries to a replica."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    GAP = "gap"
    """Entries before them are missing: the log must be read from the tail of the replica."""
    CONFLICT = "conflict"
    """They contradict the replica: the log lost a tail that the replica still has. A new replica must be built."""


ACCEPTED: Final = Outcome.ACCEPTED
"""Alias that avoids an enum lookup on the hot path."""


Id = TypeVar("Id", LogId, HistoryId)


def new_entries(
    tail: Id | None, has: Callable[[Id], bool], previous: Id | None, entries: Sequence[tuple[Id, bytes]]
) -> Sequence[tuple[Id, bytes]] | Outcome:
    """Return the entries that extend a replica: the overlap filter. If there are none, return why.

    `previous` is the id before the first entry, None at the beginning of the log. `has` tells whether the replica holds
    an id.
    """
    if previous == tail:
        return entries
    if tail is None or (previous is not None and previous.seq > tail.seq):
        return Outcome.GAP
    if previous is not None and not has(previous):
        return Outcome.CONFLICT
    for position, (entry, _) in enumerate(entries):
        if entry.seq > tail.seq:
            return entries[position:] if entries[position - 1][0] == tail else Outcome.CONFLICT
        if not has(entry):
            return Outcome.CONFLICT
    return Outcome.KNOWN


class TextIndex:
    """Escaped text of one kind, with the offset at which each entry ends."""

    __slots__ = ("_ends", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._ends = array("Q")
        """Length of `data` after the entry of each seq, up to the last entry that added text."""

    @property
    def last(self) -> int:
        """The seq of the last entry that added text; 0 if none did."""
        return len(self._ends)

    def append(self, seq: int, piece: bytes) -> None:
        """Add the text of the entry `seq`."""
        ends = self._ends
        while len(ends) < seq - 1:
            ends.append(len(self.data))
        self.data += piece
        ends.append(len(self.data))

    def after(self, seq: int) -> bytes | bytearray:
        """Return the text of all entries after `seq`, coalesced."""
        if seq >= len(self._ends):
            return b""
        return self.data[self._ends[seq - 1] if seq else 0 :]

    def length(self, seq: int) -> int:
        """Return the bytes of all entries up to `seq`."""
        ends = self._ends
        return ends[min(seq, len(ends)) - 1] if seq > 0 and ends else 0

    def between(self, seq: int, last: int) -> bytes | bytearray:
        """Return the text of the entries after `seq` up to `last`, coalesced."""
        return self.data[self.length(seq) : self.length(last)]

    @property
    def size(self) -> int:
        """Bytes of memory held."""
        return len(self.data) + len(self._ends) * self._ends.itemsize

    def clear(self) -> None:
        """Drop all text."""
        self.data.clear()
        del self._ends[:]
