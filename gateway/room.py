"""One conversation in this process: its replicas, its viewers by position, and their frames, snapshots included.

A core module: it never waits and it sends nothing; `gateway.hub` sends. Reads are queries: what a read finds to be
missing or out of date is returned as `Findings`, which `Room.apply` records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import msgspec

from gateway import frame_codec, wire
from gateway.frame_batch import FrameBatch
from gateway.history_replica import MAX_SNAPSHOT_BYTES
from gateway.replica import MAX_PIECE_BYTES, UNKNOWN
from gateway.streams import keys, log_entries
from gateway.streams.log_entries import HistoryId, LogId, Opened, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gateway.frame_codec import Frame
    from gateway.history_replica import HistoryReplica
    from gateway.response_replica import ResponseReplica
    from gateway.wire import CursorProblem

ROOM_BYTES: Final = 3_000
"""Bytes of a room without entries, with its subscription and a viewer, as the memory of the process grows."""

Cursors: TypeAlias = tuple[tuple[str, LogId | None], ...]


class HistoryLog(Enum):
    """The type of `HISTORY`."""

    HISTORY = "history"


HISTORY: Final = HistoryLog.HISTORY
"""Names the history of a conversation, where a response log is named by the id of its response."""

Log: TypeAlias = str | HistoryLog
"""A log of a conversation: the id of a response, or `HISTORY`."""


class Position(msgspec.Struct, frozen=True, gc=False):
    """All cursors of one viewer of a conversation: in the history, and in each response that it has no end of.

    `history` is None for a viewer of a single response.
    """

    history: HistoryId | None
    responses: Cursors = ()


Write: TypeAlias = "Callable[[bytes], object]"


class Viewer(Protocol):
    """A subscriber: a socket or an event stream. It calls `Hub.pause` when its write buffer is full (backpressure)."""

    @property
    def direct_write(self) -> Write | None:
        """A function that writes encoded frame batches, without a call of `send`; None if there is none."""

    def send(self, batch: FrameBatch) -> None:
        """Write frames, in order."""


@dataclass(slots=True, eq=False)
class Group:
    """Viewers at one position whose writes are not paused: they receive the same bytes."""

    position: Position
    viewers: dict[Viewer, Write | None]
    """Each viewer with its `direct_write`, in the order of subscription."""


@dataclass(slots=True)
class Findings:
    """What a read found: logs that are missing, and replicas that the history contradicts."""

    missing: set[str] = field(default_factory=set)
    """Responses whose log must be loaded before their viewers can continue."""
    superseded: set[str] = field(default_factory=set)
    """Responses whose end differs from the settled message: a failover lost that end, and another was written."""


@dataclass(slots=True, eq=False)
class Room:
    """One conversation in this process."""

    name: str
    history: HistoryReplica
    responses: dict[str, ResponseReplica] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    lagging: dict[Viewer, Position] = field(default_factory=dict)
    """Lagging viewers: their writes are paused, and the replicas hold what they are missing."""
    unnotified: set[Viewer] = field(default_factory=set)
    """Lagging viewers that have not been notified of the last change of the store status; no log holds it."""
    expired: set[str] = field(default_factory=set)
    """Responses whose log is not in the store any more."""
    piece_bytes: int = MAX_PIECE_BYTES
    """Bytes that one read returns at most; see `gateway.replica.MAX_PIECE_BYTES`."""
    unreadable: set[Log] = field(default_factory=set)
    """Logs whose content could not be applied. A response log among them is not read again; see `expired`."""
    to_load: set[Log] = field(default_factory=set)
    """Logs that must be read from the store."""
    stale: bool = False
    """The history replica contradicts the store. It is used until the history was read from its beginning."""
    dirty: bool = False
    """Something changed since the last flush."""
    loaded: bool = False
    """The logs were read once after the store acknowledged the subscription."""
    awaiting_first_text: set[str] = field(default_factory=set)
    """Responses that were received from their first entry on and have no text yet."""

    @property
    def size(self) -> int:
        """Bytes of memory held."""
        return ROOM_BYTES + self.history.size + sum(replica.size for replica in self.responses.values())

    @property
    def watched(self) -> bool:
        """Whether the room has viewers."""
        return bool(self.groups or self.lagging)

    @property
    def viewers(self) -> int:
        """Number of viewers."""
        return sum(len(group.viewers) for group in self.groups) + len(self.lagging)

    def positions(self) -> Iterator[Position]:
        """Return the positions of the viewers."""
        yield from (group.position for group in self.groups)
        yield from self.lagging.values()

    def add_viewer(self, viewer: Viewer, position: Position) -> None:
        """Add a viewer whose writes are not paused to the group of `position`."""
        for group in self.groups:
            if group.position == position:
                group.viewers[viewer] = viewer.direct_write
                return
        self.groups.append(Group(position, {viewer: viewer.direct_write}))

    def remove_viewer(self, viewer: Viewer) -> Position:
        """Remove a viewer and return its position."""
        position = self.lagging.pop(viewer, None)
        if position is not None:
            return position
        group = next(group for group in self.groups if viewer in group.viewers)
        del group.viewers[viewer]
        if not group.viewers:
            self.groups.remove(group)
        return group.position

    def merge_groups(self) -> None:
        """Merge the groups that reached the same position."""
        merged: dict[Position, Group] = {}
        for group in self.groups:
            merged.setdefault(group.position, group).viewers.update(group.viewers)
        self.groups = list(merged.values())

    def apply(self, findings: Findings) -> None:
        """Record what a read found: drop superseded replicas and request the missing logs."""
        for response in findings.superseded:
            del self.responses[response]
        self.expired |= findings.superseded
        self.to_load |= findings.missing

    def read(self, position: Position) -> tuple[FrameBatch, Position, Findings | None]:
        """Return the frames that bring a viewer from `position` towards the tails, and its position after them.

        They have about `piece_bytes`; if there is more, the batch is `partial`. Findings are for `apply`; None on the
        hot path.
        """
        cursor, followed = position.history, position.responses
        frames = FrameBatch()
        findings: Findings | None = None
        left = self.piece_bytes
        if cursor is not None and cursor != self.history.tail:
            if not self.history.has(cursor):
                # The snapshot has the settled message of what ended, or shows that the end was lost too.
                unended = {name: at for name, at in followed if not self._has_end(name, at)}
                reason: CursorProblem = "lost" if self.history.lost(cursor) else "behind"
                begun, position = self.begin_with_snapshot(reason, unended)
                rest, position, findings = self.read(position)
                batch = FrameBatch(begun + rest)
                batch.partial = rest.partial
                return batch, position, findings
            findings = Findings()
            cursor, followed = self._read_history(cursor, dict(followed), frames, findings)
            left -= _size(frames)
        cursors: list[tuple[str, LogId | None]] = []
        several = len(followed) > 1
        for response, at in followed:
            if left <= 0:
                frames.partial = True
                cursors.append((response, at))
                continue
            replica = self.responses.get(response)
            if replica is None:
                findings = findings or Findings()
                ending = self._ending(response, at, findings, left)
                if ending is None:
                    cursors.append((response, at))
                else:
                    frames += ending[0]
                    left -= _size(ending[0])
                continue
            added, reached = replica.read(at, left)
            frames += added
            if reached is not None:
                # Inlined `_advance`: this runs for every token.
                frames.entries += reached.seq - at.seq if at is not None else reached.seq
            if several:
                left -= _size(added)
            if reached is not replica.tail and replica.tail is not None:
                frames.partial = True
                cursors.append((response, reached))
            elif replica.end is None or not self._is_settled(response, cursor):
                # The cursor is kept until the settled message is sent: if a failover loses the end, a reset follows.
                cursors.append((response, reached))
        return frames, Position(cursor, tuple(cursors)), findings

    def _read_history(
        self, cursor: HistoryId, followed: dict[str, LogId | None], frames: FrameBatch, findings: Findings
    ) -> tuple[HistoryId, Cursors]:
        """Add the frames of the history after `cursor`; return the new cursor, and the responses followed then."""
        left = self.piece_bytes
        for item in self.history.after(cursor):
            if left <= 0:
                frames.partial = True
                break
            if isinstance(item.entry, Settled):
                response = item.entry.response
                if response in followed:
                    at = followed[response]
                    ending = self._ending(response, at, findings, left)
                    if ending is None:
                        # The end has not arrived yet; the settled message must follow it.
                        break
                    added, reached = ending
                    frames += added
                    left -= _size(added)
                    replica = self.responses.get(response)
                    if replica is not None and response not in findings.superseded:
                        frames.entries += _advance(at, reached or replica.tail)
                    if reached is not None:
                        frames.partial = True
                        followed[response] = reached
                        break
                    del followed[response]
            elif isinstance(item.entry, Opened):
                # A viewer that reconnects may have more of the response than of the history.
                followed.setdefault(item.entry.response, None)
            frame = self.history.frame(item)
            if frame is not None:
                frames.append(frame)
                left -= len(frame.body)
            cursor = item.id
        return cursor, tuple(followed.items())

    def _is_settled(self, response: str, cursor: HistoryId | None) -> bool:
        settled = self.history.settled.get(response)
        return settled is not None and (cursor is None or settled.id.seq <= cursor.seq)

    def _has_end(self, response: str, cursor: LogId | None) -> bool:
        replica = self.responses.get(response)
        return replica is not None and replica.end is not None and replica.tail == cursor

    def _ending(
        self, response: str, cursor: LogId | None, findings: Findings, limit: int
    ) -> tuple[list[Frame], LogId | None] | None:
        """Return the frames after `cursor` of a response, with its end.

        If they have more than `limit` bytes, return the first of them and the cursor after them. None: the end is not
        known; see `findings`.
        """
        replica, item = self.responses.get(response), self.history.settled.get(response)
        settled = item.entry if item is not None and isinstance(item.entry, Settled) else None
        if replica is not None and replica.end is not None:
            if settled is None or replica.matches(settled):
                frames, reached = replica.read(cursor, limit)
                return frames, None if reached is replica.tail else reached
            # A failover lost this end, and this process missed the one that replaced it: the settled message is right.
            findings.superseded.add(response)
        elif response not in self.expired and self._may_have(response):
            findings.missing.add(response)
            return None
        if item is not None and settled is not None:
            return self._settled_frames(item.id, settled), None
        if response in self.history.opened:
            # The log was lost while the response was open. A worker will settle it, and the end must be the same.
            return None
        problem = log_entries.Problem("gone", "Nothing is left of this answer.")
        lost = wire.End(
            conversation=self.name, response=response, cursor="", reason="failed", error=problem, retryable=False
        )
        return [frame_codec.encode(lost)], None

    def _settled_frames(self, cursor: HistoryId, settled: Settled) -> list[Frame]:
        """Return the reset and the end of a response of which only the settled message is left."""
        text = bytes(settled.text)[1:-1]
        reset = wire.Reset(response=settled.response, cursor=str(cursor), text=frame_codec.raw(text), reason="gone")
        end = wire.End(
            conversation=self.name,
            response=settled.response,
            cursor=str(cursor),
            reason=settled.reason,
            chars=len(log_entries.unescape(text)),
            usage=settled.usage,
            error=settled.error,
            retryable=settled.retryable,
        )
        return [frame_codec.encode(reset), frame_codec.encode(end)]

    def begin(self, after: str | None, named: Mapping[str, str]) -> tuple[list[Frame], Position]:
        """Return the first frames of a watch, and the position from which it continues.

        `after` is the client's cursor of the history, `named` its cursors of responses that it has no end of, both as
        the client sent them. A cursor that cannot be resumed leads to a snapshot or a reset.
        """
        cursors: dict[str, LogId | None] = {}
        for response, text in named.items():
            cursor = log_entries.parse_log_id(text) or UNKNOWN
            # A client that names a response does not have its end, even if its cursor is that of the end.
            cursors[response] = UNKNOWN if self._has_end(response, cursor) else cursor
        position = log_entries.parse_history_id(after) if after is not None else None
        if position is None:
            return self.begin_with_snapshot(None if after is None else "unknown", cursors)
        if self.history.lost(position):
            return self.begin_with_snapshot("lost", cursors)
        if not self.history.has(position) or self.history.backlog(position) > MAX_SNAPSHOT_BYTES:
            # A snapshot is smaller, and a client that needs the older messages requests pages of them.
            return self.begin_with_snapshot("behind", cursors)
        frames = [frame_codec.encode(wire.Watching(conversation=self.name, cursor=str(position), resumed=True))]
        # A response that the client does not name is unknown to it, or it has the end. Two kinds start with a reset,
        # because the client may have an end of them: a retry, whose opening has no frame, and an open response, whose
        # end a failover may have lost.
        opened = [item.entry for item in self.history.after(position) if isinstance(item.entry, Opened)]
        later = {entry.response for entry in opened if not entry.again}
        retried = sorted({entry.response for entry in opened if entry.again})
        for response in dict.fromkeys([*self.history.open_responses(), *retried]):
            if response not in later:
                cursors.setdefault(response, UNKNOWN)
                frames += self._status_if_current(response, cursors[response])
        return frames, Position(position, tuple(cursors.items()))

    def begin_with_snapshot(
        self, reason: CursorProblem | None, named: Mapping[str, LogId | None]
    ) -> tuple[list[Frame], Position]:
        """Return a snapshot as the first frames of a watch, and its position; see `begin`."""
        cursor = self.history.tail
        messages, earlier = self.history.newest()
        open_responses = self.history.open_responses()
        shown = [
            replica
            for response in open_responses
            if (replica := self.responses.get(response)) is not None and replica.tail and not replica.end
        ]
        # The snapshot has the first piece of each text; the rest follows from its cursor.
        pieces = [replica.snapshot(max(1, self.piece_bytes // len(shown))) for replica in shown]
        watching = wire.Watching(conversation=self.name, cursor=str(cursor), resumed=False, reason=reason)
        snapshot = wire.Snapshot(
            conversation=self.name,
            cursor=str(cursor),
            messages=messages,
            responses=[response for response, _ in pieces],
            more=earlier is not None,
            earlier=str(earlier) if earlier is not None else None,
        )
        frames = [frame_codec.encode(watching), frame_codec.encode(snapshot)]
        # The client may still show open responses that are not in the snapshot. A reset is right in both cases.
        cursors: dict[str, LogId | None] = {**named, **dict.fromkeys(open_responses, UNKNOWN)}
        for response, reached in pieces:
            cursors[response.response] = reached
        return frames, Position(cursor, tuple(cursors.items()))

    def backlog(self, position: Position) -> int:
        """Return about how many bytes a viewer at `position` is missing; they are counted against its rate limit."""
        size = 0
        if position.history is not None and self.history.has(position.history):
            size = self.history.backlog(position.history)
        for response, at in position.responses:
            if (replica := self.responses.get(response)) is not None:
                size += replica.backlog(at)
        return size

    def status_frames(self, position: Position) -> FrameBatch:
        """Return the status of each open response that a viewer at `position` follows."""
        followed = (self.responses.get(response) for response, _ in position.responses)
        return FrameBatch(replica.status() for replica in followed if replica is not None and replica.end is None)

    def _status_if_current(self, response: str, cursor: LogId | None) -> list[Frame]:
        replica = self.responses.get(response)
        # Without it, a viewer that has everything would receive nothing until the next token.
        if replica is None or cursor is None or cursor != replica.tail:
            return []
        return [replica.status()]

    def missing_logs(self, named: Mapping[str, str], after: str | None = None) -> set[Log]:
        """Return the logs that must be read before a watch from these cursors begins; see `begin`.

        These are logs without a replica, and logs whose replica is older than the client's cursor, because another
        gateway sent more.
        """
        missing: set[Log] = set()
        for response, text in named.items():
            replica, cursor = self.responses.get(response), log_entries.parse_log_id(text)
            if replica is None:
                if response not in self.expired and self._may_have(response):
                    missing.add(response)
            elif replica.tail and cursor and cursor.seq > replica.tail.seq:
                missing.add(response)
        position = log_entries.parse_history_id(after) if after is not None else None
        if position is not None and position.seq > self.history.tail.seq:
            missing.add(HISTORY)
        return missing

    def _may_have(self, response: str) -> bool:
        """Tell whether a response that a client names can be of this conversation: its log is in the same partition."""
        return keys.is_response(response) and keys.partition_of_response(response) == keys.partition_of(self.name)

    def needs(self, response: str) -> bool:
        """Tell whether a response log is needed by all viewers, because it is open, or is held already."""
        return response in self.responses or (response in self.history.opened and response not in self.history.settled)

    def next_log(self) -> Log:
        """Remove and return a log of `to_load`: what all viewers need first, what only one client named last."""
        log: Log | None = HISTORY if HISTORY in self.to_load else None
        if log is None:
            log = next((name for name in self.history.open_responses() if name in self.to_load), None)
        if log is None:
            return self.to_load.pop()
        self.to_load.remove(log)
        return log

    def drop_ended_logs(self) -> None:
        """Drop the replicas of ended responses that no viewer reads any more."""
        followed = {response for position in self.positions() for response, _ in position.responses}
        for response, replica in list(self.responses.items()):
            if replica.end is not None and response not in followed:
                del self.responses[response]
        self.expired &= followed
        self.unreadable &= {HISTORY, *followed}


def _advance(cursor: LogId | None, reached: LogId | None) -> int:
    """Return the number of entries from `cursor` to `reached`, which must be of one log."""
    return reached.seq - (cursor.seq if cursor is not None else 0) if reached is not None else 0


def _size(frames: Sequence[Frame]) -> int:
    return sum(len(frame.body) for frame in frames)
