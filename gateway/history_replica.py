"""A replica of one conversation's history: its messages, and which responses were opened and settled."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from gateway import frame_codec, wire
from gateway.replica import Outcome, new_entries
from gateway.streams import log_entries
from gateway.streams.log_entries import MAX_ENTRIES, HistoryId, Opened, Published, Settled, UserMessage
from gateway.wire import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.frame_codec import Frame

ORIGIN: Final = HistoryId(0, 0)
"""The cursor of a viewer that has nothing of a history, and of one that has all of an empty history."""

MAX_MESSAGES: Final = 200
"""A snapshot and a page hold at most this many messages."""

MAX_SNAPSHOT_BYTES: Final = 262_144
"""Bytes of the messages of a snapshot or a page, except that one message is always there."""

MAX_HISTORY_BYTES: Final = 1_048_576
"""Bytes that a replica keeps, except that the last entry is always there. Older messages are read from the store."""

ENTRY_BYTES: Final = 700
"""Bytes of an entry without its text."""

RECONCILE_AFTER_ACTIVITY: Final = 15
"""Reconciliations that include a history after it received entries, because a failover may lose the last ones."""


class ReplicaEntry(NamedTuple):
    """One history entry. `message` is None for an entry that clients do not see.

    `entry` is None for a user's message, so that its text is held once, and for an entry of a newer release.
    """

    id: HistoryId
    entry: Opened | Settled | None
    message: Message | None

    @property
    def size(self) -> int:
        """Bytes of memory held."""
        return ENTRY_BYTES + (memoryview(self.message.text).nbytes if self.message is not None else 0)


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
        """Bytes of memory held."""

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
        if len(self._entries) > 2 * MAX_ENTRIES or self.size > 2 * MAX_HISTORY_BYTES:
            # Twice the bound, so that trimming does not copy the list for every entry.
            self._trim()
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
        kept: Opened | Settled | None = None
        message: Message | None = None
        match log_entries.decode_history_entry(value, self.conversation):
            case UserMessage(id=name, text=text, replaces=replaces):
                message = Message(id=name, role="user", text=msgspec.Raw(msgspec.json.encode(text)), replaces=replaces)
            case Settled() as kept:
                opened = self.opened.get(kept.response)
                message = Message(
                    id=kept.message,
                    role="assistant",
                    text=kept.text,
                    response=kept.response,
                    replies_to=opened.message if opened else None,
                    replaces=opened.replaces if opened else None,
                    reason=kept.reason,
                    retryable=kept.retryable,
                    error=kept.error,
                    usage=kept.usage,
                )
            case Opened() as kept:
                self.opened[kept.response] = kept
            case _:
                # An entry of a newer release, or one that cannot be read: it is kept for its id and not shown.
                pass
        added = ReplicaEntry(entry, kept, message)
        if isinstance(kept, Settled):
            self.settled[kept.response] = added
        self._entries.append(added)
        self.tail = entry
        self.size += added.size

    def _trim(self) -> None:
        count = max(0, len(self._entries) - MAX_ENTRIES)
        size = self.size - sum(each.size for each in self._entries[:count])
        while size > MAX_HISTORY_BYTES and count < len(self._entries) - 1:
            size -= self._entries[count].size
            count += 1
        for trimmed in self._entries[:count]:
            if isinstance(trimmed.entry, Settled):
                self.settled.pop(trimmed.entry.response, None)
                self.opened.pop(trimmed.entry.response, None)
        del self._entries[:count]
        self.size = size

    def has(self, cursor: HistoryId) -> bool:
        """Tell whether a read from `cursor` skips no entry."""
        if cursor == ORIGIN:
            return not self._entries or self._entries[0].id.seq == 1
        # By search: an entry of another program leaves a gap in the numbers.
        position = bisect_left(self._entries, cursor, key=_ID)
        return position < len(self._entries) and self._entries[position].id == cursor

    def lost(self, cursor: HistoryId) -> bool:
        """Tell whether the log lost the entry `cursor`; an entry that was trimmed is not lost."""
        return not self.has(cursor) and not (self._entries and cursor.seq < self._entries[0].id.seq)

    def after(self, cursor: HistoryId) -> list[ReplicaEntry]:
        """Return the entries after `cursor`; `has(cursor)` must hold."""
        return self._entries[bisect_right(self._entries, cursor, key=_ID) :]

    def frame(self, item: ReplicaEntry) -> Frame | None:
        """Return the frame of an entry; None for one that clients do not see."""
        if item.message is None:
            return None
        return frame_codec.encode(
            wire.MessageFrame(conversation=self.conversation, cursor=str(item.id), message=item.message)
        )

    def backlog(self, cursor: HistoryId) -> int:
        """Return about how many bytes of messages a viewer at `cursor` is missing; `has(cursor)` must hold."""
        return sum(item.size for item in self.after(cursor) if item.message is not None)

    def newest(self, max_bytes: int = MAX_SNAPSHOT_BYTES) -> tuple[list[Message], HistoryId | None]:
        """Return the newest messages, oldest first, and the cursor before which there are older ones, if there are any.

        The older ones may be in the store only, if entries were trimmed.
        """
        chosen: list[ReplicaEntry] = []
        size = 0
        for item in reversed(self._entries):
            if item.message is not None:
                size += item.size
                if chosen and (size > max_bytes or len(chosen) == MAX_MESSAGES):
                    break
                chosen.append(item)
        else:
            if not self._entries or self._entries[0].id.seq == 1:
                return [item.message for item in reversed(chosen) if item.message is not None], None
        first = chosen[-1] if chosen else self._entries[0]
        return [item.message for item in reversed(chosen) if item.message is not None], first.id
