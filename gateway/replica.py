"""This process's copy of one log: entries go in through one door, and a viewer reads it from its cursor.

Rules of this file: it never waits and knows no viewer. A frame's cursor is always one from which reading again gives
exactly what comes after that frame, so a viewer may be cut off between any two frames.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from gateway import wire
from gateway.streams import events
from gateway.streams.events import (
    MOST_ENTRIES,
    End,
    LogId,
    Opened,
    Queued,
    Settled,
    Start,
    TurnEntry,
    TurnId,
    UserMessage,
    Waiting,
)
from gateway.wire import Frame, Message, OpenResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ORIGIN: Final = TurnId(0, 0)
"""The cursor of a viewer that has nothing of a conversation, and of one that has all of an empty one."""

UNKNOWN: Final = LogId(-1, -1)
"""Stands for a cursor that a client spelled and that no log ever had."""

MOST_MESSAGES: Final = 200
"""A snapshot holds this many messages at most."""


class Extended(Enum):
    """What became of entries at the door."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    GAP = "gap"
    """Entries before them are missing: read the log from the tail on."""
    FOREIGN = "foreign"
    """They contradict what is here: the log lost a tail that this copy still has. Start a new copy."""


Id = TypeVar("Id", LogId, TurnId)


def _fresh(
    tail: Id | None, has: Callable[[Id], bool], previous: Id | None, entries: Sequence[tuple[Id, bytes]]
) -> Sequence[tuple[Id, bytes]] | Extended:
    """The door of both logs: those of the entries that follow on `tail`, or why there are none."""
    if previous == tail:
        return entries
    if tail is None or (previous is not None and previous.seq > tail.seq):
        return Extended.GAP
    if previous is not None and not has(previous):
        return Extended.FOREIGN
    for position, (entry, _) in enumerate(entries):
        if entry.seq > tail.seq:
            return entries[position:] if entries[position - 1][0] == tail else Extended.FOREIGN
        if not has(entry):
            return Extended.FOREIGN
    return Extended.KNOWN


class Track:
    """Escaped text of one kind, and where each entry of it ends."""

    __slots__ = ("data", "ends", "seqs")

    def __init__(self) -> None:
        self.data = bytearray()
        self.seqs = array("Q")
        self.ends = array("Q")

    def append(self, seq: int, piece: bytes) -> None:
        self.data += piece
        self.seqs.append(seq)
        self.ends.append(len(self.data))

    def after(self, seq: int) -> bytes:
        """What entries beyond `seq` hold, as one piece."""
        position = bisect_right(self.seqs, seq)
        return bytes(memoryview(self.data)[self.ends[position - 1] if position else 0 :])

    def clear(self) -> None:
        self.data.clear()
        del self.seqs[:], self.ends[:]


