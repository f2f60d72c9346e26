"""A replica of one conversation's history: its messages, and which responses were opened and settled."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from gateway import frame_codec, wire
from gateway.replica import Outcome, new_entries
from gateway.streams import log_entries
from gateway.streams.log_entries import MAX_ENTRIES, HistoryEntry, HistoryId, Opened, Published, Settled, UserMessage
from gateway.wire import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.frame_codec import Frame

ORIGIN: Final = HistoryId(0, 0)
"""The cursor of a viewer that has nothing of a history, and of one that has all of an empty history."""

MAX_MESSAGES: Final = 200
"""A snapshot holds at most this many messages."""

RECONCILE_AFTER_ACTIVITY: Final = 15
"""Reconciliations that include a history after it received entries, because a failover may lose the last ones."""


class ReplicaEntry(NamedTuple):
    """One history entry. `message` and `frame` are None for an entry that clients do not see."""

    id: HistoryId
    entry: HistoryEntry | None
    message: Message | None
    frame: Frame | None


_ID: Final = attrgetter("id")


class HistoryReplica:
    """A copy of one history, from the oldest entry that is kept to `tail`."""

    __slots__ = ("_entries", "checks_since_activity", "conversation", "opened", "received", "settled", "size", "tail")

    def __init__(self, conversation: str) -> None:
        self.conversation = conversation
        self.opened: dict[str, Opened] = {}
        self.settled: dict[str, ReplicaEntry] = {}
        self._entries: list[ReplicaEntry] = []
        self.tail = ORIGIN
        self.received = False
        """Entries were published since the last reconciliation."""
        self.checks_since_activity = RECONCILE_AFTER_ACTIVITY
        """Reconciliations since entries were published."""
        self.size = 0
        """Bytes of the frames, about half of the memory used."""

    def open_responses(self) -> list[str]:
        """Return the responses without an end, oldest first."""
        return [response for response in self.opened if response not in self.settled]

    def receive(self, part: Published) -> Outcome:
        """Apply published entries; see `extend`."""
        self.received = True
        first, previous = log_entries.parse_history_id(part.first), log_entries.parse_history_id(part.previous)
        # An id in another form is of a newer release: the log is read instead.
        return self.extend(previous, [(first, value) for value in part.values]) if first else Outcome.GAP

    def extend(self, previous: HistoryId | None, entries: Sequence[tuple[HistoryId, bytes]]) -> Outcome:
        """Apply consecutive entries, of which the first follows `previous`; see `ResponseReplica.extend`."""
        new = new_entries(self._entries[-1].id if self._entries else None, self._may_have, previous, entries)
        if isinstance(new, Outcome):
            return new
        for entry, value in new:
            if entry > self.tail:
                self._append(entry, value)
        if len(self._entries) > 2 * MAX_ENTRIES:
            self._trim(len(self._entries) - MAX_ENTRIES)
        return Outcome.ACCEPTED if new else Outcome.KNOWN

    def repair(self, cursor: HistoryId | None, entries: Sequence[tuple[HistoryId, bytes]]) -> Outcome:
        """Apply what the store returned from `cursor` on; see `ResponseReplica.repair`.

        Read from the beginning, a history may start at any entry, because old entries are trimmed.
        """
        if cursor is None:
            return self.extend(None, entries)
        if not entries or entries[0][0] != cursor:
            return Outcome.CONFLICT
        return self.extend(cursor, entries[1:])

    def _may_have(self, entry: HistoryId) -> bool:
        # Entries that were trimmed here cannot be compared any more.
        return self.has(entry) or entry.seq < self._entries[0].id.seq

    def _append(self, entry: HistoryId, value: bytes) -> None:
        message: Message | None = None
        decoded = log_entries.decode_history_entry(value, self.conversation)
        match decoded:
            case UserMessage(id=name, text=text, replaces=replaces):
                message = Message(id=name, role="user", text=msgspec.Raw(msgspec.json.encode(text)), replaces=replaces)
            case Settled() as settled:
                opened = self.opened.get(settled.response)
                message = Message(
                    id=settled.message,
                    role="assistant",
                    text=settled.text,
                    response=settled.response,
                    replies_to=opened.message if opened else None,
                    replaces=opened.replaces if opened else None,
                    reason=settled.reason,
                    retryable=settled.retryable,
                    error=settled.error,
                    usage=settled.usage,
                )
            case Opened() as opened:
                self.opened[opened.response] = opened
            case _:
                # An entry of a newer release, or one that cannot be read: it is kept for its id and not shown.
                pass
        frame: Frame | None = None
        if message is not None:
            frame = frame_codec.encode(
                wire.MessageFrame(conversation=self.conversation, cursor=str(entry), message=message)
            )
        added = ReplicaEntry(id=entry, entry=decoded, message=message, frame=frame)
        if isinstance(decoded, Settled):
            self.settled[decoded.response] = added
        self._entries.append(added)
        self.tail = entry
        self.size += len(frame.body) if frame else 0

    def _trim(self, count: int) -> None:
        for trimmed in self._entries[:count]:
            self.size -= len(trimmed.frame.body) if trimmed.frame else 0
            if isinstance(trimmed.entry, Settled):
                self.settled.pop(trimmed.entry.response, None)
                self.opened.pop(trimmed.entry.response, None)
        del self._entries[:count]

    def has(self, cursor: HistoryId) -> bool:
        """Tell whether a read from `cursor` skips no entry."""
        if cursor == ORIGIN:
            return not self._entries or self._entries[0].id.seq == 1
        # By search: an entry of another program leaves a gap in the numbers.
        position = bisect_left(self._entries, cursor, key=_ID)
        return position < len(self._entries) and self._entries[position].id == cursor

    def after(self, cursor: HistoryId) -> list[ReplicaEntry]:
        """Return the entries after `cursor`; `has(cursor)` must hold."""
        return self._entries[bisect_right(self._entries, cursor, key=_ID) :]

    def messages(self) -> tuple[list[Message], bool]:
        """Return the newest messages, oldest first, and whether there are older ones."""
        messages = [each.message for each in self._entries if each.message]
        trimmed = bool(self._entries) and self._entries[0].id.seq > 1
        return messages[-MAX_MESSAGES:], trimmed or len(messages) > MAX_MESSAGES
