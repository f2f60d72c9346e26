"""A replica of one response log: the text so far, its state, and the frames from any cursor."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from gateway import frame_codec, wire
from gateway.replica import ACCEPTED, UNKNOWN, Outcome, TextIndex, fresh
from gateway.streams import log_entries
from gateway.streams.log_entries import End, LogId, Published, Queued, Settled, Start, Waiting
from gateway.wire import OpenResponse, ResponseState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.frame_codec import Frame


class ResponseReplica:
    """A copy of one response log, from its first entry to `tail`."""

    __slots__ = (
        "_attempts",
        "_last_from",
        "_reset_at",
        "_spelled",
        "_start_id",
        "_waiting_at",
        "away",
        "chars",
        "end",
        "heard",
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
        self.away = False
        """The store does not answer, so nothing can be known of what comes next."""
        self.heard = False
        """Something was published of it since the last comparison with the store."""
        self.text = TextIndex()
        self.reasoning = TextIndex()
        self._attempts: list[tuple[int, int]] = []
        """The first seq of each attempt, and the attempt."""
        self._last_from = 0
        """The first seq of the last of them."""
        self._spelled = b""
        """`tail` as it is published."""
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
    def state(self) -> ResponseState:
        """`queued`, `waiting`, `recovering`, `running` or `ended`: derived from the log, so every viewer agrees, as
        long as the store answers.
        """
        if self.end is not None:
            return "ended"
        if self.waiting is not None or self.away:
            return "waiting"
        if self.start is None:
            return "queued"
        if self._reset_at and max(self.text.last, self.reasoning.last) < self._reset_at:
            return "recovering"
        return "running"

    def hear(self, part: Published) -> Outcome:
        """Take what was published of this log; otherwise as `extend`."""
        self.heard = True
        tail = self.tail
        if tail is not None and part.previous == self._spelled and self.end is None and part.values:
            attempt, seq = tail.attempt, tail.seq
            if part.first == b"%d-%d" % (attempt, seq + 1):
                # What nearly every message is: the next entries of the same attempt.
                for value in part.values:
                    seq += 1
                    self._take(LogId(attempt, seq), value)
                self._spelled = part.first if len(part.values) == 1 else b"%d-%d" % (attempt, seq)
                return ACCEPTED
        first, previous = log_entries.parse_log_id(part.first), log_entries.parse_log_id(part.previous)
        if first is None or not part.values:
            # What is no id of ours is no entry of ours, and what was too large to publish is not here: both are read.
            return Outcome.GAP
        attempt, seq = first.attempt, first.seq
        return self.extend(previous, [(LogId(attempt, seq + index), value) for index, value in enumerate(part.values)])

    def extend(self, previous: LogId | None, entries: Sequence[tuple[LogId, bytes]]) -> Outcome:
        """Take consecutive entries, of which the first follows on `previous` (None: on nothing).

        Those already here are ignored. Anything but KNOWN and ACCEPTED has changed nothing.
        """
        new = fresh(self.tail, self.has, previous, entries)
        if isinstance(new, Outcome):
            return new
        if new and (self.end is not None or (self.tail is None and new[0][1][:1] != log_entries.QUEUED)):
            # Nothing follows an end, and a log whose beginning was trimmed away can not be shown.
            return Outcome.FOREIGN
        if not new:
            return Outcome.KNOWN
        for entry, value in new:
            self._take(entry, value)
        self._spelled = str(self.tail).encode()
        return Outcome.ACCEPTED

    def repair(self, asked: LogId | None, entries: Sequence[tuple[LogId, bytes]]) -> Outcome:
        """Take what the log held from `asked` on, that entry included, or its last entry, if it ends before that;
        `asked`: this copy's tail when the log was asked.

        Never a gap: where nothing fits, the log is another one than this copy's.
        """
        if asked is None:
            return self.extend(None, entries)
        if entries and entries[0][0] == asked:
            return self.extend(asked, entries[1:])
        if entries and self.end is None and self.has(entries[0][0]):
            # A failover lost a tail that this copy still has. A worker that lives writes the same again; the first
            # entry of another one contradicts this copy.
            return Outcome.KNOWN
        return Outcome.FOREIGN

    def _take(self, entry: LogId, value: bytes) -> None:
        kind = value[:1]
        if self.tail is None or entry.attempt != self.tail.attempt:
            self._attempts.append((entry.seq, entry.attempt))
            self._last_from = entry.seq
        if kind == log_entries.TEXT:
            self.text.append(entry.seq, value[1:])
            self.waiting = None
        elif kind == log_entries.REASONING:
            self.reasoning.append(entry.seq, value[1:])
            self.waiting = None
        else:
            match log_entries.decode_response_entry(value):
                case Queued() as queued:
                    self.queued = queued
                case Start() as start:
                    if self.start is not None:
                        self._reset_at = entry.seq
                    if kind == log_entries.START:
                        self.text.clear()
                        self.reasoning.clear()
                    self.start, self._start_id, self.waiting = start, entry, None
                case Waiting() as waiting:
                    self.waiting, self._waiting_at = waiting, entry.seq
                case End() as end:
                    self.end, self.waiting = end, None
                    self.chars = len(log_entries.unescape(bytes(self.text.data)))
                case _:
                    # A newer release's; there is nothing of it to show.
                    pass
        self.tail = entry

    def has(self, cursor: LogId) -> bool:
        """Tell whether the entry `cursor` is part of this log."""
        if self.tail is None or not 1 <= cursor.seq <= self.tail.seq:
            return False
        if cursor.attempt == self.tail.attempt:
            return cursor.seq >= self._last_from
        position = bisect_right(self._attempts, (cursor.seq, log_entries.NONCES**2)) - 1
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
        last = tail.seq - 1
        at = str(self._spelled, "ascii") if self.end is None else f"{self._attempt_at(last)}-{last}"
        continued = after is None or self.has(after)
        older = continued and after is not None and after.seq < self._reset_at and after.number > 0
        if older:
            frames.append(frame_codec.encode(wire.Status(response=self.response, state="recovering")))
        if older or not continued:
            frames.append(
                frame_codec.encode(
                    wire.Reset(
                        response=self.response,
                        cursor=at,
                        text=frame_codec.raw(bytes(self.text.data)),
                        reasoning=frame_codec.raw(bytes(self.reasoning.data)) if self.reasoning.data else None,
                        reason="attempt" if older else "lost",
                    )
                )
            )
            # After the reset, so that no other text stands under this attempt; and at its cursor.
            frames += self._begun(at)
            seen = self._start_id.seq
        else:
            seen = after.seq if after is not None else 0
            if seen < self._start_id.seq:
                frames += self._begun(str(self._start_id))
            text, reasoning = self.text.after(seen), self.reasoning.after(seen)
            if text or reasoning:
                frames.append(frame_codec.delta(self.response, at, text, reasoning))
        if self.end is not None:
            frames.append(
                frame_codec.encode(
                    wire.End(
                        conversation=queued.conversation,
                        response=self.response,
                        cursor=str(tail),
                        reason=self.end.reason,
                        chars=self.chars,
                        usage=self.end.usage,
                        error=self.end.error,
                        retryable=self.end.retryable,
                    )
                )
            )
        elif (self.waiting and seen < self._waiting_at) or (self.start is None and (after is None or not continued)):
            frames.append(self.status(tail))
        return frames

    def is_settled_as(self, entry: Settled) -> bool:
        """Tell whether a settled copy has the text of this log."""
        return bytes(entry.text)[1:-1] == self.text.data

    def _begun(self, cursor: str) -> list[Frame]:
        if self.start is None or self.queued is None:
            return []
        number, queued = self._start_id.number, self.queued
        return [
            frame_codec.encode(
                wire.Start(
                    conversation=queued.conversation,
                    response=self.response,
                    cursor=cursor,
                    model=self.start.model,
                    attempt=number,
                    replies_to=queued.message,
                    replaces=queued.replaces,
                )
            )
        ]

    def status(self, cursor: LogId | None = None) -> Frame:
        """What the response is doing now; `cursor` where that is news to the viewer, who then has all up to there."""
        queued = self.queued
        status = wire.Status(
            response=self.response,
            state=self.state,
            conversation=queued.conversation if queued else None,
            replies_to=queued.message if queued else None,
            replaces=queued.replaces if queued else None,
            retry_in=self.waiting.retry_in if self.waiting and not self.away else None,
            cursor=str(cursor) if cursor else None,
        )
        return frame_codec.encode(status)

    def open(self) -> OpenResponse:
        """What a snapshot shows of this response, up to the tail."""
        assert self.queued is not None
        return OpenResponse(
            response=self.response,
            cursor=str(self.tail),
            state=self.state,
            model=self.start.model if self.start else self.queued.model,
            attempt=self._start_id.number if self.start else 0,
            text=frame_codec.raw(bytes(self.text.data)),
            reasoning=frame_codec.raw(bytes(self.reasoning.data)) if self.reasoning.data else None,
            replies_to=self.queued.message,
            replaces=self.queued.replaces,
        )

    def _attempt_at(self, seq: int) -> int:
        return self._attempts[bisect_right(self._attempts, (seq, log_entries.NONCES**2)) - 1][1]