class ResponseReplica:
    """A copy of one response log, from its first entry to `tail`."""

    __slots__ = (
        "_attempts",
        "_reset_at",
        "_start_id",
        "_waiting_at",
        "chars",
        "end",
        "queued",
        "reasoning",
        "response",
        "start",
        "tail",
        "text",
        "waiting",
    )

    def __init__(self, response: str) -> None:
        self.response = response
        self.tail: LogId | None = None
        self.queued: Queued | None = None
        self.start: Start | None = None
        self.waiting: Waiting | None = None
        self.end: End | None = None
        self.chars = 0
        self.text = Track()
        self.reasoning = Track()
        self._attempts: list[tuple[int, int]] = []
        """The first seq of each attempt, and the attempt."""
        self._start_id = UNKNOWN
        self._reset_at = 0
        """The seq of the last start that followed another: who has less than it has text of an older attempt."""
        self._waiting_at = 0

    @property
    def size(self) -> int:
        """Bytes of text held."""
        return len(self.text.data) + len(self.reasoning.data)

    def is_of(self, conversation: str) -> bool:
        """Tell whether this is a response of that conversation."""
        return self.queued is not None and self.queued.conversation == conversation

    @property
    def state(self) -> str:
        """`queued`, `waiting`, `recovering`, `running` or `ended`: derived from the log, so every viewer agrees."""
        if self.end is not None:
            return "ended"
        if self.start is None:
            return "queued"
        if self.waiting is not None:
            return "waiting"
        written = max(
            self.text.seqs[-1] if self.text.seqs else 0, self.reasoning.seqs[-1] if self.reasoning.seqs else 0
        )
        if self._reset_at and written < self._reset_at:
            return "recovering"
        return "running"

    def extend(self, previous: LogId | None, entries: Sequence[tuple[LogId, bytes]]) -> Extended:
        """Take consecutive entries, of which the first follows on `previous` (None: on nothing).

        Those already here are ignored. Anything but KNOWN and ACCEPTED has changed nothing.
        """
        fresh = _fresh(self.tail, self.has, previous, entries)
        if isinstance(fresh, Extended):
            return fresh
        if fresh and (self.end is not None or (self.tail is None and fresh[0][1][:1] != events.QUEUED)):
            # Nothing follows an end, and a log whose beginning was trimmed away can not be shown.
            return Extended.FOREIGN
        for entry, value in fresh:
            self._take(entry, value)
        return Extended.ACCEPTED if fresh else Extended.KNOWN

    def repair(self, asked: LogId | None, entries: Sequence[tuple[LogId, bytes]]) -> Extended:
        """Take what the log held from `asked` on, that entry included: this copy's tail when the log was asked.

        Never a gap: where the entry is missing or does not fit, the log is another one than this copy's.
        """
        if asked is None:
            return self.extend(None, entries)
        if not entries or entries[0][0] != asked:
            return Extended.FOREIGN
        return self.extend(asked, entries[1:])

    def _take(self, entry: LogId, value: bytes) -> None:
        kind = value[:1]
        if self.tail is None or entry.attempt != self.tail.attempt:
            self._attempts.append((entry.seq, entry.attempt))
        if kind == events.TEXT:
            self.text.append(entry.seq, value[1:])
            self.waiting = None
        elif kind == events.REASONING:
            self.reasoning.append(entry.seq, value[1:])
            self.waiting = None
        else:
            match events.decode_log(value):
                case Queued() as queued:
                    self.queued = queued
                case Start() as start:
                    if self.start is not None:
                        self._reset_at = entry.seq
                    if kind == events.START:
                        self.text.clear()
                        self.reasoning.clear()
                    self.start, self._start_id, self.waiting = start, entry, None
                case Waiting() as waiting:
                    self.waiting, self._waiting_at = waiting, entry.seq
                case End() as end:
                    self.end, self.waiting = end, None
                    self.chars = len(events.unescape(bytes(self.text.data)))
                case _:
                    # A newer release's; there is nothing of it to show.
                    pass
        self.tail = entry

    def has(self, cursor: LogId) -> bool:
        """Tell whether the entry `cursor` is part of this log."""
        if self.tail is None or not 1 <= cursor.seq <= self.tail.seq:
            return False
        position = bisect_right(self._attempts, (cursor.seq, events.NONCES**2)) - 1
        return self._attempts[position][1] == cursor.attempt

    def read(self, after: LogId | None) -> list[Frame]:
        """The frames that bring a viewer from `after` (None: from nothing) to the tail; few, however far that is."""
        tail = self.tail
        if tail is None or after == tail:
            return []
        queued = self.queued
        assert queued is not None
        frames: list[Frame] = []
        # The end is a frame of its own, so what comes before it must not move a cursor beyond it.
        before_end = LogId(self._attempt_at(tail.seq - 1), tail.seq - 1) if self.end else tail
        continued = after is None or self.has(after)
        older = after is not None and continued and after.number > 0 and after.seq < self._reset_at
        if older:
            frames.append(wire.status(self.response, "recovering"))
        if older or not continued:
            frames.append(
                wire.reset(
                    self.response,
                    str(before_end),
                    bytes(self.text.data),
                    bytes(self.reasoning.data),
                    "attempt" if older else "lost",
                )
            )
            # After the reset, so that no other text stands under this attempt; and at its cursor.
            frames += self._begun(before_end)
            seen = self._start_id.seq
        else:
            seen = after.seq if after is not None else 0
            if seen < self._start_id.seq:
                frames += self._begun(self._start_id)
            text, reasoning = self.text.after(seen), self.reasoning.after(seen)
            if text or reasoning:
                frames.append(wire.delta(self.response, str(before_end), text, reasoning))
        if self.end is not None:
            frames.append(
                wire.end(
                    queued.conversation,
                    self.response,
                    str(tail),
                    self.end.reason,
                    self.chars,
                    usage=self.end.usage,
                    error=self.end.error,
                    retryable=self.end.retryable,
                )
            )
        elif (self.waiting and seen < self._waiting_at) or (self.start is None and (after is None or not continued)):
            frames.append(self.status(tail))
        return frames

    def _begun(self, cursor: LogId) -> list[Frame]:
        if self.start is None or self.queued is None:
            return []
        number, queued = self._start_id.number, self.queued
        return [
            wire.start(
                queued.conversation,
                self.response,
                str(cursor),
                self.start.model,
                number,
                queued.message,
                queued.replaces,
            )
        ]

    def status(self, cursor: LogId | None = None) -> Frame:
        """What the response is doing now; `cursor` where that is news to the viewer, who then has all up to there."""
        queued = self.queued
        return wire.status(
            self.response,
            self.state,
            conversation=queued.conversation if queued else None,
            replies_to=queued.message if queued else None,
            replaces=queued.replaces if queued else None,
            retry_in=self.waiting.retry_in if self.waiting else None,
            cursor=str(cursor) if cursor else None,
        )

    def open(self) -> OpenResponse:
        """What a snapshot shows of this response, up to the tail."""
        assert self.queued is not None
        return OpenResponse(
            response=self.response,
            cursor=str(self.tail),
            state=self.state,
            model=self.start.model if self.start else self.queued.model,
            attempt=self._start_id.number if self.start else 0,
            text=wire.raw(bytes(self.text.data)),
            reasoning=wire.raw(bytes(self.reasoning.data)) if self.reasoning.data else None,
            replies_to=self.queued.message,
            replaces=self.queued.replaces,
        )

    def _attempt_at(self, seq: int) -> int:
        return self._attempts[bisect_right(self._attempts, (seq, events.NONCES**2)) - 1][1]


