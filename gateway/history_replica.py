"""This process's copy of one conversation's log: what was said, what was asked for, and what has ended.

Rules of this file: as of `gateway.replica`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from gateway import frame_codec, wire
from gateway.replica import Outcome, fresh
from gateway.streams import log_entries
from gateway.streams.log_entries import MAX_ENTRIES, HistoryEntry, HistoryId, Opened, Published, Settled, UserMessage
from gateway.wire import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.frame_codec import Frame

ORIGIN: Final = HistoryId(0, 0)
"""The cursor of a viewer that has nothing of a conversation, and of one that has all of an empty one."""

MAX_MESSAGES: Final = 200
"""A snapshot holds this many messages at most."""


RECONCILE_AFTER_ACTIVITY: Final = 15
"""Comparisons for which a conversation that was heard of stays in question: a failover may take its last end back."""


class Turn(NamedTuple):
    """One entry of a conversation log, with the frame that shows it, if one does."""

    id: HistoryId
    entry: HistoryEntry | None
    message: Message | None
    frame: Frame | None


class HistoryReplica:
    """A copy of one conversation log, from the oldest entry that is kept to `tail`."""

    __slots__ = ("_turns", "conversation", "heard", "opened", "quiet", "settled", "size", "tail")

    def __init__(self, conversation: str) -> None:
        self.conversation = conversation
        self.opened: dict[str, Opened] = {}
        self.settled: dict[str, Turn] = {}
        self._turns: list[Turn] = []
        self.tail = ORIGIN
        self.heard = False
        """As `ResponseReplica.heard`."""
        self.quiet = RECONCILE_AFTER_ACTIVITY
        """Comparisons since something was heard of it, as far as they count."""
        self.size = 0
        """Bytes of the frames held, which is about half of all."""

    def open(self) -> list[str]:
        """The responses without an end, oldest first."""
        return [response for response in self.opened if response not in self.settled]

    def hear(self, part: Published) -> Outcome:
        """As `ResponseReplica.hear`."""
        self.heard = True
        turn, before = log_entries.parse_history_id(part.first), log_entries.parse_history_id(part.previous)
        # What is no id of ours is no entry of ours: the log is read instead.
        return self.extend(before, [(turn, value) for value in part.values]) if turn else Outcome.GAP

    def extend(self, previous: HistoryId | None, entries: Sequence[tuple[HistoryId, bytes]]) -> Outcome:
        """As `ResponseReplica.extend`."""
        new = fresh(self._turns[-1].id if self._turns else None, self._may_have, previous, entries)
        if isinstance(new, Outcome):
            return new
        for entry, value in new:
            self._take(entry, value)
        if len(self._turns) > 2 * MAX_ENTRIES:
            self._forget(len(self._turns) - MAX_ENTRIES)
        return Outcome.ACCEPTED if new else Outcome.KNOWN

    def repair(self, asked: HistoryId | None, entries: Sequence[tuple[HistoryId, bytes]]) -> Outcome:
        """As `ResponseReplica.repair`; read whole, a log may begin anywhere, because old entries are trimmed away."""
        if asked is None:
            return self.extend(None, entries)
        if not entries or entries[0][0] != asked:
            return Outcome.FOREIGN
        return self.extend(asked, entries[1:])

    def _may_have(self, entry: HistoryId) -> bool:
        # What was trimmed away here can not be compared any more.
        return self.has(entry) or entry.seq < self._turns[0].id.seq

    def _take(self, entry: HistoryId, value: bytes) -> None:
        said: Message | None = None
        decoded = log_entries.decode_history_entry(value)
        match decoded:
            case UserMessage(id=name, text=text, replaces=replaces):
                said = Message(id=name, role="user", text=msgspec.Raw(msgspec.json.encode(text)), replaces=replaces)
            case Settled() as settled:
                opened = self.opened.get(settled.response)
                said = Message(
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
                # A newer release's; there is nothing of it to show.
                pass
        frame: Frame | None = None
        if said is not None:
            shown = wire.MessageFrame(conversation=self.conversation, cursor=str(entry), message=said)
            frame = frame_codec.encode(shown)
        turn = Turn(entry, decoded, said, frame)
        if isinstance(decoded, Settled):
            self.settled[decoded.response] = turn
        self._turns.append(turn)
        self.tail = entry
        self.size += len(frame.body) if frame else 0

    def _forget(self, count: int) -> None:
        for turn in self._turns[:count]:
            self.size -= len(turn.frame.body) if turn.frame else 0
            if isinstance(turn.entry, Settled):
                self.settled.pop(turn.entry.response, None)
                self.opened.pop(turn.entry.response, None)
        del self._turns[:count]

    def has(self, cursor: HistoryId) -> bool:
        """Tell whether reading can go on from `cursor` without a hole."""
        if cursor == ORIGIN:
            return not self._turns or self._turns[0].id.seq == 1
        position = cursor.seq - self._turns[0].id.seq if self._turns else -1
        return 0 <= position < len(self._turns) and self._turns[position].id == cursor

    def after(self, cursor: HistoryId) -> list[Turn]:
        """The entries beyond `cursor`, which `has` has approved."""
        return self._turns[cursor.seq - self._turns[0].id.seq + 1 :] if cursor != ORIGIN else list(self._turns)

    def messages(self) -> tuple[list[Message], bool]:
        """The newest messages, oldest first, and whether there are older ones."""
        said = [turn.message for turn in self._turns if turn.message]
        trimmed = bool(self._turns) and self._turns[0].id.seq > 1
        return said[-MAX_MESSAGES:], trimmed or len(said) > MAX_MESSAGES
