"""One conversation in this process: its logs, who watches it and from where, and what brings a watcher forward.

Rules of this file: it never waits, and gives nothing to anybody; `gateway.hub` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from gateway import frame_codec, wire
from gateway.frame_batch import FrameBatch
from gateway.replica import UNKNOWN
from gateway.streams import log_entries
from gateway.streams.log_entries import HistoryId, LogId, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gateway.frame_codec import Frame
    from gateway.history_replica import HistoryReplica
    from gateway.response_replica import ResponseReplica
    from gateway.wire import CursorProblem

Cursors: TypeAlias = tuple[tuple[str, LogId | None], ...]


class Position(msgspec.Struct, frozen=True, gc=False):
    """All that is known of a viewer of a conversation: its cursor there and in each response it has no end of.

    `turns` is None for a viewer that follows one response and nothing else.
    """

    turns: HistoryId | None
    responses: Cursors = ()


Write: TypeAlias = "Callable[[bytes], object]"


class Viewer(Protocol):
    """One watcher: a socket or an event stream. It calls `Hub.full` when it can take no more, and `Hub.ready` then."""

    @property
    def direct(self) -> Write | None:
        """Where packets of bursts go for it, past this object; None where it is to be given the bursts."""

    def give(self, burst: FrameBatch) -> None:
        """Take frames, in order."""


@dataclass(slots=True, eq=False)
class Group:
    """Viewers at one position that can take more: they are given the same bytes."""

    position: Position
    viewers: dict[Viewer, Write | None]
    """And where their packets go. In the order in which they came, which is about that in which they lie in memory."""


@dataclass(slots=True, eq=False)
class Room:
    """One conversation in this process: its logs, and who watches it."""

    name: str
    turns: HistoryReplica
    responses: dict[str, ResponseReplica] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    behind: dict[Viewer, Position] = field(default_factory=dict)
    """Viewers that can not take more: what they lack waits in the logs."""
    untold: set[Viewer] = field(default_factory=set)
    """Those of them that have not been told what became of the store; that is in no log."""
    gone: set[str] = field(default_factory=set)
    """Responses whose log is no longer in the store."""
    wanted: set[str] = field(default_factory=set)
    """Responses whose log is to be read; the conversation's own log under ""."""
    stale: bool = False
    """The copy of the conversation's log contradicts the store, and stands only until that was read whole."""
    dirty: bool = False
    """Something changed since the viewers were given what there is."""
    ready: bool = False
    """The logs have been read once since the subscription was acknowledged."""
    silent: set[str] = field(default_factory=set)
    """Responses whose log was heard from its beginning, and that have no text yet."""

    @property
    def size(self) -> int:
        """Bytes of text held."""
        return self.turns.size + sum(replica.size for replica in self.responses.values())

    @property
    def watched(self) -> bool:
        """Whether there is any viewer."""
        return bool(self.groups or self.behind)

    @property
    def viewers(self) -> int:
        """How many viewers there are."""
        return sum(len(group.viewers) for group in self.groups) + len(self.behind)

    def positions(self) -> Iterator[Position]:
        """Where the viewers are."""
        yield from (group.position for group in self.groups)
        yield from self.behind.values()

    def place(self, viewer: Viewer, position: Position) -> None:
        """Let a viewer that can take more be at `position`."""
        for group in self.groups:
            if group.position == position:
                group.viewers[viewer] = viewer.direct
                return
        self.groups.append(Group(position, {viewer: viewer.direct}))

    def displace(self, viewer: Viewer) -> Position:
        """Take a viewer of this room out, and return where it was."""
        position = self.behind.pop(viewer, None)
        if position is not None:
            return position
        group = next(group for group in self.groups if viewer in group.viewers)
        del group.viewers[viewer]
        if not group.viewers:
            self.groups.remove(group)
        return group.position

    def unite(self) -> None:
        """Make one group of those that have come to one position."""
        there: dict[Position, Group] = {}
        for group in self.groups:
            there.setdefault(group.position, group).viewers.update(group.viewers)
        self.groups = list(there.values())

    def read(self, position: Position) -> tuple[FrameBatch, Position]:
        """The frames that bring a viewer from `position` to now, and where it is then."""
        turns, followed = position.turns, position.responses
        frames = FrameBatch()
        if turns is not None and turns != self.turns.tail:
            if not self.turns.has(turns):
                # Of what ended, the snapshot has the settled copy, or shows that the end is lost too.
                unended = {name: cursor for name, cursor in followed if not self._has_end(name, cursor)}
                begun, position = self.begin_anew("lost", unended)
                rest, position = self.read(position)
                return FrameBatch(begun + rest), position
            turns, followed = self._read_turns(turns, dict(followed), frames)
        cursors: list[tuple[str, LogId | None]] = []
        for response, cursor in followed:
            replica = self.responses.get(response)
            if replica is None:
                last = self._finish(response, cursor)
                if last is None:
                    cursors.append((response, cursor))
                else:
                    frames += last
                continue
            frames += replica.read(cursor)
            if replica.tail is not None:
                # Not `_entries`: this is done for every token.
                frames.entries += replica.tail.seq - cursor.seq if cursor is not None else replica.tail.seq
            if replica.end is None or not self._is_settled(response, turns):
                # Until its settled copy is given: should a failover take its end back, it goes on with a reset.
                cursors.append((response, replica.tail))
        return frames, Position(turns, tuple(cursors))

    def _read_turns(
        self, turns: HistoryId, followed: dict[str, LogId | None], frames: FrameBatch
    ) -> tuple[HistoryId, Cursors]:
        """Add the frames of the conversation's own log from `turns` on; return how far, and what is followed then."""
        for turn in self.turns.after(turns):
            if isinstance(turn.entry, Settled):
                response = turn.entry.response
                if response in followed:
                    last = self._finish(response, followed[response])
                    if last is None:
                        # Its end is on the way; the settled copy comes after it, never before.
                        break
                    frames += last
                    replica = self.responses.get(response)
                    frames.entries += _entries(followed[response], replica) if replica is not None else 0
                    del followed[response]
            elif isinstance(turn.entry, log_entries.Opened):
                # A viewer that comes back may have more of it than of the conversation.
                followed.setdefault(turn.entry.response, None)
            if turn.frame:
                frames.append(turn.frame)
            turns = turn.id
        return turns, tuple(followed.items())

    def _is_settled(self, response: str, turns: HistoryId | None) -> bool:
        settled = self.turns.settled.get(response)
        return settled is not None and (turns is None or settled.id.seq <= turns.seq)

    def _has_end(self, response: str, cursor: LogId | None) -> bool:
        replica = self.responses.get(response)
        return replica is not None and replica.end is not None and replica.tail == cursor

    def _finish(self, response: str, cursor: LogId | None) -> list[Frame] | None:
        """What a viewer lacks of a response that has ended, end included; None while that is not here yet."""
        replica, settled = self.responses.get(response), self.turns.settled.get(response)
        if replica is not None and replica.end is not None:
            if settled is None or not isinstance(settled.entry, Settled) or replica.is_settled_as(settled.entry):
                return replica.read(cursor)
            # A failover took this end back, and nobody here heard of the other one: what was settled stands.
            del self.responses[response]
            self.gone.add(response)
        if response not in self.gone:
            self.wanted.add(response)
            return None
        if settled is None and response in self.turns.opened:
            # The workers settle what is open and has lost its log; the end is to say the same.
            return None
        if settled is None or not isinstance(settled.entry, Settled):
            problem = log_entries.Problem("gone", "Nothing is left of this answer.")
            lost = wire.End(
                conversation=self.name, response=response, cursor="", reason="failed", error=problem, retryable=False
            )
            return [frame_codec.encode(lost)]
        entry = settled.entry
        text = bytes(entry.text)[1:-1]
        return [
            frame_codec.encode(
                wire.Reset(response=response, cursor=str(settled.id), text=frame_codec.raw(text), reason="gone")
            ),
            frame_codec.encode(
                wire.End(
                    conversation=self.name,
                    response=response,
                    cursor=str(settled.id),
                    reason=entry.reason,
                    chars=len(log_entries.unescape(text)),
                    usage=entry.usage,
                    error=entry.error,
                    retryable=entry.retryable,
                )
            ),
        ]

    def begin(self, after: str | None, named: Mapping[str, str]) -> tuple[list[Frame], Position]:
        """The first frames of a watch, and the position from which it goes on.

        `after` and `named` are cursors as the client spells them: of the conversation, and of responses that it has no
        end of. One that can not be continued is never passed over in silence: a snapshot or a reset follows.
        """
        cursors: dict[str, LogId | None] = {}
        for response, spelled in named.items():
            cursor = log_entries.parse_log_id(spelled) or UNKNOWN
            # Who names a response does not know of its end, even at the cursor of the end.
            cursors[response] = UNKNOWN if self._has_end(response, cursor) else cursor
        turns = log_entries.parse_history_id(after) if after is not None else None
        if turns is None or not self.turns.has(turns):
            reason: CursorProblem | None = None if after is None else "unknown" if turns is None else "lost"
            return self.begin_anew(reason, cursors)
        frames = [frame_codec.encode(wire.Watching(conversation=self.name, cursor=str(turns), resumed=True))]
        # What the client does not name it does not know, or it has its end. Those that it may have an end of begin with
        # a reset: a retry's, whose opening no frame tells; and an open one's, whose end a failover took back.
        entries = [turn.entry for turn in self.turns.after(turns)]
        later = {entry.response for entry in entries if isinstance(entry, log_entries.Opened) and not entry.again}
        again = {entry.response for entry in entries if isinstance(entry, log_entries.Opened) and entry.again}
        for response in dict.fromkeys([*self.turns.open(), *sorted(again)]):
            if response not in later:
                cursors.setdefault(response, UNKNOWN)
                frames += self._status(response, cursors[response])
        return frames, Position(turns, tuple(cursors.items()))

    def begin_anew(
        self, reason: CursorProblem | None, named: Mapping[str, LogId | None]
    ) -> tuple[list[Frame], Position]:
        """As `begin`, for a viewer whose place in the conversation is not known: a snapshot."""
        cursor = self.turns.tail
        messages, more = self.turns.messages()
        shown = [
            replica
            for response in self.turns.open()
            if (replica := self.responses.get(response)) is not None and replica.tail and not replica.end
        ]
        watching = wire.Watching(conversation=self.name, cursor=str(cursor), resumed=False, reason=reason)
        snapshot = wire.Snapshot(
            conversation=self.name,
            cursor=str(cursor),
            messages=messages,
            responses=[replica.open() for replica in shown],
            more=more,
        )
        frames = [frame_codec.encode(watching), frame_codec.encode(snapshot)]
        # What the snapshot does not show, the viewer may show all the same, from before: a reset is right for both.
        cursors: dict[str, LogId | None] = {**named, **dict.fromkeys(self.turns.open(), UNKNOWN)}
        for replica in shown:
            cursors[replica.response] = replica.tail
        return frames, Position(cursor, tuple(cursors.items()))

    def states(self, position: Position) -> FrameBatch:
        """What the responses that a viewer follows from `position` on do now."""
        followed = (self.responses.get(response) for response, _ in position.responses)
        return FrameBatch(replica.status() for replica in followed if replica is not None and replica.end is None)

    def _status(self, response: str, cursor: LogId | None) -> list[Frame]:
        replica = self.responses.get(response)
        # A viewer that has all there is would otherwise hear nothing until the next token.
        if replica is None or cursor is None or cursor != replica.tail:
            return []
        return [replica.status()]

    def unknown(self, named: Mapping[str, str], after: str | None = None) -> set[str]:
        """The logs that have to be read before a watch from these cursors can begin.

        Those that are not here, and those of which another gateway has given more than is here.
        """
        lacking = {response for response in named if response not in self.responses and response not in self.gone}
        for response, spelled in named.items():
            replica, cursor = self.responses.get(response), log_entries.parse_log_id(spelled)
            if replica is not None and replica.tail and cursor and cursor.seq > replica.tail.seq:
                lacking.add(response)
        turn = log_entries.parse_history_id(after) if after is not None else None
        return lacking | {""} if turn is not None and turn.seq > self.turns.tail.seq else lacking

    def forget(self) -> None:
        """Drop the logs that ended and that no viewer still reads."""
        read = {response for position in self.positions() for response, _ in position.responses}
        for response, replica in list(self.responses.items()):
            if replica.end is not None and response not in read:
                del self.responses[response]
        self.gone &= read


def _entries(cursor: LogId | None, replica: ResponseReplica) -> int:
    """How many entries a viewer lacks of a log, as long as that is the one that its cursor is of."""
    return replica.tail.seq - (cursor.seq if cursor is not None else 0) if replica.tail is not None else 0