class Turn(NamedTuple):
    """One entry of a conversation log, with the frame that shows it, if one does."""

    id: TurnId
    entry: TurnEntry | None
    message: Message | None
    frame: Frame | None


class ConversationReplica:
    """A copy of one conversation log, from the oldest entry that is kept to `tail`."""

    __slots__ = ("_turns", "conversation", "opened", "settled", "size")

    def __init__(self, conversation: str) -> None:
        self.conversation = conversation
        self.opened: dict[str, Opened] = {}
        self.settled: dict[str, Turn] = {}
        self._turns: list[Turn] = []
        self.size = 0
        """Bytes of the frames held, which is about half of all."""

    @property
    def tail(self) -> TurnId:
        return self._turns[-1].id if self._turns else ORIGIN

    def open(self) -> list[str]:
        """The responses without an end, oldest first."""
        return [response for response in self.opened if response not in self.settled]

    def extend(self, previous: TurnId | None, entries: Sequence[tuple[TurnId, bytes]]) -> Extended:
        """As `ResponseReplica.extend`."""
        fresh = _fresh(self._turns[-1].id if self._turns else None, self._may_have, previous, entries)
        if isinstance(fresh, Extended):
            return fresh
        for entry, value in fresh:
            self._take(entry, value)
        if len(self._turns) > 2 * MOST_ENTRIES:
            self._forget(len(self._turns) - MOST_ENTRIES)
        return Extended.ACCEPTED if fresh else Extended.KNOWN

    def repair(self, asked: TurnId | None, entries: Sequence[tuple[TurnId, bytes]]) -> Extended:
        """As `ResponseReplica.repair`; read whole, a log may begin anywhere, because old entries are trimmed away."""
        if asked is None:
            return self.extend(None, entries)
        if not entries or entries[0][0] != asked:
            return Extended.FOREIGN
        return self.extend(asked, entries[1:])

    def _may_have(self, entry: TurnId) -> bool:
        # What was trimmed away here can not be compared any more.
        return self.has(entry) or entry.seq < self._turns[0].id.seq

    def _take(self, entry: TurnId, value: bytes) -> None:
        said: Message | None = None
        decoded = events.decode_turn(value)
        match decoded:
            case UserMessage(id=name, text=text, replaces=replaces):
                said = Message(name, "user", msgspec.Raw(msgspec.json.encode(text)), replaces=replaces)
            case Settled() as settled:
                opened = self.opened.get(settled.response)
                said = Message(
                    settled.message,
                    "assistant",
                    settled.text,
                    settled.response,
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
        frame = wire.message(self.conversation, str(entry), said) if said else None
        turn = Turn(entry, decoded, said, frame)
        if isinstance(decoded, Settled):
            self.settled[decoded.response] = turn
        self._turns.append(turn)
        self.size += len(frame.body) if frame else 0

    def _forget(self, count: int) -> None:
        for turn in self._turns[:count]:
            self.size -= len(turn.frame.body) if turn.frame else 0
            if isinstance(turn.entry, Settled):
                self.settled.pop(turn.entry.response, None)
                self.opened.pop(turn.entry.response, None)
        del self._turns[:count]

    def has(self, cursor: TurnId) -> bool:
        """Tell whether reading can go on from `cursor` without a hole."""
        if cursor == ORIGIN:
            return not self._turns or self._turns[0].id.seq == 1
        position = cursor.seq - self._turns[0].id.seq if self._turns else -1
        return 0 <= position < len(self._turns) and self._turns[position].id == cursor

    def after(self, cursor: TurnId) -> list[Turn]:
        """The entries beyond `cursor`, which `has` has approved."""
        return self._turns[cursor.seq - self._turns[0].id.seq + 1 :] if cursor != ORIGIN else list(self._turns)

    def messages(self) -> tuple[list[Message], bool]:
        """The newest messages, oldest first, and whether there are older ones."""
        said = [turn.message for turn in self._turns if turn.message]
        trimmed = bool(self._turns) and self._turns[0].id.seq > 1
        return said[-MOST_MESSAGES:], trimmed or len(said) > MOST_MESSAGES
