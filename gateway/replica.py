"""This process's copy of one log: entries go in through one door, and a viewer reads it from its cursor.

Rules of this file: it never waits and knows no viewer. A frame's cursor is always one from which reading again gives
exactly what comes after that frame, so a viewer may be cut off between any two frames.
"""

from __future__ import annotations

from array import array
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.streams.log_entries import (
    HistoryId,
    LogId,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ORIGIN: Final = HistoryId(0, 0)
"""The cursor of a viewer that has nothing of a conversation, and of one that has all of an empty one."""

UNKNOWN: Final = LogId(-1, -1)
"""Stands for a cursor that a client spelled and that no log ever had."""

MAX_MESSAGES: Final = 200
"""A snapshot holds this many messages at most."""


class Outcome(Enum):
    """What became of entries at the door."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    GAP = "gap"
    """Entries before them are missing: read the log from the tail on."""
    FOREIGN = "foreign"
    """They contradict what is here: the log lost a tail that this copy still has. Start a new copy."""


ACCEPTED: Final = Outcome.ACCEPTED
"""What nearly always comes of what is published, by a name that costs no look-up among the members."""


Id = TypeVar("Id", LogId, HistoryId)


def fresh(
    tail: Id | None, has: Callable[[Id], bool], previous: Id | None, entries: Sequence[tuple[Id, bytes]]
) -> Sequence[tuple[Id, bytes]] | Outcome:
    """The door of both logs: those of the entries that follow on `tail`, or why there are none."""
    if previous == tail:
        return entries
    if tail is None or (previous is not None and previous.seq > tail.seq):
        return Outcome.GAP
    if previous is not None and not has(previous):
        return Outcome.FOREIGN
    for position, (entry, _) in enumerate(entries):
        if entry.seq > tail.seq:
            return entries[position:] if entries[position - 1][0] == tail else Outcome.FOREIGN
        if not has(entry):
            return Outcome.FOREIGN
    return Outcome.KNOWN


class TextIndex:
    """Escaped text of one kind, and where each entry of it ends."""

    __slots__ = ("_ends", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._ends = array("Q")
        """How long `data` was with the entry of each seq, up to the last that added to it."""

    @property
    def last(self) -> int:
        """The seq of the last entry that added to it; 0 where none did."""
        return len(self._ends)

    def append(self, seq: int, piece: bytes) -> None:
        ends = self._ends
        while len(ends) < seq - 1:
            ends.append(len(self.data))
        self.data += piece
        ends.append(len(self.data))

    def after(self, seq: int) -> bytes | bytearray:
        """What entries beyond `seq` hold, as one piece."""
        if seq >= len(self._ends):
            return b""
        return self.data[self._ends[seq - 1] if seq else 0 :]

    def clear(self) -> None:
        self.data.clear()
        del self._ends[:]
