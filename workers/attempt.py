"""What a worker wrote of one attempt and what it is to write next, whatever the store says it has.

The store appends only behind the id that the writer expects. When it refuses, its last id tells which of three things
happened: the append was made and its reply lost; a failover lost a tail of this attempt, which is then written again,
the same bytes under the same ids; or the log went on without this worker, which is fenced and stops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.streams.log_entries import LogId

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ENTRIES: Final = 128
"""An append holds at most this many entries."""


class Append(NamedTuple):
    """Entries to append from `first` on, if the log's last id is `expected`."""

    expected: LogId
    first: LogId
    values: list[bytes]


class Attempt:
    """One attempt's entries, from its start on."""

    def __init__(self, before: LogId, start: LogId, value: bytes) -> None:
        """`before` was the log's last id when the entry `value` was written as `start`."""
        self._before = before
        self._start = start
        self._values = [value]
        self._written = 1

    @property
    def number(self) -> int:
        """Which try at the response this is."""
        return self._start.number

    @property
    def written(self) -> int:
        """Entries that the log has of it, the start among them."""
        return self._written

    @property
    def tail(self) -> LogId:
        """The last id that the log is known to have, as far as this attempt goes."""
        return self._id(self._written) if self._written else self._before

    def add(self, values: Sequence[bytes]) -> None:
        """Put entries behind those that are to be written."""
        self._values += values

    def next(self) -> Append | None:
        """The append to make now; None when all is written."""
        if self._written == len(self._values):
            return None
        values = self._values[self._written : self._written + MAX_ENTRIES]
        return Append(self.tail, self._id(self._written + 1), values)

    def appended(self, append: Append) -> None:
        """The store made this append."""
        self._written += len(append.values)

    def refused(self, last: LogId | None) -> bool:
        """The store's last id was not the expected one. False: this attempt is fenced, and may write nothing more."""
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
