"""What a process could not read in the store: each entry is skipped and counted, and the rest of its log is used.

A core module: the heartbeat reports the counts as a metric and, rarely, as a log event (`gateway.streams.presence`).
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Skipped(NamedTuple):
    """The number of entries that were skipped; `log` names where the last one is, never what it holds."""

    entries: int
    log: str


class Tally:
    """Counts skipped entries until they are reported."""

    def __init__(self) -> None:
        self.count = 0
        """Entries since the last `take`."""
        self._log = ""

    def add(self, log: str) -> None:
        """Count one entry of `log`: the id of a response or conversation, or the name of a key."""
        self.count += 1
        self._log = log

    def take(self) -> Skipped:
        """Return the entries that were skipped since the last call."""
        taken = Skipped(self.count, self._log)
        self.count, self._log = 0, ""
        return taken


TALLY: Final = Tally()
"""The tally of this process."""
