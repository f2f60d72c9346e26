"""All rooms and viewers of this process: fan-out by position, backpressure, and which logs to reconcile.

Viewers at one position share one read and one encoding. A viewer whose write buffer is full is paused (backpressure)
and lags: the replicas hold what it is missing, and after `resume` it gets everything coalesced. There is no queue per
viewer, so a slow consumer does not delay other viewers.

A core module: it never waits. The feed applies entries (`apply`, `load_*`), reads the logs that `rooms_to_load` need,
and calls `flush` once per event loop iteration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.history_replica import ORIGIN, RECONCILE_AFTER_ACTIVITY, HistoryReplica
from gateway.replica import ACCEPTED, Outcome
from gateway.response_replica import ResponseReplica
from gateway.room import HISTORY, Room
from gateway.streams import keys
from gateway.streams.unreadable import TALLY

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from gateway.frame_batch import FrameBatch
    from gateway.room import Group, Log, Position, Viewer, Write
    from gateway.streams import log_entries
    from gateway.streams.log_entries import HistoryId, LogId


@dataclass(slots=True)
class Tally:
    """Counts since the feed last reset them. Plain integers, because they change with every token."""

    received: int = 0
    """Published entries."""
    delivered: int = 0
    """Entries sent to viewers, once per viewer."""
    frames: int = 0
    """Frames sent to viewers, once per viewer."""
    gaps: int = 0
    """Publishes that did not follow the tail of their replica."""


class Hub:
    """All rooms of this process."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.dirty: list[Room] = []
        self.rooms_to_load: list[Room] = []
        """Rooms that need a log from the store, as of the last flush."""
        self.first_text_sent: list[ResponseReplica] = []
        """Responses whose first text was sent to viewers; the feed removes them."""
        self.tally = Tally()
        self.held = 0
        """Bytes that all rooms hold, as of the last `measure`, and what was loaded since."""
        self._unfinished: list[Room] = []
        """Rooms in which a viewer got only a piece of what it is missing."""
        self._watched: dict[Viewer, set[Room]] = {}
        self._paused: set[Viewer] = set()

    def open(self, name: str) -> Room:
        """Return the room of a conversation; create an empty one if there is none."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(name, HistoryReplica(name))
            self.held += room.size
        return room

    def close(self, room: Room) -> None:
        """Drop a room without viewers."""
        assert not room.watched
        del self.rooms[room.name]

    def measure(self) -> None:
        """Update `held`. Once a second, because live entries are not counted one by one."""
        self.held = sum(room.size for room in self.rooms.values())

    def invalidate(self, room: Room) -> None:
        """Invalidate a room's replicas until they have been re-read from the store."""
        room.stale = True
        room.responses.clear()
        room.to_load.update((HISTORY, *room.history.open_responses()))

    def subscribe(self, room: Room, viewer: Viewer, position: Position) -> None:
        """Subscribe a viewer to a room from `position` on; the next flush sends what it is missing."""
        watched = self._watched.setdefault(viewer, set())
        if room in watched:
            room.remove_viewer(viewer)
        watched.add(room)
        if viewer in self._paused:
            room.lagging[viewer] = position
        else:
            room.add_viewer(viewer, position)
            self._mark_dirty(room)

    def unsubscribe(self, viewer: Viewer, room: Room | None = None) -> None:
        """Unsubscribe a viewer from one room, or from all."""
        watched = self._watched.get(viewer, set())
        for left in [room] if room else list(watched):
            left.remove_viewer(viewer)
            left.unnotified.discard(viewer)
            watched.discard(left)
        if not watched:
            self._watched.pop(viewer, None)
        if room is None:
            self._paused.discard(viewer)

    def apply(self, room: Room, published: Sequence[log_entries.Published]) -> None:
        """Apply what was published on a conversation's channel to its replicas."""
        for part in published:
            if part.response is None:
                result = room.history.receive(part)
            else:
                replica = room.responses.get(part.response)
                if replica is None:
                    if part.response in room.unreadable:
                        # Each of its publishes would request the log again.
                        continue
                    if part.previous != b"-":
                        # No viewer reads this response, or its first entries were missed.
                        room.to_load.update({part.response} & set(room.history.open_responses()))
                        continue
                    if not keys.is_response_of(part.response, room.name):
                        # Of another program: its key could not be compared with the store.
                        TALLY.add(room.name)
                        continue
                    replica = room.responses[part.response] = ResponseReplica(part.response)
                    room.awaiting_first_text.add(part.response)
                result = replica.receive(part)
                if result is not ACCEPTED and result is Outcome.CONFLICT:
                    # The replica must not be shown as the whole answer until the log is read. The failover that lost
                    # this tail may have lost the tail of the history too, so that is read as well.
                    del room.responses[part.response]
                    room.to_load.add(HISTORY)
            self.tally.received += len(part.values)
            if result is not ACCEPTED and result is not Outcome.KNOWN:
                self.tally.gaps += 1
                room.to_load.add(HISTORY if part.response is None else part.response)
        self._mark_dirty(room)

    def history_cursor(self, room: Room) -> HistoryId | None:
        """Return the entry from which the history must be read; None for its beginning."""
        return None if room.stale or room.history.tail == ORIGIN else room.history.tail

    def response_cursor(self, room: Room, response: str) -> LogId | None:
        """Return the entry from which a response log must be read; None for its beginning."""
        replica = room.responses.get(response)
        return replica.tail if replica else None

    def logs_to_reconcile(self, room: Room, *, idle: bool) -> list[Log]:
        """Return the logs to reconcile: open ones that received nothing since the last call. Start a new interval.

        The history of a conversation without an open response and without recent entries is included only if `idle`.
        """
        history = room.history
        history.checks_since_activity = 0 if history.received else history.checks_since_activity + 1
        live = {name: replica for name, replica in room.responses.items() if replica.end is None}
        logs: list[Log] = [name for name, replica in live.items() if not replica.received]
        recent = history.checks_since_activity <= RECONCILE_AFTER_ACTIVITY
        if (live or idle or recent) and not history.received:
            logs.insert(0, HISTORY)
        history.received = False
        for replica in live.values():
            replica.received = False
        return logs

    def load_history(self, room: Room, cursor: HistoryId | None, entries: Sequence[tuple[HistoryId, bytes]]) -> bool:
        """Apply what the store holds of a history from `cursor` on; return whether that changed the replica.

        A replica that contradicts the store is used until the history was read from its beginning; then it is replaced.
        """
        if cursor is None:
            history = HistoryReplica(room.name)
            history.repair(None, entries)
            return self.replace_history(room, history)
        result = room.history.repair(cursor, entries)
        if result is Outcome.CONFLICT:
            room.stale = True
            room.to_load.add(HISTORY)
            return True
        self._request_open_logs(room)
        if result is not Outcome.KNOWN:
            self._mark_dirty(room)
        return result is not Outcome.KNOWN

    def replace_history(self, room: Room, history: HistoryReplica) -> bool:
        """Use a history that was read from its beginning; return whether that changed the replica."""
        if not room.stale and history.tail == ORIGIN:
            # Empty when it was read. What the replica has was published since, from the first entry on.
            return False
        if room.stale:
            # The new history may have responses whose logs the old one had lost.
            room.expired.clear()
        if room.stale or room.history.tail != ORIGIN:
            # Entries that were published during the read went to the old replica, so the history is read once more.
            room.to_load.add(HISTORY)
        room.history, room.stale = history, False
        self._request_open_logs(room)
        # Viewers of a lost history get a snapshot, even of an empty one.
        self._mark_dirty(room)
        return True

    def _request_open_logs(self, room: Room) -> None:
        room.to_load.update(
            name for name in room.history.open_responses() if name not in room.responses and name not in room.expired
        )

    def load_response(
        self, room: Room, response: str, cursor: LogId | None, entries: Sequence[tuple[LogId, bytes]]
    ) -> bool:
        """Apply what the store holds of a response log from `cursor` on; return whether that changed the replica."""
        replica = room.responses.get(response)
        if replica is None and cursor is not None:
            # The replica whose tail was the cursor was dropped during the read.
            room.to_load.add(response)
            return False
        if replica is None:
            replica = ResponseReplica(response)
            replica.repair(None, entries)
            self.put_response(room, replica)
            return True
        result = replica.repair(cursor, entries)
        if result is Outcome.CONFLICT:
            del room.responses[response]
            room.to_load.add(response)
        if result is not Outcome.KNOWN:
            self._mark_dirty(room)
        return result is not Outcome.KNOWN

    def put_response(self, room: Room, replica: ResponseReplica) -> None:
        """Use a replica that was built from the whole log; an empty one stands for a log that is not kept."""
        if replica.response in room.responses:
            # Published meanwhile, from its beginning: the missing entries are read.
            room.to_load.add(replica.response)
            return
        # Viewers of this conversation must not read the log of another one.
        if replica.belongs_to(room.name):
            room.responses[replica.response] = replica
            room.expired.discard(replica.response)
        else:
            room.expired.add(replica.response)
        self._mark_dirty(room)

    def discard_unreadable(self, room: Room, log: Log) -> bool:
        """Stop to request a log whose content cannot be applied; return whether that is new.

        Viewers of a response get its settled text, or an end without one. A history is requested again when it differs
        from the store.
        """
        new = log not in room.unreadable
        room.unreadable.add(log)
        if isinstance(log, str):
            room.responses.pop(log, None)
            room.expired.add(log)
            self._mark_dirty(room)
        return new

    def notify_store_status(self, rooms: Iterable[Room], *, unavailable: bool) -> None:
        """Notify the viewers of open responses in these rooms that the store is unavailable, or available again."""
        for room in rooms:
            for replica in room.responses.values():
                replica.store_unavailable = unavailable
            room.unnotified.update(room.lagging)
            for group in tuple(room.groups):
                self._send(tuple(group.viewers.items()), room.status_frames(group.position))

    def notify_silent_workers(self, looked_at: Iterable[tuple[str, str]], silent: Container[tuple[str, str]]) -> None:
        """Notify the viewers of these (conversation, response) whether the workers of the responses are silent."""
        for conversation, response in looked_at:
            room = self.rooms.get(conversation)
            replica = room.responses.get(response) if room is not None else None
            is_silent = (conversation, response) in silent
            if room is None or replica is None or replica.end is not None or replica.worker_silent == is_silent:
                continue
            replica.worker_silent = is_silent
            room.unnotified.update(room.lagging)
            for group in tuple(room.groups):
                self._send(tuple(group.viewers.items()), room.status_frames(group.position))

    def flush(self) -> None:
        """Send every viewer that is not paused what it is missing: one read per position, for any number of viewers.

        A viewer that is far behind gets a piece. Its room is then dirty again, for the next flush.
        """
        self.rooms_to_load.clear()
        while self.dirty:
            room = self.dirty.pop()
            room.dirty = False
            for group in tuple(room.groups):
                self._advance(room, group)
            if len(room.groups) > 1:
                room.merge_groups()
            if room.awaiting_first_text:
                self._detect_first_text(room)
            if room.to_load:
                self.rooms_to_load.append(room)
        while self._unfinished:
            self._mark_dirty(self._unfinished.pop())

    def _detect_first_text(self, room: Room) -> None:
        for response in tuple(room.awaiting_first_text):
            replica = room.responses.get(response)
            if replica is not None and (replica.text.last or replica.reasoning.last):
                self.first_text_sent.append(replica)
            elif replica is not None and replica.end is None:
                continue
            room.awaiting_first_text.discard(response)

    def _mark_dirty(self, room: Room) -> None:
        if not room.dirty:
            room.dirty = True
            self.dirty.append(room)

    def _advance(self, room: Room, group: Group) -> None:
        batch, group.position, findings = room.read(group.position)
        if findings is not None:
            room.apply(findings)
        if batch.partial:
            self._unfinished.append(room)
        if not batch:
            return
        if batch.entries > 0:
            self.tally.delivered += batch.entries * len(group.viewers)
        # A copy, because a write may pause or unsubscribe a viewer.
        self._send(tuple(group.viewers.items()), batch)

    def _send(self, viewers: Sequence[tuple[Viewer, Write | None]], batch: FrameBatch) -> None:
        if not batch:
            return
        self.tally.frames += len(batch) * len(viewers)
        encoded = batch.encoded
        for viewer, write in viewers:
            if write is not None:
                write(encoded)
            else:
                viewer.send(batch)

    def pause(self, viewer: Viewer) -> None:
        """Stop writing to a viewer (backpressure): it becomes lagging, with its position."""
        self._paused.add(viewer)
        for room in self._watched.get(viewer, ()):
            room.lagging[viewer] = room.remove_viewer(viewer)

    def resume(self, viewer: Viewer) -> None:
        """Continue writing to a paused viewer: the next flush sends all that it is missing."""
        self._paused.discard(viewer)
        for room in self._watched.get(viewer, ()):
            position = room.lagging.pop(viewer, None)
            if position is not None:
                room.add_viewer(viewer, position)
                self._mark_dirty(room)
                if viewer in room.unnotified:
                    room.unnotified.discard(viewer)
                    self._send(((viewer, viewer.direct_write),), room.status_frames(position))
