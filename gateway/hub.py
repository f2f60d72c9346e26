"""Who watches what: each viewer is a position, and viewers at the same position are given the same bytes.

Rules of this file: it never waits. The shell brings entries (`take`, `load_*`), asks for work (`wanted`), and calls
`flush` once a loop turn; a viewer only says whether it can be given more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from gateway import wire
from gateway.burst import Burst
from gateway.replica import ACCEPTED, UNKNOWN, Extended, ResponseReplica
from gateway.streams import events
from gateway.streams.events import LogId, Settled, TurnId
from gateway.turns import ORIGIN, ConversationReplica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from gateway.wire import Frame

Cursors: TypeAlias = tuple[tuple[str, LogId | None], ...]


class Position(msgspec.Struct, frozen=True, gc=False):
    """All that is known of a viewer of a conversation: its cursor there and in each response it has no end of.

    `turns` is None for a viewer that follows one response and nothing else.
    """

    turns: TurnId | None
    responses: Cursors = ()


Write: TypeAlias = "Callable[[bytes], object]"


class Viewer(Protocol):
    """One watcher: a socket or an event stream. It calls `Hub.full` when it can take no more, and `Hub.ready` then."""

    @property
    def direct(self) -> Write | None:
        """Where packets of bursts go for it, past this object; None where it is to be given the bursts."""

    def give(self, burst: Burst) -> None:
        """Take frames, in order."""


@dataclass(slots=True)
class Tally:
    """What was done since it was last taken over; plain numbers, because they change with every token."""

    received: int = 0
    """Entries that were published."""
    delivered: int = 0
    """Entries given to viewers, once a viewer."""
    frames: int = 0
    """Frames given to viewers, once a viewer."""
    gaps: int = 0
    """Publishes that did not follow on the copy of their log."""


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
    turns: ConversationReplica
    responses: dict[str, ResponseReplica] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    behind: dict[Viewer, Position] = field(default_factory=dict)
    """Viewers that can not take more: what they lack waits in the logs."""
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

    def read(self, position: Position) -> tuple[Burst, Position]:
        """The frames that bring a viewer from `position` to now, and where it is then."""
        turns, followed = position.turns, position.responses
        frames = Burst()
        if turns is not None and turns != self.turns.tail:
            if not self.turns.has(turns):
                # Of what ended, the snapshot has the settled copy, or shows that the end is lost too.
                unended = {name: cursor for name, cursor in followed if not self._has_end(name, cursor)}
                begun, position = self.begin_anew("lost", unended)
                rest, position = self.read(position)
                return Burst(begun + rest), position
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

    def _read_turns(self, turns: TurnId, followed: dict[str, LogId | None], frames: Burst) -> tuple[TurnId, Cursors]:
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
            elif isinstance(turn.entry, events.Opened):
                # A viewer that comes back may have more of it than of the conversation.
                followed.setdefault(turn.entry.response, None)
            if turn.frame:
                frames.append(turn.frame)
            turns = turn.id
        return turns, tuple(followed.items())

    def _is_settled(self, response: str, turns: TurnId | None) -> bool:
        settled = self.turns.settled.get(response)
        return settled is not None and (turns is None or settled.id.seq <= turns.seq)

    def _has_end(self, response: str, cursor: LogId | None) -> bool:
        replica = self.responses.get(response)
        return replica is not None and replica.end is not None and replica.tail == cursor

    def _finish(self, response: str, cursor: LogId | None) -> list[Frame] | None:
        """What a viewer lacks of a response that has ended, end included; None while that is not here yet."""
        replica = self.responses.get(response)
        if replica is not None and replica.end is not None:
            return replica.read(cursor)
        if response not in self.gone:
            self.wanted.add(response)
            return None
        settled = self.turns.settled.get(response)
        if settled is None and response in self.turns.opened:
            # The workers settle what is open and has lost its log; the end is to say the same.
            return None
        if settled is None or not isinstance(settled.entry, Settled):
            problem = events.Problem("gone", "Nothing is left of this answer.")
            return [wire.end(self.name, response, "", "failed", None, error=problem, retryable=False)]
        entry = settled.entry
        text = bytes(entry.text)[1:-1]
        return [
            wire.reset(response, str(settled.id), text, b"", "gone"),
            wire.end(
                self.name,
                response,
                str(settled.id),
                entry.reason,
                len(events.unescape(text)),
                usage=entry.usage,
                error=entry.error,
                retryable=entry.retryable,
            ),
        ]

    def begin(self, after: str | None, named: Mapping[str, str]) -> tuple[list[Frame], Position]:
        """The first frames of a watch, and the position from which it goes on.

        `after` and `named` are cursors as the client spells them: of the conversation, and of responses that it has no
        end of. One that can not be continued is never passed over in silence: a snapshot or a reset follows.
        """
        cursors: dict[str, LogId | None] = {}
        for response, spelled in named.items():
            cursor = events.parse_log_id(spelled) or UNKNOWN
            # Who names a response does not know of its end, even at the cursor of the end.
            cursors[response] = UNKNOWN if self._has_end(response, cursor) else cursor
        turns = events.parse_turn_id(after) if after is not None else None
        if turns is None or not self.turns.has(turns):
            reason = None if after is None else "unknown" if turns is None else "lost"
            return self.begin_anew(reason, cursors)
        frames = [wire.watching(self.name, str(turns), resumed=True)]
        # What the client does not name it does not know, or it has its end. Those that it may have an end of begin with
        # a reset: a retry's, whose opening no frame tells; and an open one's, whose end a failover took back.
        entries = [turn.entry for turn in self.turns.after(turns)]
        later = {entry.response for entry in entries if isinstance(entry, events.Opened) and not entry.again}
        again = {entry.response for entry in entries if isinstance(entry, events.Opened) and entry.again}
        for response in dict.fromkeys([*self.turns.open(), *sorted(again)]):
            if response not in later:
                cursors.setdefault(response, UNKNOWN)
                frames += self._status(response, cursors[response])
        return frames, Position(turns, tuple(cursors.items()))

    def begin_anew(self, reason: str | None, named: Mapping[str, LogId | None]) -> tuple[list[Frame], Position]:
        """As `begin`, for a viewer whose place in the conversation is not known: a snapshot."""
        cursor = self.turns.tail
        messages, more = self.turns.messages()
        shown = [
            replica
            for response in self.turns.open()
            if (replica := self.responses.get(response)) is not None and replica.tail and not replica.end
        ]
        frames = [
            wire.watching(self.name, str(cursor), resumed=False, reason=reason),
            wire.snapshot(self.name, str(cursor), messages, [replica.open() for replica in shown], more=more),
        ]
        # What the snapshot does not show, the viewer may show all the same, from before: a reset is right for both.
        cursors: dict[str, LogId | None] = {**named, **dict.fromkeys(self.turns.open(), UNKNOWN)}
        for replica in shown:
            cursors[replica.response] = replica.tail
        return frames, Position(cursor, tuple(cursors.items()))

    def states(self, position: Position) -> Burst:
        """What the responses that a viewer follows from `position` on do now."""
        followed = (self.responses.get(response) for response, _ in position.responses)
        return Burst(replica.status() for replica in followed if replica is not None and replica.end is None)

    def _status(self, response: str, cursor: LogId | None) -> list[Frame]:
        replica = self.responses.get(response)
        # A viewer that has all there is would otherwise hear nothing until the next token.
        if replica is None or cursor is None or cursor != replica.tail or replica.state == "running":
            return []
        return [replica.status()]

    def unknown(self, named: Mapping[str, str], after: str | None = None) -> set[str]:
        """The logs that have to be read before a watch from these cursors can begin.

        Those that are not here, and those of which another gateway has given more than is here.
        """
        lacking = {response for response in named if response not in self.responses and response not in self.gone}
        for response, spelled in named.items():
            replica, cursor = self.responses.get(response), events.parse_log_id(spelled)
            if replica is not None and replica.tail and cursor and cursor.seq > replica.tail.seq:
                lacking.add(response)
        turn = events.parse_turn_id(after) if after is not None else None
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


class Hub:
    """All rooms of this process."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.dirty: list[Room] = []
        self.lacking: list[Room] = []
        """Rooms that want a log to be read, as of the last flush."""
        self.spoken: list[ResponseReplica] = []
        """Responses whose first text was given to viewers, until somebody takes them out."""
        self.tally = Tally()
        self._watched: dict[Viewer, set[Room]] = {}
        self._full: set[Viewer] = set()

    def open(self, name: str) -> Room:
        """The room of a conversation, a new and empty one if there was none."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(name, ConversationReplica(name))
        return room

    def close(self, room: Room) -> None:
        """Drop a room that nobody watches."""
        assert not room.watched
        del self.rooms[room.name]

    def distrust(self, room: Room) -> None:
        """Hold nothing that a room has for true until it has been read anew."""
        room.stale = True
        room.responses.clear()
        room.wanted.update(("", *room.turns.open()))

    def join(self, room: Room, viewer: Viewer, position: Position) -> None:
        """Let a viewer follow a room from `position` on; it is given what it lacks at the next flush."""
        watched = self._watched.setdefault(viewer, set())
        if room in watched:
            room.displace(viewer)
        watched.add(room)
        if viewer in self._full:
            room.behind[viewer] = position
        else:
            room.place(viewer, position)
            self._changed(room)

    def leave(self, viewer: Viewer, room: Room | None = None) -> None:
        """Let a viewer follow a room, or anything at all, no longer."""
        watched = self._watched.get(viewer, set())
        for left in [room] if room else list(watched):
            left.displace(viewer)
            watched.discard(left)
        if not watched:
            self._watched.pop(viewer, None)
        if room is None:
            self._full.discard(viewer)

    def take(self, room: Room, published: Sequence[events.Published]) -> None:
        """Bring what was published on a conversation's channel to its logs."""
        for part in published:
            if part.response is None:
                result = room.turns.hear(part)
            else:
                replica = room.responses.get(part.response)
                if replica is None:
                    if part.previous != b"-":
                        # The log of a response that nobody here reads, or whose beginning was missed.
                        room.wanted.update({part.response} & set(room.turns.open()))
                        continue
                    replica = room.responses[part.response] = ResponseReplica(part.response)
                    room.silent.add(part.response)
                result = replica.hear(part)
                if result is not ACCEPTED and result is Extended.FOREIGN:
                    # It must not pass for the whole answer until the log has been read.
                    del room.responses[part.response]
            self.tally.received += len(part.values)
            if result is not ACCEPTED and result is not Extended.KNOWN:
                self.tally.gaps += 1
                room.wanted.add(part.response or "")
        self._changed(room)

    def ask_turns(self, room: Room) -> TurnId | None:
        """The entry from which on the conversation's log is to be read; None for its beginning."""
        return None if room.stale or room.turns.tail == ORIGIN else room.turns.tail

    def ask_response(self, room: Room, response: str) -> LogId | None:
        """The entry from which on a response's log is to be read; None for its beginning."""
        replica = room.responses.get(response)
        return replica.tail if replica else None

    def compare(self, room: Room, *, idle: bool) -> list[str]:
        """The logs of a room to compare with the store now: those in question of which nothing came since last time.

        A conversation in which nothing is open is in question only if `idle`.
        """
        live = {name: replica for name, replica in room.responses.items() if replica.end is None}
        logs = [name for name, replica in live.items() if not replica.heard]
        if (live or idle) and not room.turns.heard:
            logs.insert(0, "")
        room.turns.heard = False
        for replica in live.values():
            replica.heard = False
        return logs

    def load_turns(self, room: Room, asked: TurnId | None, entries: Sequence[tuple[TurnId, bytes]]) -> bool:
        """Bring what the store had of a conversation from `asked` on; return whether that was news.

        A copy that contradicts the store stands until the log was read from its beginning, and is then replaced.
        """
        replaced = room.stale and asked is None
        if replaced:
            room.turns, room.stale = ConversationReplica(room.name), False
            # Another history may have what the last one had not. And what was published while the log was read went
            # to the old copy.
            room.gone.clear()
            room.wanted.add("")
        result = room.turns.repair(asked, entries)
        if result is Extended.FOREIGN:
            room.stale = True
            room.wanted.add("")
            return True
        room.wanted.update(name for name in room.turns.open() if name not in room.responses and name not in room.gone)
        # An empty log brings nothing that is new, and is news all the same to those who have what was lost.
        news = replaced or result is not Extended.KNOWN
        if news:
            self._changed(room)
        return news

    def load_response(
        self, room: Room, response: str, asked: LogId | None, entries: Sequence[tuple[LogId, bytes]]
    ) -> bool:
        """Bring what the store had of a response's log from `asked` on; return whether that was news."""
        replica = room.responses.get(response)
        if replica is None and asked is not None:
            # The copy from whose tail on the log was read is no more.
            room.wanted.add(response)
            return False
        if replica is None:
            replica = ResponseReplica(response)
            # A log that names another conversation is not there for this one's viewers.
            if not entries or replica.repair(None, entries) is Extended.FOREIGN or not replica.is_of(room.name):
                room.gone.add(response)
            else:
                room.responses[response] = replica
                room.gone.discard(response)
            self._changed(room)
            return True
        result = replica.repair(asked, entries)
        if result is Extended.FOREIGN:
            del room.responses[response]
            room.wanted.add(response)
        if result is not Extended.KNOWN:
            self._changed(room)
        return result is not Extended.KNOWN

    def tell_states(self, rooms: Iterable[Room], *, away: bool) -> None:
        """The store does not answer as to these rooms, or does again: tell everybody who follows an answer there."""
        for room in rooms:
            for replica in room.responses.values():
                replica.away = away
            for group in tuple(room.groups):
                self._give(group, room.states(group.position))

    def flush(self) -> None:
        """Give every viewer that can take it what it lacks: one read a position, whatever the number of viewers."""
        self.lacking.clear()
        while self.dirty:
            room = self.dirty.pop()
            room.dirty = False
            for group in tuple(room.groups):
                self._bring(room, group)
            if len(room.groups) > 1:
                room.unite()
            if room.silent:
                self._listen(room)
            if room.wanted:
                self.lacking.append(room)

    def _listen(self, room: Room) -> None:
        for response in tuple(room.silent):
            replica = room.responses.get(response)
            if replica is not None and (replica.text.last or replica.reasoning.last):
                self.spoken.append(replica)
            elif replica is not None and replica.end is None:
                continue
            room.silent.discard(response)

    def _changed(self, room: Room) -> None:
        if not room.dirty:
            room.dirty = True
            self.dirty.append(room)

    def _bring(self, room: Room, group: Group) -> None:
        burst, group.position = room.read(group.position)
        if not burst:
            return
        if burst.entries > 0:
            self.tally.delivered += burst.entries * len(group.viewers)
        self._give(group, burst)

    def _give(self, group: Group, burst: Burst) -> None:
        if not burst:
            return
        self.tally.frames += len(burst) * len(group.viewers)
        packet = burst.packet
        # A copy, because giving may end with a viewer leaving, or being full.
        for viewer, write in tuple(group.viewers.items()):
            if write is not None:
                write(packet)
            else:
                viewer.give(burst)

    def full(self, viewer: Viewer) -> None:
        """A viewer can take no more: what comes for it waits in the logs."""
        self._full.add(viewer)
        for room in self._watched.get(viewer, ()):
            room.behind[viewer] = room.displace(viewer)

    def ready(self, viewer: Viewer) -> None:
        """A viewer that could not take more can again: the next flush gives it all that has come since."""
        self._full.discard(viewer)
        for room in self._watched.get(viewer, ()):
            position = room.behind.pop(viewer, None)
            if position is not None:
                room.place(viewer, position)
                self._changed(room)
