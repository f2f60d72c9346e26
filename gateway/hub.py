"""Who watches what: each viewer is a position, and viewers at the same position are given the same bytes.

Rules of this file: it never waits. The shell brings entries (`take`, `load_*`), asks for work (`wanted`), and calls
`flush` once a loop turn; a viewer only says whether it can be given more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.history_replica import ORIGIN, RECONCILE_AFTER_ACTIVITY, HistoryReplica
from gateway.replica import ACCEPTED, Outcome
from gateway.response_replica import ResponseReplica
from gateway.room import Room

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.frame_batch import FrameBatch
    from gateway.room import Group, Position, Viewer, Write
    from gateway.streams import log_entries
    from gateway.streams.log_entries import HistoryId, LogId


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
            room = self.rooms[name] = Room(name, HistoryReplica(name))
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
            left.untold.discard(viewer)
            watched.discard(left)
        if not watched:
            self._watched.pop(viewer, None)
        if room is None:
            self._full.discard(viewer)

    def take(self, room: Room, published: Sequence[log_entries.Published]) -> None:
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
                if result is not ACCEPTED and result is Outcome.FOREIGN:
                    # It must not pass for the whole answer until the log has been read. And what lost a tail of one log
                    # lost the end of the conversation's too, perhaps, which says that this answer has ended.
                    del room.responses[part.response]
                    room.wanted.add("")
            self.tally.received += len(part.values)
            if result is not ACCEPTED and result is not Outcome.KNOWN:
                self.tally.gaps += 1
                room.wanted.add(part.response or "")
        self._changed(room)

    def ask_turns(self, room: Room) -> HistoryId | None:
        """The entry from which on the conversation's log is to be read; None for its beginning."""
        return None if room.stale or room.turns.tail == ORIGIN else room.turns.tail

    def ask_response(self, room: Room, response: str) -> LogId | None:
        """The entry from which on a response's log is to be read; None for its beginning."""
        replica = room.responses.get(response)
        return replica.tail if replica else None

    def compare(self, room: Room, *, idle: bool) -> list[str]:
        """The logs of a room to compare with the store now: those in question of which nothing came since last time.

        A conversation in which nothing is open, and of which nothing was heard of late, is in question only if `idle`.
        """
        turns = room.turns
        turns.quiet = 0 if turns.heard else turns.quiet + 1
        live = {name: replica for name, replica in room.responses.items() if replica.end is None}
        logs = [name for name, replica in live.items() if not replica.heard]
        if (live or idle or turns.quiet <= RECONCILE_AFTER_ACTIVITY) and not turns.heard:
            logs.insert(0, "")
        turns.heard = False
        for replica in live.values():
            replica.heard = False
        return logs

    def load_turns(self, room: Room, asked: HistoryId | None, entries: Sequence[tuple[HistoryId, bytes]]) -> bool:
        """Bring what the store had of a conversation from `asked` on; return whether that was news.

        A copy that contradicts the store stands until the log was read from its beginning, and is then replaced.
        """
        replaced = room.stale and asked is None
        if replaced:
            room.turns, room.stale = HistoryReplica(room.name), False
            # Another history may have what the last one had not. And what was published while the log was read went
            # to the old copy.
            room.gone.clear()
            room.wanted.add("")
        result = room.turns.repair(asked, entries)
        if result is Outcome.FOREIGN:
            room.stale = True
            room.wanted.add("")
            return True
        room.wanted.update(name for name in room.turns.open() if name not in room.responses and name not in room.gone)
        # An empty log brings nothing that is new, and is news all the same to those who have what was lost.
        news = replaced or result is not Outcome.KNOWN
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
            if not entries or replica.repair(None, entries) is Outcome.FOREIGN or not replica.is_of(room.name):
                room.gone.add(response)
            else:
                room.responses[response] = replica
                room.gone.discard(response)
            self._changed(room)
            return True
        result = replica.repair(asked, entries)
        if result is Outcome.FOREIGN:
            del room.responses[response]
            room.wanted.add(response)
        if result is not Outcome.KNOWN:
            self._changed(room)
        return result is not Outcome.KNOWN

    def tell_states(self, rooms: Iterable[Room], *, away: bool) -> None:
        """The store does not answer as to these rooms, or does again: tell everybody who follows an answer there."""
        for room in rooms:
            for replica in room.responses.values():
                replica.away = away
            room.untold.update(room.behind)
            for group in tuple(room.groups):
                self._give(tuple(group.viewers.items()), room.states(group.position))

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
        # A copy, because giving may end with a viewer leaving, or being full.
        self._give(tuple(group.viewers.items()), burst)

    def _give(self, viewers: Sequence[tuple[Viewer, Write | None]], burst: FrameBatch) -> None:
        if not burst:
            return
        self.tally.frames += len(burst) * len(viewers)
        packet = burst.packet
        for viewer, write in viewers:
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
                if viewer in room.untold:
                    room.untold.discard(viewer)
                    self._give(((viewer, viewer.direct),), room.states(position))
