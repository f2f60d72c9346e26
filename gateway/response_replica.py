"""A replica of one response log: the text so far, its state, and the frames from any cursor.

Adjacent text is coalesced: a viewer that lags gets one larger delta, up to a bound; then a further one.

A cursor `<attempt>-<seq>` names the entry `seq`. If `seq` is before the start of `attempt`, it stands for the text that
this start kept, up to `seq`: a viewer that has only the first piece of the text must not be reset again.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from gateway import frame_codec, wire
from gateway.replica import ACCEPTED, MAX_PIECE_BYTES, UNKNOWN, Outcome, TextIndex, new_entries
from gateway.streams import log_entries
from gateway.streams.log_entries import End, LogId, Published, Queued, Settled, Start, Waiting
from gateway.streams.unreadable import TALLY
from gateway.wire import OpenResponse, ResponseState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.frame_codec import Frame


RESPONSE_BYTES: Final = 2_000
"""Bytes of a replica without text."""


class ResponseReplica:
    """A copy of one response log, from its first entry to `tail`."""

    __slots__ = (
        "_attempt_first",
        "_attempts",
        "_replaced_at",
        "_reset_at",
        "_start_id",
        "_tail_bytes",
        "_waiting_at",
        "chars",
        "end",
        "queued",
        "reasoning",
        "received",
        "response",
        "start",
        "store_unavailable",
        "tail",
        "text",
        "waiting",
        "worker_silent",
    )

    def __init__(self, response: str) -> None:
        self.response = response
        self.tail: LogId | None = None
        self.queued: Queued | None = None
        self.start: Start | None = None
        self.waiting: Waiting | None = None
        self.end: End | None = None
        self.chars = 0
        self.store_unavailable = False
        """The store is unavailable, so the state of the response is not known."""
        self.worker_silent = False
        """Its worker missed renewals of its lease: another one takes over soon, unless it recovers."""
        self.received = False
        """Entries were published since the last reconciliation."""
        self.text = TextIndex()
        self.reasoning = TextIndex()
        self._attempts: list[tuple[int, int]] = []
        """The first seq of each attempt, and the attempt."""
        self._attempt_first = 0
        """The first seq of the last attempt."""
        self._tail_bytes = b""
        """`tail` in its published form."""
        self._start_id = UNKNOWN
        self._replaced_at = 0
        """The seq of the last start that followed another."""
        self._reset_at = 0
        """The seq of the last one that discarded text: a viewer with a smaller cursor shows an older attempt."""
        self._waiting_at = 0

    @property
    def size(self) -> int:
        """Bytes of memory held."""
        return RESPONSE_BYTES + self.text.size + self.reasoning.size

    def belongs_to(self, conversation: str) -> bool:
        """Tell whether this is a response of that conversation."""
        return self.queued is not None and self.queued.conversation == conversation

    @property
    def state(self) -> ResponseState:
        """The state of the response.

        It is derived from the log, so all gateways report the same state while the store is available.
        """
        if self.end is not None:
            return "ended"
        if self.store_unavailable or (self.waiting is not None and self.waiting.retry_in > 0):
            return "waiting"
        if self.start is None:
            return "queued"
        if self.worker_silent:
            return "recovering"
        if self._replaced_at and max(self.text.last, self.reasoning.last) < self._replaced_at:
            return "recovering"
        return "running"

    def receive(self, part: Published) -> Outcome:
        """Apply published entries; see `extend`."""
        self.received = True
        tail = self.tail
        if tail is not None and part.previous == self._tail_bytes and self.end is None and part.values:
            attempt, seq = tail.attempt, tail.seq
            if part.first == b"%d-%d" % (attempt, seq + 1):
                # Fast path for nearly every message: the next entries of the same attempt, without parsing ids.
                for value in part.values:
                    seq += 1
                    self._append(LogId(attempt, seq), value)
                self._tail_bytes = part.first if len(part.values) == 1 else b"%d-%d" % (attempt, seq)
                return ACCEPTED
        first, previous = log_entries.parse_log_id(part.first), log_entries.parse_log_id(part.previous)
        if first is None or not part.values:
            # An id of a newer release, or entries that were too large to publish: the log is read instead.
            return Outcome.GAP
        attempt, seq = first.attempt, first.seq
        return self.extend(previous, [(LogId(attempt, seq + index), value) for index, value in enumerate(part.values)])

    def extend(self, previous: LogId | None, entries: Sequence[tuple[LogId, bytes]]) -> Outcome:
        """Apply consecutive entries, of which the first follows `previous` (None: it is the first of the log).

        Entries that the replica already has are ignored. GAP and CONFLICT change nothing.
        """
        new = new_entries(self.tail, self.has, previous, entries)
        if isinstance(new, Outcome):
            return new
        if new and (self.end is not None or (self.tail is None and not self._begins(new[0][1]))):
            # No entry follows an end, and a log cannot be shown without its request.
            return Outcome.CONFLICT
        if not new:
            return Outcome.KNOWN
        before = self.tail
        for entry, value in new:
            if self._follows(entry):
                self._append(entry, value)
            else:
                TALLY.add(self.response)
        if self.tail == before:
            return Outcome.KNOWN
        self._tail_bytes = str(self.tail).encode()
        return Outcome.ACCEPTED

    def _begins(self, value: bytes) -> bool:
        """Tell whether an entry is a request that can be read."""
        return isinstance(log_entries.decode_response_entry(value, self.response), Queued)

    def _follows(self, entry: LogId) -> bool:
        """Tell whether an entry is the next one. Another program's id is none: it says nothing about the order."""
        tail = self.tail
        return entry.seq == 1 if tail is None else entry.seq == tail.seq + 1 and entry.attempt >= tail.attempt

    def repair(self, cursor: LogId | None, entries: Sequence[tuple[LogId, bytes]]) -> Outcome:
        """Apply what the store returned from `cursor` on, that entry included; None: from the beginning.

        `cursor` is the tail of this replica when the log was read. If the log ends before it, the store returns the
        last entry. Never returns GAP: entries that do not fit are of another log.
        """
        if cursor is None:
            return self.extend(None, entries)
        if entries and entries[0][0] == cursor:
            return self.extend(cursor, entries[1:])
        if entries and self.end is None and self.has(entries[0][0]):
            # A failover lost a tail that this replica still has. A live worker writes the same tail again; the first
            # entry of another worker conflicts with this replica.
            return Outcome.KNOWN
        return Outcome.CONFLICT

    def _append(self, entry: LogId, value: bytes) -> None:
        kind = value[:1]
        if self.tail is None or entry.attempt != self.tail.attempt:
            self._attempts.append((entry.seq, entry.attempt))
            self._attempt_first = entry.seq
        if kind == log_entries.TEXT:
            self.text.append(entry.seq, log_entries.text_body(value, self.response))
            self.waiting = None
        elif kind == log_entries.REASONING:
            self.reasoning.append(entry.seq, log_entries.text_body(value, self.response))
            self.waiting = None
        else:
            match log_entries.decode_response_entry(value, self.response):
                case Queued() as queued:
                    self.queued = queued
                case Start() as start:
                    self.worker_silent = False
                    if self.start is not None:
                        self._replaced_at = entry.seq
                    if kind == log_entries.START:
                        self._reset_at = self._replaced_at
                        self.text.clear()
                        self.reasoning.clear()
                    self.start, self._start_id, self.waiting = start, entry, None
                case Waiting() as waiting:
                    self.waiting, self._waiting_at = waiting, entry.seq
                case End() as end:
                    self.end, self.waiting = end, None
                    self.chars = len(log_entries.unescape(bytes(self.text.data)))
                case _:
                    # An entry of a newer release, or one that cannot be read, is not shown; its id counts.
                    pass
        self.tail = entry

    def has(self, cursor: LogId) -> bool:
        """Tell whether the entry `cursor` is part of this log."""
        if self.tail is None or not 1 <= cursor.seq <= self.tail.seq:
            return False
        if cursor.attempt == self.tail.attempt:
            return cursor.seq >= self._attempt_first
        position = bisect_right(self._attempts, (cursor.seq, log_entries.NONCES**2)) - 1
        return self._attempts[position][1] == cursor.attempt

    def read(self, after: LogId | None, limit: int = MAX_PIECE_BYTES) -> tuple[list[Frame], LogId | None]:
        """Return the frames that move a viewer from `after` (None: from nothing) towards the tail, and its next cursor.

        The cursor is `tail` itself, unless the text has more than `limit` bytes. The number of frames does not depend
        on the number of entries.
        """
        tail = self.tail
        if tail is None:
            return [], after
        if after == tail:
            return [], tail
        if (
            after is not None
            and self.end is None
            and self.waiting is None
            and after.attempt == tail.attempt
            and self._start_id.seq <= after.seq
            and self._attempt_first <= after.seq < tail.seq
        ):
            # Fast path for nearly every read: the viewer has a part of the last attempt, and only text follows.
            whole = len(self.text.data) + len(self.reasoning.data) <= limit
            if whole or self._length(tail.seq) - self._length(after.seq) <= limit:
                text, more = self.text.after(after.seq), self.reasoning.after(after.seq)
                if text or more:
                    return [frame_codec.delta(self.response, str(self._tail_bytes, "ascii"), text, more)], tail
        queued = self.queued
        assert queued is not None
        frames: list[Frame] = []
        continued = after is None or self._continues(after)
        begun = after is not None and after.attempt == self._start_id.attempt
        older = continued and after is not None and after.seq < self._reset_at and after.number > 0 and not begun
        seen = after.seq if after is not None and continued and not older else 0
        # The end has a separate frame, so the cursor of the frames before it must not include the end.
        last = tail.seq if self.end is None else tail.seq - 1
        reached = last
        if len(self.text.data) + len(self.reasoning.data) > limit:
            reached = self._reach(seen, last, limit)
        at = str(self._tail_bytes, "ascii") if reached == tail.seq else str(self._cursor(reached))
        if older:
            frames.append(frame_codec.encode(wire.Status(response=self.response, state="recovering")))
        if older or not continued:
            reasoning = bytes(self.reasoning.between(0, reached))
            frames.append(
                frame_codec.encode(
                    wire.Reset(
                        response=self.response,
                        cursor=at,
                        text=frame_codec.raw(bytes(self.text.between(0, reached))),
                        reasoning=frame_codec.raw(reasoning) if reasoning else None,
                        reason="attempt" if older else "lost",
                    )
                )
            )
            # After the reset, so that a client never shows old text under the new attempt; at the cursor of the reset.
            frames += self._start_frames(at)
            seen = self._start_id.seq
        else:
            if seen < self._start_id.seq and not begun:
                # The text that the start kept is in the delta after it.
                kept = self._length(seen) < self._length(self._start_id.seq)
                frames += self._start_frames(str(LogId(self._start_id.attempt, seen) if kept else self._start_id))
            if reached == last:
                text, more = self.text.after(seen), self.reasoning.after(seen)
            else:
                text, more = self.text.between(seen, reached), self.reasoning.between(seen, reached)
            if text or more:
                frames.append(frame_codec.delta(self.response, at, text, more))
        if reached < last:
            return frames, self._cursor(reached)
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
        return frames, tail

    def backlog(self, after: LogId | None) -> int:
        """Return about how many bytes of text a viewer at `after` is missing."""
        seen = after.seq if after is not None and self._continues(after) else 0
        return self._length(self.tail.seq) - self._length(seen) if self.tail is not None else 0

    def _continues(self, cursor: LogId) -> bool:
        """Tell whether a viewer at `cursor` has a prefix of this log's text."""
        if self.has(cursor):
            return True
        start = self._start_id
        return cursor.attempt == start.attempt and 0 <= cursor.seq < start.seq and self._length(start.seq) > 0

    def _length(self, seq: int) -> int:
        return self.text.length(seq) + self.reasoning.length(seq)

    def _reach(self, seen: int, last: int, limit: int) -> int:
        """Return the last entry whose text fits in `limit` bytes after `seen`, at least the first entry with text."""
        begin = self._length(seen)
        if self._length(last) - begin <= limit:
            return last
        entries = range(seen + 1, last + 1)
        reached = seen + bisect_right(entries, begin + limit, key=self._length)
        if self._length(reached) == begin:
            reached = seen + 1 + bisect_right(entries, begin, key=self._length)
        return reached

    def _cursor(self, seq: int) -> LogId:
        """Return the cursor of a viewer that has the text up to `seq`, in the view of the last start."""
        return LogId(self._start_id.attempt if seq < self._replaced_at else self._attempt_at(seq), seq)

    def matches(self, settled: Settled) -> bool:
        """Tell whether a settled message has the text of this log."""
        return bytes(settled.text)[1:-1] == self.text.data

    def _start_frames(self, cursor: str) -> list[Frame]:
        if self.start is None or self.queued is None:
            return []
        return [
            frame_codec.encode(
                wire.Start(
                    conversation=self.queued.conversation,
                    response=self.response,
                    cursor=cursor,
                    model=self.start.model,
                    attempt=self._start_id.number,
                    replies_to=self.queued.message,
                    replaces=self.queued.replaces,
                )
            )
        ]

    def status(self, cursor: LogId | None = None) -> Frame:
        """Return the state as a frame; with `cursor` it also advances a viewer that has everything up to there."""
        queued = self.queued
        status = wire.Status(
            response=self.response,
            state=self.state,
            conversation=queued.conversation if queued else None,
            replies_to=queued.message if queued else None,
            replaces=queued.replaces if queued else None,
            retry_in=(self.waiting.retry_in or None) if self.waiting and not self.store_unavailable else None,
            switched=self.waiting.switched if self.waiting else None,
            cursor=str(cursor) if cursor else None,
        )
        return frame_codec.encode(status)

    def snapshot(self, limit: int = MAX_PIECE_BYTES) -> tuple[OpenResponse, LogId]:
        """Return this response, which has no end, as a part of a snapshot, and the cursor after it; see `read`."""
        assert self.queued is not None
        assert self.tail is not None
        reached = self._reach(0, self.tail.seq, limit)
        cursor = self.tail if reached == self.tail.seq else self._cursor(reached)
        reasoning = bytes(self.reasoning.between(0, reached))
        shown = OpenResponse(
            response=self.response,
            cursor=str(cursor),
            state=self.state,
            model=self.start.model if self.start else self.queued.model,
            attempt=self._start_id.number if self.start else 0,
            text=frame_codec.raw(bytes(self.text.between(0, reached))),
            reasoning=frame_codec.raw(reasoning) if reasoning else None,
            replies_to=self.queued.message,
            replaces=self.queued.replaces,
        )
        return shown, cursor

    def _attempt_at(self, seq: int) -> int:
        return self._attempts[bisect_right(self._attempts, (seq, log_entries.NONCES**2)) - 1][1]
