"""A stateful model of the hub: under any fault, every viewer shows exactly what the logs hold.

Two gateways replicate the logs of one store, which a failover may reset to an earlier state. The gateways receive
published entries, each delivered, lost or duplicated, and reconcile with the store. Clients subscribe and unsubscribe
at either gateway, lag, and disconnect between any two frames.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.frame_batch import FrameBatch
from gateway.history_replica import MAX_SNAPSHOT_BYTES, RECONCILE_AFTER_ACTIVITY, HistoryReplica
from gateway.hub import Hub, Tally
from gateway.replica import MAX_PIECE_BYTES, UNKNOWN
from gateway.response_replica import ResponseReplica
from gateway.room import HISTORY, ROOM_BYTES, Log, Position, Room, Write
from gateway.streams import keys, log_entries
from gateway.streams.log_entries import (
    NONCES,
    End,
    HistoryId,
    LogId,
    Opened,
    Published,
    Queued,
    Start,
    UserMessage,
    Waiting,
)
from tests.transcript import Transcript

CONVERSATION = "c1"
LETTERS = st.text('abé😀"\\\n', min_size=1, max_size=6)


@dataclass
class Logs:
    """The logs of the store; a failover restores an earlier copy."""

    history: list[tuple[HistoryId, bytes]] = field(default_factory=list)
    responses: dict[str, list[tuple[LogId, bytes]]] = field(default_factory=dict)


def bodies(packet: bytes) -> list[bytes]:
    """Return the payloads of WebSocket frames (RFC 6455, section 5.2)."""
    found = []
    while packet:
        size = packet[1]
        head = 2 + {126: 2, 127: 8}.get(size, 0)
        size = int.from_bytes(packet[2:head]) if head > 2 else size
        found.append(packet[head : head + size])
        packet = packet[head + size :]
    return found


class Client:
    """A client and its connection. A disconnect loses the frames in flight, from any frame on."""

    def __init__(self, *, direct: bool) -> None:
        self.transcript = Transcript(CONVERSATION)
        self.gateway: Gateway | None = None
        self.in_flight: list[bytes] = []
        self.paused = False
        self.direct_write = self.write if direct else None

    def write(self, packet: bytes) -> None:
        self.in_flight += bodies(packet)
        if self.paused and self.gateway is not None:
            self.gateway.hub.pause(self)

    def send(self, batch: FrameBatch) -> None:
        self.write(batch.encoded)

    def receive(self, count: int | None = None) -> None:
        taken, self.in_flight = self.in_flight[:count], self.in_flight[count:] if count is not None else []
        for body in taken:
            self.transcript.fold(json.loads(body))


class Gateway:
    """A hub with the operations of the feed."""

    piece_bytes = MAX_PIECE_BYTES

    def __init__(self) -> None:
        self.hub = Hub()
        self.room: Room = self.hub.open(CONVERSATION)
        self.room.piece_bytes = self.piece_bytes
        self.loaded = False

    def flush_all(self) -> None:
        """Flush until no viewer that reads is missing anything."""
        self.hub.flush()
        while self.hub.dirty:
            self.hub.flush()

    def load(self, logs: Logs) -> None:
        while self.room.to_load:
            name = self.room.to_load.pop()
            self.read(logs, name)

    def read(self, logs: Logs, log: Log) -> None:
        if isinstance(log, str):
            last = self.hub.response_cursor(self.room, log)
            stored = logs.responses.get(log, [])
            found = [e for e in stored if last is None or e[0] >= last]
            self.hub.load_response(self.room, log, last, found or stored[-1:])
        else:
            cursor = self.hub.history_cursor(self.room)
            self.hub.load_history(self.room, cursor, [e for e in logs.history if cursor is None or e[0] >= cursor])

    def compare(self, logs: Logs) -> None:
        for name in self.hub.logs_to_reconcile(self.room, idle=True):
            self.read(logs, name)
        self.load(logs)

    def enter(self, logs: Logs, named: dict[str, str], after: str | None) -> None:
        if not self.loaded:
            self.loaded = True
            self.room.to_load.add(HISTORY)
        self.room.to_load |= self.room.missing_logs(named, after)
        self.load(logs)


class Delivery(RuleBasedStateMachine):
    """The model; see the module docstring."""

    gateway_class = Gateway

    def __init__(self) -> None:
        super().__init__()
        self.logs = Logs()
        self.saved: list[Logs] = []
        self.gateways: list[Gateway] = [self.gateway_class(), self.gateway_class()]
        self.clients: list[Client] = []
        self.nonce = 1
        self.lost: dict[str, list[tuple[LogId, bytes]]] = {}
        """Entries that a failover lost; their worker writes them again before new ones."""
        self.dead: set[tuple[str, int]] = set()
        """Attempts whose worker has stopped writing."""
        self.texts: dict[tuple[str, str], str] = {}
        """The text of a response at each cursor that any of its logs ever had."""

    def next_number(self) -> int:
        self.nonce += 1
        return self.nonce

    def publish(self, parts: list[Published], fates: list[int]) -> None:
        for gateway, fate in zip(self.gateways, fates, strict=True):
            for _ in range(fate):
                gateway.hub.apply(gateway.room, copy.deepcopy(parts))

    def text_of(self, response: str, last: float = math.inf) -> str:
        """Return the text of a log, of what was written up to the entry `last`."""
        text = b""
        for entry, value in self.logs.responses[response]:
            if value[:1] == log_entries.START:
                text = b""
            elif value[:1] == log_entries.TEXT and entry.seq <= last:
                text += value[1:]
        return log_entries.unescape(text)

    def put(self, response: str, entry: LogId, value: bytes) -> Published:
        log = self.logs.responses[response]
        previous = str(log[-1][0]) if log else "-"
        if value[:1] in (log_entries.START, log_entries.CONTINUE):
            # Cursors before a start stand for the text that it kept, up to there.
            for seq in range(entry.seq):
                kept = self.text_of(response, seq) if value[:1] == log_entries.CONTINUE else ""
                self.texts[response, f"{entry.attempt}-{seq}"] = kept
        log.append((entry, value))
        self.texts[response, str(entry)] = self.text_of(response)
        return Published(response, str(entry).encode(), previous.encode(), [value])

    def append_history(self, value: bytes) -> Published:
        previous = self.logs.history[-1][0] if self.logs.history else None
        entry = HistoryId(previous.seq + 1 if previous else 1, self.next_number())
        self.logs.history.append((entry, value))
        return Published(None, str(entry).encode(), str(previous or "-").encode(), [value])

    def open(self, *, claimed: bool | None = None) -> list[str]:
        return [
            name
            for name, log in self.logs.responses.items()
            if log[-1][1][:1] != log_entries.END and (claimed is None or (log[-1][0].number > 0) == claimed)
        ]

    def ended(self) -> list[str]:
        return [name for name, log in self.logs.responses.items() if log[-1][1][:1] == log_entries.END]

    def written(self) -> list[str]:
        """Return the responses that a live worker writes."""
        return [r for r in self.open(claimed=True) if (r, self.logs.responses[r][-1][0].attempt) not in self.dead]

    def rewind(self, response: str, fates: list[int]) -> None:
        log = self.logs.responses[response]
        for entry, value in self.lost.pop(response, []):
            if entry.attempt == log[-1][0].attempt and entry.seq == log[-1][0].seq + 1:
                self.publish([self.put(response, entry, value)], fates)

    def begin(self, response: str, kind: bytes, fates: list[int]) -> None:
        last = self.logs.responses[response][-1][0]
        entry = LogId((last.number + 1) * NONCES + self.next_number(), last.seq + 1)
        self.publish([self.put(response, entry, log_entries.encode(kind, Start("default", "w")))], fates)

    fates = st.lists(st.sampled_from([1, 1, 1, 0, 2]), min_size=2, max_size=2)

    @precondition(lambda self: len(self.logs.responses) < 6)
    @rule(text=LETTERS, fates=fates)
    def submit(self, text: str, fates: list[int]) -> None:
        message, response = f"m{self.next_number()}", keys.response_id(CONVERSATION, f"{self.next_number():016d}")
        self.logs.responses[response] = []
        parts = [
            self.append_history(log_entries.encode(log_entries.OPENED, Opened(response, message, "default"))),
            self.append_history(log_entries.encode(log_entries.MESSAGE, UserMessage(message, text))),
            self.put(
                response,
                LogId(self.next_number(), 1),
                log_entries.encode(log_entries.QUEUED, Queued(CONVERSATION, message, "default")),
            ),
        ]
        self.publish(parts, fates)

    @precondition(lambda self: self.ended() and len(self.logs.responses) < 6)
    @rule(data=st.data(), fates=fates)
    def retry(self, data: st.DataObject, fates: list[int]) -> None:
        former = data.draw(st.sampled_from(self.ended()))
        response = keys.response_id(CONVERSATION, f"{self.next_number():016d}")
        queued = Queued(CONVERSATION, "m", "default", replaces=former)
        self.logs.responses[response] = []
        parts = [
            self.append_history(
                log_entries.encode(log_entries.OPENED, Opened(response, "m", "default", former, again=True))
            ),
            self.put(response, LogId(self.next_number(), 1), log_entries.encode(log_entries.QUEUED, queued)),
        ]
        self.publish(parts, fates)

    @precondition(lambda self: self.open())
    @rule(data=st.data(), keep=st.booleans(), fates=fates)
    def claim(self, data: st.DataObject, keep: bool, fates: list[int]) -> None:
        response = data.draw(st.sampled_from(self.open()))
        last = self.logs.responses[response][-1][0]
        self.begin(response, log_entries.CONTINUE if keep and last.number else log_entries.START, fates)

    @precondition(lambda self: self.written())
    @rule(
        data=st.data(),
        pieces=st.lists(
            st.tuples(st.sampled_from([log_entries.TEXT, log_entries.TEXT, log_entries.REASONING]), LETTERS),
            min_size=1,
            max_size=4,
        ),
        large=st.booleans(),
        fates=fates,
    )
    def append(self, data: st.DataObject, pieces: list[tuple[bytes, str]], large: bool, fates: list[int]) -> None:
        response = data.draw(st.sampled_from(self.written()))
        self.rewind(response, fates)
        last = self.logs.responses[response][-1][0]
        values = [kind + log_entries.escape(text) for kind, text in pieces]
        for index, value in enumerate(values, 1):
            self.put(response, LogId(last.attempt, last.seq + index), value)
        first = str(LogId(last.attempt, last.seq + 1)).encode()
        self.publish([Published(response, first, str(last).encode(), [] if large else values)], fates)

    @precondition(lambda self: self.written())
    @rule(data=st.data(), fates=fates)
    def wait(self, data: st.DataObject, fates: list[int]) -> None:
        response = data.draw(st.sampled_from(self.written()))
        self.rewind(response, fates)
        last = self.logs.responses[response][-1][0]
        value = log_entries.encode(log_entries.WAITING, Waiting(1.5))
        self.publish([self.put(response, LogId(last.attempt, last.seq + 1), value)], fates)

    @precondition(lambda self: self.open())
    @rule(data=st.data(), stopped=st.booleans(), fates=fates)
    def end(self, data: st.DataObject, stopped: bool, fates: list[int]) -> None:
        response = data.draw(st.sampled_from(self.open()))
        if response in self.written() and not stopped:
            self.rewind(response, fates)
        else:
            stopped = True
        last = self.logs.responses[response][-1][0]
        attempt = (last.number + 1) * NONCES + self.next_number() if stopped or not last.number else last.attempt
        how = End("stopped" if stopped else "complete", retryable=stopped)
        ended = self.put(response, LogId(attempt, last.seq + 1), log_entries.encode(log_entries.END, how))
        head = log_entries.settled_head(response, keys.answer_id(response), how)
        text = b',"text":"%b"}' % log_entries.escape(self.text_of(response))
        self.publish([ended, self.append_history(log_entries.SETTLED + head + text)], fates)

    @rule()
    def save(self) -> None:
        """Save a state for a later failover."""
        self.saved.append(copy.deepcopy(self.logs))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def fail_over(self, data: st.DataObject) -> None:
        """Restore a saved state: acknowledged entries are lost, and their numbers will be issued again."""
        chosen = data.draw(st.integers(0, len(self.saved) - 1))
        # States that were saved later contain entries that are lost now.
        self.saved = self.saved[: chosen + 1]
        before, self.logs = self.logs, copy.deepcopy(self.saved[chosen])
        for response, log in self.logs.responses.items():
            last = log[-1][0]
            lost = [e for e in before.responses.get(response, []) if e[0].seq > last.seq]
            own = [e for e in lost if e[0].attempt == last.attempt]
            if own == lost and not (own and own[-1][1][:1] == log_entries.END) and response in before.responses:
                self.lost[response] = own + self.lost.get(response, [])
            else:
                self.dead.add((response, last.attempt))

    @precondition(lambda self: self.ended())
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """Expire the log of an ended response; its text is in the history."""
        response = data.draw(st.sampled_from(self.ended()))
        del self.logs.responses[response]
        # Logs live for a day, and a failover does not restore a state that old.
        self.saved = []

    @rule(gateway=st.integers(0, 1))
    def compare(self, gateway: int) -> None:
        if self.gateways[gateway].loaded:
            self.gateways[gateway].compare(self.logs)

    @rule(gateway=st.integers(0, 1))
    def flush(self, gateway: int) -> None:
        here = self.gateways[gateway]
        here.hub.flush()
        if here.loaded:
            here.load(self.logs)

    @rule(gateway=st.integers(0, 1))
    def restart(self, gateway: int) -> None:
        """Replace a gateway; all its connections are lost."""
        for client in self.clients:
            if client.gateway is self.gateways[gateway]:
                client.in_flight, client.gateway, client.paused = [], None, False
        self.gateways[gateway] = self.gateway_class()

    @precondition(lambda self: len(self.clients) < 5)
    @rule(gateway=st.integers(0, 1))
    def join(self, gateway: int) -> None:
        self.clients.append(Client(direct=len(self.clients) % 2 == 0))
        self.connect(self.clients[-1], self.gateways[gateway])

    def connect(self, client: Client, gateway: Gateway, spoiled: str | None = None) -> None:
        watch = client.transcript.watch()
        named: dict[str, str] = watch.get("responses", {})
        after = watch.get("after")
        if spoiled is not None:
            after = spoiled if after is not None else None
        gateway.enter(self.logs, named, after)
        frames, position = gateway.room.begin(after, named)
        client.gateway, client.paused = gateway, False
        client.send(FrameBatch(frames))
        gateway.hub.subscribe(gateway.room, client, position)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), received=st.integers(0, 8))
    def disconnect(self, data: st.DataObject, received: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if client.gateway is None:
            return
        client.receive(received)
        client.in_flight = []
        client.gateway.hub.unsubscribe(client)
        client.gateway = None

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), gateway=st.integers(0, 1), spoiled=st.sampled_from([None, None, None, "9-9", "$", "-1"]))
    def reconnect(self, data: st.DataObject, gateway: int, spoiled: str | None) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if client.gateway is None:
            self.connect(client, self.gateways[gateway], spoiled)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.paused = True

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), received=st.integers(0, 8))
    def read(self, data: st.DataObject, received: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.receive(received)
        if client.paused and not client.in_flight and client.gateway is not None:
            client.paused = False
            client.gateway.hub.resume(client)

    @invariant()
    def text_matches_cursor(self) -> None:
        """Each text matches its cursor at any time: nothing is lost, duplicated or mixed."""
        for client in self.clients:
            for name, answer in client.transcript.open.items():
                # An expired log has no cursors; its text is in the history.
                if answer.cursor is not None and answer.resets[-1:] != ["gone"]:
                    assert answer.text == self.texts[name, answer.cursor]

    def teardown(self) -> None:
        """Deliver everything: every client then shows the logs and has every end."""
        for client in self.clients:
            if client.gateway is None:
                self.connect(client, self.gateways[0])
        for response in self.open():
            # Each job finally has a worker: the one that wrote the lost tail and writes it again, or another one.
            if response in self.written():
                self.rewind(response, [1, 0])
            else:
                self.begin(response, log_entries.START, [1, 0])
        for _ in range(4):
            for gateway in self.gateways:
                if gateway.loaded:
                    gateway.flush_all()
                    gateway.hub.logs_to_reconcile(gateway.room, idle=True)
                    gateway.compare(self.logs)
                    gateway.flush_all()
                    gateway.load(self.logs)
            for client in self.clients:
                client.receive()
                client.paused = False
                assert client.gateway is not None
                client.gateway.hub.resume(client)
                client.gateway.flush_all()
        for client in self.clients:
            client.receive()
            self.check(client.transcript)

    def check(self, transcript: Transcript) -> None:
        messages: dict[str, Any] = {}
        settled = {}
        for _, value in self.logs.history:
            entry = log_entries.decode_history_entry(value)
            if isinstance(entry, UserMessage):
                messages[entry.id] = entry.text
            elif isinstance(entry, log_entries.Settled):
                messages[entry.message] = settled[entry.response] = json.loads(bytes(entry.text))
        shown = {name: message["text"] for name, message in transcript.messages.items()}
        assert shown == messages, (shown, messages, transcript.cursor)
        for name, log in self.logs.responses.items():
            answer = transcript.answers.get(name)
            if log[-1][1][:1] == log_entries.END:
                assert name not in transcript.open
            else:
                assert answer is not None
                if not answer.ends:
                    assert answer.text == self.text_of(name)
        for name, answer in transcript.answers.items():
            assert answer.ends or name in self.logs.responses, "a lost response has no end"


TestDelivery = pytest.mark.timeout(400)(Delivery.TestCase)
TestDelivery.settings = settings(
    settings.default,
    # The main guarantee of the product, so it gets more examples than other tests.
    max_examples=3 * settings().max_examples,
    stateful_step_count=60,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


class PieceGateway(Gateway):
    """A gateway whose reads return a few bytes."""

    piece_bytes = 7


class PieceDelivery(Delivery):
    """The model with snapshots, resets and deltas in pieces."""

    gateway_class = PieceGateway


TestPieceDelivery = pytest.mark.timeout(400)(PieceDelivery.TestCase)
TestPieceDelivery.settings = TestDelivery.settings


class UnreconciledGateway(Gateway):
    """A gateway that never reconciles."""

    def compare(self, logs: Logs) -> None:
        pass


class UnreconciledDelivery(Delivery):
    """The model without reconciliation."""

    gateway_class = UnreconciledGateway


def test_model_without_reconciliation_loses_entries() -> None:
    few = settings(max_examples=300, database=None, report_multiple_bugs=False, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(UnreconciledDelivery, settings=few)


RESPONSE = keys.response_id(CONVERSATION, "a" * 16)
OPENED = (HistoryId(1, 1), log_entries.encode(log_entries.OPENED, Opened(RESPONSE, "m1", "default")))
ASKED = (HistoryId(2, 1), log_entries.encode(log_entries.MESSAGE, UserMessage("m1", "Hi")))
QUEUED = (LogId(1, 1), log_entries.encode(log_entries.QUEUED, Queued(CONVERSATION, "m1", "default")))
STARTED = (LogId(NONCES, 2), log_entries.encode(log_entries.START, Start("default")))
TEXT = (LogId(NONCES, 3), log_entries.TEXT + b"Hello")
ENDED = (LogId(NONCES, 4), log_entries.encode(log_entries.END, End("complete", retryable=False)))
SETTLED = (
    HistoryId(3, 1),
    log_entries.SETTLED
    + log_entries.settled_head(RESPONSE, "m2", End("complete", retryable=False))
    + b',"text":"Hello"}',
)


class RecordingViewer:
    """A viewer that records its frames. With `pause_at`, it pauses there after each batch."""

    direct_write: Write | None = None

    def __init__(self, pause_at: Hub | None = None) -> None:
        self.frames: list[dict[str, Any]] = []
        self.batches: list[FrameBatch] = []
        self.pause_at = pause_at

    def send(self, batch: FrameBatch) -> None:
        self.batches.append(batch)
        self.frames += [json.loads(frame.body) for frame in batch]
        if self.pause_at is not None:
            self.pause_at.pause(self)

    def kinds(self) -> list[str]:
        kinds = [frame["type"] for frame in self.frames]
        self.frames.clear()
        return kinds


def room_with(hub: Hub, turns: list[tuple[HistoryId, bytes]], log: list[tuple[LogId, bytes]]) -> Room:
    room = hub.open(CONVERSATION)
    hub.load_history(room, None, turns)
    if log:
        hub.load_response(room, RESPONSE, None, log)
    room.to_load.clear()
    return room


def published(entry: tuple[Any, bytes], previous: object, response: str | None = RESPONSE) -> list[Published]:
    return [Published(response, str(entry[0]).encode(), str(previous).encode(), [entry[1]])]


def watch(hub: Hub, room: Room, viewer: RecordingViewer, after: str | None = None, **named: str) -> None:
    frames, position = room.begin(after, named)
    viewer.send(FrameBatch(frames))
    hub.subscribe(room, viewer, position)
    hub.flush()


def test_viewers_at_one_position_receive_the_same_batch() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    viewers = [RecordingViewer() for _ in range(3)]
    for viewer in viewers:
        watch(hub, room, viewer)
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    given = [viewer.batches[-1] for viewer in viewers]
    assert given[0] is given[1] is given[2]
    assert [frame.type for frame in given[0]] == ["delta"]


def test_direct_write_may_pause_its_viewer() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    viewer, direct = RecordingViewer(), RecordingViewer()
    packets: list[bytes] = []

    def write(packet: bytes) -> None:
        packets.append(packet)
        hub.pause(direct)

    direct.direct_write = write
    for each in (direct, viewer):
        hub.subscribe(room, each, Position(ASKED[0], ((RESPONSE, STARTED[0]),)))
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert packets == [viewer.batches[0].encoded]
    assert room.lagging == {direct: room.groups[0].position}
    assert direct.batches == []


def test_open_responses_wait_while_store_is_unavailable() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    other = keys.response_id(CONVERSATION, "b" * 16)
    room.responses[other] = over = ResponseReplica(other)
    over.extend(None, [QUEUED, STARTED, TEXT, ENDED])
    viewer, full = RecordingViewer(), RecordingViewer()
    cursors = ((RESPONSE, STARTED[0]), (other, ENDED[0]))
    for each in (viewer, full):
        hub.subscribe(room, each, Position(ASKED[0], cursors))
    hub.pause(full)
    idle = RecordingViewer()
    hub.subscribe(room, idle, Position(ASKED[0]))
    hub.notify_store_status([room], unavailable=True)
    assert [frame["state"] for frame in viewer.frames] == ["waiting"]
    late = RecordingViewer()
    watch(hub, room, late)
    assert [shown["state"] for shown in late.frames[1]["responses"]] == ["waiting"]
    hub.notify_store_status([room], unavailable=False)
    assert [frame["state"] for frame in viewer.frames] == ["waiting", "running"]
    assert full.frames == idle.frames == []
    hub.resume(full)
    assert [frame["state"] for frame in full.frames] == ["running"]


def test_viewers_see_that_the_worker_of_an_answer_is_silent() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    viewer, full = RecordingViewer(), RecordingViewer()
    for each in (viewer, full):
        hub.subscribe(room, each, Position(ASKED[0], ((RESPONSE, STARTED[0]),)))
    hub.pause(full)
    known, unknown = (CONVERSATION, RESPONSE), (CONVERSATION, "r00" + "c" * 16)
    looked_at = [known, unknown, ("elsewhere", RESPONSE)]
    hub.notify_silent_workers(looked_at, {known, unknown})
    hub.notify_silent_workers(looked_at, {known, unknown})
    assert [frame["state"] for frame in viewer.frames] == ["recovering"], "once"
    hub.notify_silent_workers(looked_at, set())
    assert [frame["state"] for frame in viewer.frames] == ["recovering", "running"]
    assert full.frames == []
    hub.resume(full)
    assert [frame["state"] for frame in full.frames] == ["running"]
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.apply(room, published(ENDED, TEXT[0]))
    hub.notify_silent_workers([known], {known})
    assert [frame["type"] for frame in viewer.frames] == ["status", "status"]


def test_store_status_precedes_queued_frames() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    lagging = RecordingViewer(hub)
    hub.subscribe(room, lagging, Position(ASKED[0], ((RESPONSE, STARTED[0]),)))
    hub.notify_store_status([room], unavailable=True)
    hub.notify_store_status([room], unavailable=False)
    hub.apply(room, published(TEXT, STARTED[0]))
    given = []
    for _ in range(3):
        hub.flush()
        given += [(frame["type"], frame.get("state")) for frame in lagging.frames]
        lagging.frames.clear()
        hub.resume(lagging)
    assert given == [("status", "waiting"), ("status", "running"), ("delta", None)]


def test_paused_viewer_subscribes_as_lagging() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    full = RecordingViewer()
    hub.pause(full)
    hub.subscribe(room, full, Position(ASKED[0], ((RESPONSE, STARTED[0]),)))
    hub.flush()
    assert full.kinds() == []
    hub.resume(full)
    hub.flush()
    assert full.kinds() == ["delta"]
    hub.pause(full)
    hub.unsubscribe(full)
    hub.subscribe(room, full, Position(ASKED[0], ((RESPONSE, STARTED[0]),)))
    hub.flush()
    assert full.kinds() == ["delta"]


def test_resumed_viewer_gets_coalesced_rest_in_each_room() -> None:
    hub = Hub()
    room, other = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED]), hub.open("c2")
    lagging = RecordingViewer()
    watch(hub, room, lagging)
    watch(hub, other, lagging)
    assert lagging.kinds() == ["watching", "snapshot"] * 2
    lagging.pause_at = hub
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert lagging.kinds() == ["delta"]
    hub.apply(room, published(ENDED, TEXT[0]))
    hub.apply(other, [Published(None, b"1-5", b"-", [ASKED[1]])])
    hub.flush()
    assert lagging.kinds() == []
    hub.resume(lagging)
    hub.flush()
    assert len(lagging.kinds()) == 1
    lagging.pause_at = None
    hub.resume(lagging)
    hub.flush()
    assert len(lagging.kinds()) == 1
    hub.resume(RecordingViewer())


def test_lagging_viewer_can_unsubscribe() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    lagging = RecordingViewer(hub)
    watch(hub, room, lagging)
    assert lagging.kinds() == ["watching", "snapshot"]
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert lagging.kinds() == []
    hub.resume(lagging)
    hub.flush()
    assert lagging.kinds() == ["delta"]
    hub.unsubscribe(lagging)
    assert not room.watched
    hub.apply(room, published(ENDED, TEXT[0]))
    hub.flush()
    assert lagging.kinds() == []


class UnsubscribingViewer(RecordingViewer):
    """A viewer whose write unsubscribes another viewer and itself, as a closed socket does."""

    def __init__(self, hub: Hub, other: RecordingViewer) -> None:
        super().__init__()
        self._hub = hub
        self._other = other

    def send(self, batch: FrameBatch) -> None:
        self._hub.unsubscribe(self._other)
        self._hub.unsubscribe(self)
        super().send(batch)


def test_write_may_unsubscribe_other_viewers() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    other, witness = RecordingViewer(), RecordingViewer()
    first = UnsubscribingViewer(hub, other)
    for viewer, cursor in ((first, STARTED[0]), (other, QUEUED[0]), (witness, STARTED[0])):
        hub.subscribe(room, viewer, Position(ASKED[0], ((RESPONSE, cursor),)))
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert [len(each.batches) for each in (first, other, witness)] == [1, 0, 1]
    hub.unsubscribe(witness)
    hub.subscribe(room, first, Position(ASKED[0], ((RESPONSE, QUEUED[0]),)))
    hub.flush()
    assert not room.watched


def test_conflicting_publish_drops_replica_and_reloads() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    hub.apply(room, published((LogId(2 * NONCES, 3), log_entries.TEXT + b"Bye"), LogId(2 * NONCES, 2)))
    assert room.to_load == {RESPONSE, HISTORY}
    assert RESPONSE not in room.responses


def test_viewer_unsubscribes_from_one_room_or_all() -> None:
    hub = Hub()
    room, other = hub.open(CONVERSATION), hub.open("c2")
    viewer = RecordingViewer()
    watch(hub, room, viewer)
    watch(hub, other, viewer)
    hub.unsubscribe(viewer, room)
    assert [room.watched, other.watched] == [False, True]
    hub.unsubscribe(viewer)
    hub.unsubscribe(viewer)
    assert [room.watched, other.watched] == [False, False]
    hub.close(room)
    assert hub.open(CONVERSATION) is not room


def test_settled_message_waits_for_the_end() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    viewer = RecordingViewer()
    watch(hub, room, viewer)
    viewer.kinds()
    hub.apply(room, published(SETTLED, ASKED[0], None))
    hub.flush()
    assert viewer.kinds() == []
    assert room.to_load == {RESPONSE}
    hub.load_response(room, RESPONSE, TEXT[0], [TEXT, ENDED])
    hub.flush()
    assert viewer.kinds() == ["end", "message"]
    assert [position.responses for position in room.positions()] == [()]
    late = RecordingViewer()
    watch(hub, room, late, str(ASKED[0]))
    assert late.kinds() == ["watching", "message"]
    assert hub.open(CONVERSATION) is room
    room.drop_ended_logs()
    assert not room.responses


def test_settled_message_overrules_end_lost_in_failover() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT, ENDED])
    viewer = RecordingViewer()
    watch(hub, room, viewer)
    viewer.kinds()
    stopped = (
        log_entries.SETTLED + log_entries.settled_head(RESPONSE, "m2", End("stopped", retryable=True)) + b',"text":""}'
    )
    hub.apply(room, published((SETTLED[0], stopped), ASKED[0], None))
    hub.flush()
    reset, end, message = viewer.frames
    assert (reset["type"], reset["text"], end["reason"]) == ("reset", "", "stopped")
    assert message["message"]["text"] == ""
    assert RESPONSE not in room.responses


def test_expired_response_ends_with_its_settled_text() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED, SETTLED], [])
    assert room.missing_logs({RESPONSE: "1-1"}) == {RESPONSE}
    hub.load_response(room, RESPONSE, None, [])
    assert room.missing_logs({RESPONSE: "1-1"}) == set()
    viewer = RecordingViewer()
    watch(hub, room, viewer, str(SETTLED[0]), **{RESPONSE: str(TEXT[0])})
    assert [frame["type"] for frame in viewer.frames] == ["watching", "reset", "end"]
    assert viewer.frames[1]["text"] == "Hello"
    assert viewer.frames[2]["chars"] == 5
    room.drop_ended_logs()
    assert not room.expired


def test_unknown_response_ends_as_failed() -> None:
    hub = Hub()
    room = room_with(hub, [], [])
    hub.load_response(room, RESPONSE, None, [])
    viewer = RecordingViewer()
    watch(hub, room, viewer, None, **{RESPONSE: str(TEXT[0])})
    assert viewer.frames[-1]["type"] == "end"
    assert viewer.frames[-1]["error"]["code"] == "gone"
    assert "chars" not in viewer.frames[-1]


def test_response_of_other_partition_ends_without_a_read() -> None:
    """It cannot be of this conversation, so a client that names thousands causes no read."""
    hub = Hub()
    room = room_with(hub, [], [])
    other = f"r{(keys.partition_of(CONVERSATION) + 1) % keys.PARTITIONS:02d}" + "a" * 16
    assert room.missing_logs({other: "1-1"}) == set()
    viewer = RecordingViewer()
    watch(hub, room, viewer, None, **{other: "1-1"})
    assert viewer.kinds() == ["watching", "snapshot", "end"]
    assert (room.to_load, room.expired) == (set(), set())


def test_logs_of_the_history_are_loaded_before_named_ones() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [])
    named = {keys.response_id(CONVERSATION, f"{number:016d}") for number in range(64)}
    room.to_load |= {*named, RESPONSE, HISTORY}
    assert [room.next_log(), room.next_log()] == [HISTORY, RESPONSE]
    assert room.needs(RESPONSE)
    assert not any(room.needs(name) for name in named)
    assert {room.next_log() for _ in named} == named
    assert not room.to_load


def test_unreadable_log_is_not_requested_again() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED, SETTLED], [QUEUED, STARTED, TEXT])
    viewer = RecordingViewer()
    watch(hub, room, viewer, str(SETTLED[0]), **{RESPONSE: str(TEXT[0])})
    viewer.kinds()
    assert hub.discard_unreadable(room, RESPONSE)
    assert not hub.discard_unreadable(room, RESPONSE)
    hub.flush()
    assert viewer.kinds() == ["reset", "end"]
    hub.apply(room, published(ENDED, TEXT[0]))
    hub.flush()
    assert (room.to_load, viewer.kinds()) == (set(), [])
    assert hub.discard_unreadable(room, HISTORY)
    assert room.unreadable == {RESPONSE, HISTORY}
    room.drop_ended_logs()
    assert room.unreadable == {HISTORY}


def test_open_response_without_log_ends_when_settled() -> None:
    """Found by tests.chaos, seed 2041: it ended immediately, and another text was settled later."""
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    viewer = RecordingViewer()
    watch(hub, room, viewer)
    hub.load_response(room, RESPONSE, TEXT[0], [])
    hub.load_response(room, RESPONSE, None, [])
    viewer.frames.clear()
    hub.flush()
    assert viewer.kinds() == []
    hub.apply(room, published(SETTLED, ASKED[0], None))
    hub.flush()
    assert viewer.kinds() == ["reset", "end", "message"]


def test_log_of_other_conversation_is_not_shown() -> None:
    hub = Hub()
    room = hub.open("c2")
    assert hub.load_response(room, RESPONSE, None, [QUEUED, STARTED, TEXT])
    assert room.expired == {RESPONSE}


def test_replica_of_the_whole_log_does_not_replace_one_that_was_published_meanwhile() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    published_one = room.responses[RESPONSE]
    whole = ResponseReplica(RESPONSE)
    whole.extend(None, [QUEUED, STARTED, TEXT, ENDED])
    room.to_load.clear()
    hub.put_response(room, whole)
    assert room.responses[RESPONSE] is published_one
    assert room.to_load == {RESPONSE}
    del room.responses[RESPONSE]
    hub.put_response(room, whole)
    assert room.responses[RESPONSE] is whole


def test_viewer_can_follow_a_single_response() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    viewer = RecordingViewer()
    hub.subscribe(room, viewer, Position(None, ((RESPONSE, None),)))
    hub.flush()
    assert viewer.kinds() == ["start", "delta"]
    hub.apply(room, published(ENDED, TEXT[0]) + published(SETTLED, ASKED[0], None))
    hub.flush()
    assert viewer.kinds() == ["end"]
    assert room.size > len("Hello")
    other = RecordingViewer()
    unknown = keys.response_id(CONVERSATION, "0" * 16)
    hub.subscribe(room, other, Position(None, ((unknown, None),)))
    hub.flush()
    assert room.to_load == {unknown}


def test_resumed_client_gets_status_of_open_response() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED])
    viewer = RecordingViewer()
    watch(hub, room, viewer, str(ASKED[0]), **{RESPONSE: str(QUEUED[0])})
    assert viewer.kinds() == ["watching", "status"]
    room.drop_ended_logs()
    assert room.responses
    # A client that does not name the response gets a reset: it may show an end that the store lost.
    watch(hub, room, viewer, str(ASKED[0]))
    assert viewer.kinds() == ["watching", "reset", "status"]
    hub.load_response(room, RESPONSE, QUEUED[0], [QUEUED, STARTED, TEXT, ENDED])
    watch(hub, room, viewer, str(ASKED[0]), **{RESPONSE: str(ENDED[0])})
    assert viewer.kinds() == ["watching", "reset", "start", "end"]


def test_named_cursor_overrules_opening_in_history() -> None:
    hub = Hub()
    again = (
        HistoryId(4, 1),
        log_entries.encode(log_entries.OPENED, Opened(RESPONSE + "x", "m1", "default", RESPONSE, again=True)),
    )
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    viewer = RecordingViewer()
    watch(hub, room, viewer, "0-0", **{RESPONSE: str(TEXT[0])})
    assert viewer.kinds() == ["watching", "message"]
    hub.load_response(room, RESPONSE, TEXT[0], [TEXT, ENDED])
    hub.load_history(room, ASKED[0], [ASKED, SETTLED, again])
    _frames, position = room.begin(str(SETTLED[0]), {})
    assert dict(position.responses) == {RESPONSE + "x": UNKNOWN}


def long_log(entries: int, size: int, *, ended: bool = False) -> list[tuple[LogId, bytes]]:
    log = [QUEUED, STARTED]
    log += [(LogId(NONCES, 3 + index), log_entries.TEXT + b"x" * size) for index in range(entries)]
    return [*log, (LogId(NONCES, 3 + entries), ENDED[1])] if ended else log


def test_viewer_far_behind_gets_a_piece_each_flush() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], long_log(10, 1000))
    room.piece_bytes = 3000
    behind, current = RecordingViewer(), RecordingViewer()
    hub.subscribe(room, behind, Position(ASKED[0], ((RESPONSE, STARTED[0]),)))
    hub.subscribe(room, current, Position(ASKED[0], ((RESPONSE, LogId(NONCES, 12)),)))
    for pieces in range(1, 5):
        assert hub.dirty == [room]
        hub.flush()
        assert len(behind.batches) == pieces
    assert hub.dirty == []
    assert [len(frame["text"]) for frame in behind.frames] == [3000, 3000, 3000, 1000]
    assert [frame["cursor"] for frame in behind.frames] == [str(LogId(NONCES, seq)) for seq in (5, 8, 11, 12)]
    assert current.batches == []
    assert len(room.groups) == 1


def test_paused_viewer_gets_the_next_piece_when_it_resumes() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], long_log(4, 1000))
    room.piece_bytes = 1000
    viewer = RecordingViewer(hub)
    hub.subscribe(room, viewer, Position(ASKED[0], ((RESPONSE, STARTED[0]),)))
    for pieces in range(1, 5):
        hub.flush()
        hub.flush()
        assert len(viewer.batches) == pieces
        hub.resume(viewer)


def test_settled_message_follows_the_last_piece() -> None:
    hub = Hub()
    log = long_log(3, 1000, ended=True)
    text = b',"text":"' + b"x" * 3000 + b'"}'
    head = log_entries.settled_head(RESPONSE, "m2", End("complete", retryable=False))
    room = room_with(hub, [OPENED, ASKED, (SETTLED[0], log_entries.SETTLED + head + text)], log)
    room.piece_bytes = 1500
    viewer = RecordingViewer()
    position = Position(ASKED[0], ((RESPONSE, STARTED[0]),))
    assert room.backlog(position) > 6000
    hub.subscribe(room, viewer, position)
    while hub.dirty:
        hub.flush()
    assert viewer.kinds() == ["delta", "delta", "delta", "end", "message"]
    assert [each.responses for each in room.positions()] == [()]
    assert room.backlog(Position(SETTLED[0])) == room.backlog(Position(None, (("r", None),))) == 0


def test_messages_and_answers_share_the_bytes_of_a_read() -> None:
    hub = Hub()
    other = keys.response_id(CONVERSATION, "b" * 16)
    asked = [
        (HistoryId(2 + n, 1), log_entries.encode(log_entries.MESSAGE, UserMessage(f"m{n}", "x" * 1000)))
        for n in range(3)
    ]
    room = room_with(hub, [OPENED, *asked], long_log(2, 1000))
    room.responses[other] = ResponseReplica(other)
    room.responses[other].extend(None, long_log(2, 1000))
    room.piece_bytes = 1000
    viewer = RecordingViewer()
    cursors = ((RESPONSE, STARTED[0]), (other, STARTED[0]))
    hub.subscribe(room, viewer, Position(HistoryId(1, 1), cursors))
    rounds = []
    while hub.dirty:
        hub.flush()
        rounds.append(viewer.kinds())
    assert rounds == [["message"], ["message"], ["message"], ["delta"], ["delta"], ["delta"], ["delta"]]
    assert {position.responses for position in room.positions()} == {
        ((RESPONSE, LogId(NONCES, 4)), (other, LogId(NONCES, 4)))
    }


def test_snapshot_has_the_first_pieces_and_deltas_follow() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], long_log(10, 1000))
    room.piece_bytes = 4000
    viewer = RecordingViewer()
    watch(hub, room, viewer)
    while hub.dirty:
        hub.flush()
    assert viewer.frames[1]["responses"][0]["cursor"] == str(LogId(NONCES, 6))
    assert [len(frame["text"]) for frame in viewer.frames[2:]] == [4000, 2000]


def test_viewer_behind_more_than_a_snapshot_gets_a_snapshot() -> None:
    hub = Hub()
    size = MAX_SNAPSHOT_BYTES // 4
    asked = [
        (HistoryId(seq, 1), log_entries.encode(log_entries.MESSAGE, UserMessage(f"m{seq}", "x" * size)))
        for seq in range(1, 7)
    ]
    room = room_with(hub, asked, [])
    _, position = room.begin("3-1", {})
    assert position.history == HistoryId(3, 1)
    frames, position = room.begin("2-1", {})
    assert (json.loads(frames[0].body)["reason"], position.history) == ("behind", HistoryId(6, 1))
    snapshot = json.loads(frames[1].body)
    assert [message["id"] for message in snapshot["messages"]] == ["m4", "m5", "m6"]
    assert (snapshot["more"], snapshot["earlier"]) == (True, "4-1")


def test_lagging_viewer_whose_messages_were_trimmed_gets_a_snapshot() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [])
    viewer = RecordingViewer()
    hub.subscribe(room, viewer, Position(OPENED[0]))
    room.history = HistoryReplica(CONVERSATION)
    room.history.extend(None, [(HistoryId(9, 1), ASKED[1])])
    hub.flush()
    assert viewer.frames[0]["reason"] == "behind"
    assert viewer.kinds() == ["watching", "snapshot"]


def test_history_published_during_its_first_read_is_read_again() -> None:
    hub = Hub()
    room = hub.open(CONVERSATION)
    hub.apply(room, [Published(None, b"1-1", b"-", [OPENED[1]])])
    history = HistoryReplica(CONVERSATION)
    history.extend(None, [OPENED, ASKED])
    room.to_load.clear()
    assert not hub.replace_history(room, HistoryReplica(CONVERSATION))
    assert (room.to_load, room.history.tail) == (set(), OPENED[0])
    assert hub.replace_history(room, history)
    assert (room.to_load, room.history.tail) == ({HISTORY, RESPONSE}, ASKED[0])


def test_publish_without_predecessor_requests_the_log() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [])
    hub.apply(room, published(TEXT, STARTED[0]))
    assert room.to_load == {RESPONSE}
    room.to_load.clear()
    hub.apply(room, published(QUEUED, "-"))
    assert room.responses[RESPONSE].tail == QUEUED[0]
    hub.apply(room, published(TEXT, STARTED[0]))
    assert room.to_load == {RESPONSE}
    hub.apply(room, [Published(RESPONSE, str(STARTED[0]).encode(), str(QUEUED[0]).encode(), [])])
    hub.apply(room, published(SETTLED, HistoryId(9, 9), None))
    assert room.to_load == {RESPONSE, HISTORY}
    assert hub.response_cursor(room, RESPONSE) == QUEUED[0]
    assert hub.response_cursor(room, "another") is None
    assert hub.history_cursor(room) == ASKED[0]
    assert hub.history_cursor(hub.open("c2")) is None


def test_only_logs_without_new_entries_are_reconciled() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    assert hub.logs_to_reconcile(room, idle=False) == [HISTORY, RESPONSE]
    hub.apply(room, published(TEXT, STARTED[0]))
    assert hub.logs_to_reconcile(room, idle=False) == [HISTORY]
    hub.apply(room, published(ENDED, TEXT[0]))
    hub.apply(room, published(SETTLED, ASKED[0], None))
    assert hub.logs_to_reconcile(room, idle=True) == []
    compared = [hub.logs_to_reconcile(room, idle=False) for _ in range(RECONCILE_AFTER_ACTIVITY + 2)]
    assert compared == [*[[HISTORY]] * RECONCILE_AFTER_ACTIVITY, [], []]
    assert hub.logs_to_reconcile(room, idle=True) == [HISTORY]
    assert hub.logs_to_reconcile(room_with(Hub(), [], []), idle=False) == []
    assert not hub.load_history(room, SETTLED[0], [SETTLED])
    assert not hub.load_response(room, RESPONSE, ENDED[0], [ENDED])


def test_lost_history_is_replaced_with_snapshot_for_viewers() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED, SETTLED], [QUEUED, STARTED, TEXT, ENDED])
    viewer = RecordingViewer()
    watch(hub, room, viewer, str(ASKED[0]), **{RESPONSE: str(TEXT[0])})
    assert viewer.kinds() == ["watching", "end", "message"]
    assert hub.load_history(room, SETTLED[0], [])
    assert hub.history_cursor(room) is None
    hub.load_history(room, None, [OPENED, (HistoryId(2, 9), ASKED[1])])
    assert hub.history_cursor(room) == HistoryId(2, 9)
    assert hub.load_response(room, RESPONSE, ENDED[0], [])
    assert RESPONSE in room.to_load
    hub.load_response(room, RESPONSE, None, [QUEUED, STARTED])
    hub.flush()
    assert [frame["type"] for frame in viewer.frames] == ["watching", "snapshot"]
    assert viewer.frames[0]["reason"] == "lost"
    assert viewer.frames[1]["responses"][0]["state"] == "running"


def test_cursor_beyond_replica_is_read_before_it_is_lost() -> None:
    """Found by tests.chaos, seed 10082: a gateway that had missed an end removed the answer from the client."""
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    assert room.missing_logs({RESPONSE: str(TEXT[0])}, str(ASKED[0])) == set()
    assert room.missing_logs({RESPONSE: "nonsense"}, "nonsense") == set()
    assert room.missing_logs({RESPONSE: str(ENDED[0])}, str(ASKED[0])) == {RESPONSE}
    assert room.missing_logs({}, str(SETTLED[0])) == {HISTORY}


def test_log_with_unpublished_first_entry_is_read() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [])
    viewer, fresh = RecordingViewer(), RecordingViewer()
    watch(hub, room, viewer)
    hub.apply(room, [Published(RESPONSE, str(QUEUED[0]).encode(), b"-", [])])
    hub.subscribe(room, fresh, Position(ASKED[0], ((RESPONSE, None),)))
    hub.flush()
    assert RESPONSE in room.to_load
    viewer.kinds()
    hub.load_response(room, RESPONSE, None, [QUEUED, STARTED, TEXT])
    hub.flush()
    # A reset, because a viewer without a cursor may show text: the empty replica must not count as all of it.
    assert viewer.kinds() == ["reset", "start"]
    assert fresh.kinds() == ["start", "delta"]


def test_memory_is_measured_and_counted_when_a_room_is_opened() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], long_log(10, 1000))
    assert hub.held == ROOM_BYTES
    hub.measure()
    assert hub.held == room.size > ROOM_BYTES + 10_000
    hub.open("c2")
    assert hub.held == room.size + ROOM_BYTES
    hub.open("c2")
    assert hub.held == room.size + ROOM_BYTES


def test_viewers_get_empty_snapshot_of_lost_history() -> None:
    """Found by tests.chaos, seed 49: they still showed messages that were lost."""
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED, SETTLED], [QUEUED, STARTED, TEXT, ENDED])
    viewer = RecordingViewer()
    watch(hub, room, viewer)
    viewer.kinds()
    assert hub.load_history(room, SETTLED[0], [])
    assert hub.load_history(room, None, [])
    hub.flush()
    assert viewer.frames[-1]["messages"] == []
    assert viewer.kinds() == ["watching", "snapshot"]


def test_viewer_of_reloaded_history_misses_no_frame() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT, ENDED])
    viewer = RecordingViewer()
    watch(hub, room, viewer)
    # The response has its end, but the settled message was lost with the former history.
    room.stale = True
    hub.load_history(room, None, [(HistoryId(1, 7), OPENED[1])])
    hub.flush()
    assert [frame["type"] for frame in viewer.frames][-4:] == ["snapshot", "reset", "start", "end"]


def test_invalidated_room_is_reloaded() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    viewer = RecordingViewer()
    watch(hub, room, viewer)
    viewer.kinds()
    hub.invalidate(room)
    assert room.to_load == {HISTORY, RESPONSE}
    # A read from the tail of the dropped replica cannot build a new replica.
    room.to_load.clear()
    assert not hub.load_response(room, RESPONSE, TEXT[0], [])
    assert room.to_load == {RESPONSE}
    hub.load_history(room, hub.history_cursor(room), [OPENED, ASKED])
    hub.load_response(room, RESPONSE, hub.response_cursor(room, RESPONSE), [QUEUED, STARTED, TEXT, ENDED])
    hub.flush()
    assert viewer.kinds() == ["end"]


def test_tally_counts_deliveries_once_per_viewer() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    for _ in range(3):
        watch(hub, room, RecordingViewer())
    assert room.viewers == 3
    hub.tally = Tally()
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert hub.tally == Tally(received=1, delivered=3, frames=3, gaps=0)
    hub.apply(room, published((LogId(NONCES, 7), TEXT[1]), LogId(NONCES, 6)))
    assert (hub.tally.received, hub.tally.gaps) == (2, 1)


def test_first_text_is_reported_once() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [])
    watch(hub, room, RecordingViewer())
    hub.apply(room, published(QUEUED, "-"))
    hub.apply(room, published(STARTED, QUEUED[0]))
    hub.flush()
    assert hub.first_text_sent == []
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert [replica.response for replica in hub.first_text_sent] == [RESPONSE]
    hub.apply(room, published(ENDED, TEXT[0]))
    hub.flush()
    assert len(hub.first_text_sent) == 1


def test_response_that_ends_without_text_is_not_reported() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [])
    hub.apply(room, published(QUEUED, "-"))
    hub.apply(room, published((LogId(NONCES, 2), ENDED[1]), QUEUED[0]))
    hub.flush()
    assert (room.awaiting_first_text, hub.first_text_sent) == (set(), [])


@pytest.mark.parametrize("name", ["zzz", "r99aaaaaaaaaaaaaaaa", keys.response_id("c3", "a" * 16), "../x"])
def test_published_log_of_no_response_of_the_conversation_is_ignored(name: str) -> None:
    hub = Hub()
    room = hub.open("c1")
    value = log_entries.encode(log_entries.QUEUED, Queued("c1", "m1", "default"))
    hub.apply(room, [Published(name, b"5-1", b"-", [value])])
    assert (room.responses, room.to_load) == ({}, set())
    own = keys.response_id("c1", "a" * 16)
    hub.apply(room, [Published(own, b"5-1", b"-", [value])])
    assert list(room.responses) == [own]
