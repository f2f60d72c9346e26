"""Fencing and the entries of one attempt: which are written, and what to append next.

The store appends only if its last id is the one that the writer expects. Otherwise its last id shows which of three
things happened: the append was made and its reply was lost; a failover lost a tail of this attempt, and the same bytes
are written again under the same ids; or another attempt or an end follows, and this attempt is fenced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.streams.log_entries import LogId

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ENTRIES: Final = 128
"""Of one append."""


class Append(NamedTuple):
    """Entries to append from the id `first` on, if the last id of the log is `expected`."""

    expected: LogId
    first: LogId
    values: list[bytes]


class Attempt:
    """The entries of one attempt, beginning with its start entry."""

    def __init__(self, before: LogId, start: LogId, value: bytes) -> None:
        """`value` is the start entry with the id `start`; `before` was the last id before it."""
        self._before = before
        self._start = start
        self._values = [value]
        self._written = 1

    @property
    def number(self) -> int:
        """The number of the attempt."""
        return self._start.number

    @property
    def written(self) -> int:
        """Entries that the log contains, including the start."""
        return self._written

    @property
    def tail(self) -> LogId:
        """The last id that the log should have."""
        return self._id(self._written) if self._written else self._before

    def add(self, values: Sequence[bytes]) -> None:
        """Queue entries to append."""
        self._values += values

    def drop_unwritten(self) -> None:
        """Drop the entries that the log does not contain."""
        del self._values[self._written :]

    def next(self) -> Append | None:
        """Return the next append; None if all entries are written."""
        if self._written == len(self._values):
            return None
        values = self._values[self._written : self._written + MAX_ENTRIES]
        return Append(self.tail, self._id(self._written + 1), values)

    def appended(self, append: Append) -> None:
        """Record that the store made this append."""
        self._written += len(append.values)

    def reconcile(self, last: LogId | None) -> bool:
        """Apply the last id of a store that refused an append; return False if this attempt is fenced."""
        if last == self._before:
            self._written = 0
            return True
        if last is None or last.attempt != self._start.attempt:
            return False
        written = last.seq - self._start.seq + 1
        if not 1 <= written <= len(self._values):
            return False
        self._written = written
        return True

    def _id(self, count: int) -> LogId:
        return LogId(self._start.attempt, self._start.seq + count - 1)
