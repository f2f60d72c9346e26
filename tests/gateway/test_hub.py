"""The model: whatever is lost, doubled, delayed, cut or rebuilt, every viewer shows exactly what the logs say.

Two gateways copy the logs of one store, which a failover may throw back to an earlier state. What reaches them is
published entries, each delivered, lost or doubled, and comparisons with the store. Clients join and leave either
gateway, fall behind, and are cut off between any two frames.
"""

from __future__ import annotations

import copy
import json
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
from gateway.history_replica import RECONCILE_AFTER_ACTIVITY
from gateway.hub import Hub, Tally
from gateway.replica import UNKNOWN
from gateway.response_replica import ResponseReplica
from gateway.room import HISTORY, Log, Position, Room, Write
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
    """All that the store holds: what a failover restores."""

    history: list[tuple[HistoryId, bytes]] = field(default_factory=list)
    responses: dict[str, list[tuple[LogId, bytes]]] = field(default_factory=dict)


def bodies(packet: bytes) -> list[bytes]:
    """The payloads of WebSocket frames (RFC 6455, section 5.2)."""
    found = []
    while packet:
        size = packet[1]
        head = 2 + {126: 2, 127: 8}.get(size, 0)
        size = int.from_bytes(packet[2:head]) if head > 2 else size
        found.append(packet[head : head + size])
        packet = packet[head + size :]
    return found


class Client:
    """A client and its connection: frames on their way to it can be lost with the connection, from any one on."""

    def __init__(self, *, direct: bool) -> None:
        self.transcript = Transcript(CONVERSATION)
        self.gateway: Gateway | None = None
        self.in_flight: list[bytes] = []
        self.full = False
        self.direct_write = self.write if direct else None

    def write(self, packet: bytes) -> None:
        self.in_flight += bodies(packet)
        if self.full and self.gateway is not None:
            self.gateway.hub.pause(self)

    def send(self, batch: FrameBatch) -> None:
        self.write(batch.encoded)

    def receive(self, count: int | None = None) -> None:
        taken, self.in_flight = self.in_flight[:count], self.in_flight[count:] if count is not None else []
        for body in taken:
            self.transcript.fold(json.loads(body))


class Gateway:
    """The hub, and what the feed does with it."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.room: Room = self.hub.open(CONVERSATION)
        self.loaded = False

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
    """See the head of this module."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = Logs()
        self.saved: list[Logs] = []
        self.gateways: list[Gateway] = [Gateway(), Gateway()]
        self.clients: list[Client] = []
        self.nonce = 1
        self.lost: dict[str, list[tuple[LogId, bytes]]] = {}
        """What a worker wrote that a failover took back: it writes the same again before anything else."""
        self.dead: set[tuple[str, int]] = set()
        """Attempts whose worker writes no more."""
        self.texts: dict[tuple[str, str], str] = {}
        """What is to be shown of a response at each cursor that any of its logs ever had."""

    def fresh(self) -> int:
        self.nonce += 1
        return self.nonce

    def publish(self, parts: list[Published], fates: list[int]) -> None:
        for gateway, fate in zip(self.gateways, fates, strict=True):
            for _ in range(fate):
                gateway.hub.apply(gateway.room, copy.deepcopy(parts))

    def text_of(self, response: str) -> str:
        text = b""
        for _, value in self.logs.responses[response]:
            if value[:1] == log_entries.START:
                text = b""
            elif value[:1] == log_entries.TEXT:
                text += value[1:]
        return log_entries.unescape(text)

    def put(self, response: str, entry: LogId, value: bytes) -> Published:
        log = self.logs.responses[response]
        previous = str(log[-1][0]) if log else "-"
        log.append((entry, value))
        self.texts[response, str(entry)] = self.text_of(response)
        return Published(response, str(entry).encode(), previous.encode(), [value])

    def happen(self, value: bytes) -> Published:
        previous = self.logs.history[-1][0] if self.logs.history else None
        entry = HistoryId(previous.seq + 1 if previous else 1, self.fresh())
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
        """The responses that a living worker writes."""
        return [r for r in self.open(claimed=True) if (r, self.logs.responses[r][-1][0].attempt) not in self.dead]

    def rewind(self, response: str, fates: list[int]) -> None:
        log = self.logs.responses[response]
        for entry, value in self.lost.pop(response, []):
            if entry.attempt == log[-1][0].attempt and entry.seq == log[-1][0].seq + 1:
                self.publish([self.put(response, entry, value)], fates)

    def begin(self, response: str, kind: bytes, fates: list[int]) -> None:
        last = self.logs.responses[response][-1][0]
        entry = LogId((last.number + 1) * NONCES + self.fresh(), last.seq + 1)
        self.publish([self.put(response, entry, log_entries.encode(kind, Start("default", "w")))], fates)

    fates = st.lists(st.sampled_from([1, 1, 1, 0, 2]), min_size=2, max_size=2)

    @precondition(lambda self: len(self.logs.responses) < 6)
    @rule(text=LETTERS, fates=fates)
    def submit(self, text: str, fates: list[int]) -> None:
        message, response = f"m{self.fresh()}", keys.response_id(CONVERSATION, f"{self.fresh():016d}")
        self.logs.responses[response] = []
        parts = [
            self.happen(log_entries.encode(log_entries.OPENED, Opened(response, message, "default"))),
            self.happen(log_entries.encode(log_entries.MESSAGE, UserMessage(message, text))),
            self.put(
                response,
                LogId(self.fresh(), 1),
                log_entries.encode(log_entries.QUEUED, Queued(CONVERSATION, message, "default")),
            ),
        ]
        self.publish(parts, fates)

    @precondition(lambda self: self.ended() and len(self.logs.responses) < 6)
    @rule(data=st.data(), fates=fates)
    def retry(self, data: st.DataObject, fates: list[int]) -> None:
        former = data.draw(st.sampled_from(self.ended()))
        response = keys.response_id(CONVERSATION, f"{self.fresh():016d}")
        queued = Queued(CONVERSATION, "m", "default", replaces=former)
        self.logs.responses[response] = []
        parts = [
            self.happen(log_entries.encode(log_entries.OPENED, Opened(response, "m", "default", former, again=True))),
            self.put(response, LogId(self.fresh(), 1), log_entries.encode(log_entries.QUEUED, queued)),
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
        attempt = (last.number + 1) * NONCES + self.fresh() if stopped or not last.number else last.attempt
        how = End("stopped" if stopped else "complete", retryable=stopped)
        ended = self.put(response, LogId(attempt, last.seq + 1), log_entries.encode(log_entries.END, how))
        head = log_entries.settled_head(response, keys.answer_id(response), how)
        text = b',"text":"%b"}' % log_entries.escape(self.text_of(response))
        self.publish([ended, self.happen(log_entries.SETTLED + head + text)], fates)

    @rule()
    def save(self) -> None:
        """A replica of the store is this far behind."""
        self.saved.append(copy.deepcopy(self.logs))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def fail_over(self, data: st.DataObject) -> None:
        """The store is what it was: acknowledged entries are lost, and their numbers will be given again."""
        chosen = data.draw(st.integers(0, len(self.saved) - 1))
        # What was saved after that is of a history that is no more.
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
        """The log of an ended response is no longer kept; its text stands in the conversation."""
        response = data.draw(st.sampled_from(self.ended()))
        del self.logs.responses[response]
        # A failover does not reach back over a day.
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
        """A gateway dies with all its connections, and a new one takes its place."""
        for client in self.clients:
            if client.gateway is self.gateways[gateway]:
                client.in_flight, client.gateway, client.full = [], None, False
        self.gateways[gateway] = Gateway()

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
        client.gateway, client.full = gateway, False
        client.send(FrameBatch(frames))
        gateway.hub.subscribe(gateway.room, client, position)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), received=st.integers(0, 8))
    def cut(self, data: st.DataObject, received: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if client.gateway is None:
            return
        client.receive(received)
        client.in_flight = []
        client.gateway.hub.unsubscribe(client)
        client.gateway = None

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), gateway=st.integers(0, 1), spoiled=st.sampled_from([None, None, None, "9-9", "$", "-1"]))
    def come_back(self, data: st.DataObject, gateway: int, spoiled: str | None) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if client.gateway is None:
            self.connect(client, self.gateways[gateway], spoiled)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def fall_behind(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.full = True

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), received=st.integers(0, 8))
    def read(self, data: st.DataObject, received: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.receive(received)
        if client.full and not client.in_flight and client.gateway is not None:
            client.full = False
            client.gateway.hub.resume(client)

    @invariant()
    def shows_what_its_cursor_says(self) -> None:
        """Nothing is lost, doubled or mixed: not even on the way, not even over a failover."""
        for client in self.clients:
            for name, answer in client.transcript.open.items():
                # A log that is gone has no cursors; its text stands in the conversation.
                if answer.cursor is not None and answer.resets[-1:] != ["gone"]:
                    assert answer.text == self.texts[name, answer.cursor]

    def teardown(self) -> None:
        """Once nothing more is lost, every client that is connected shows the logs, and has every end."""
        for client in self.clients:
            if client.gateway is None:
                self.connect(client, self.gateways[0])
        for response in self.open():
            # Somebody has each job in the end: who wrote it, and writes again what was lost, or another one.
            if response in self.written():
                self.rewind(response, [1, 0])
            else:
                self.begin(response, log_entries.START, [1, 0])
        for _ in range(4):
            for gateway in self.gateways:
                if gateway.loaded:
                    gateway.hub.flush()
                    gateway.hub.logs_to_reconcile(gateway.room, idle=True)
                    gateway.compare(self.logs)
                    gateway.hub.flush()
                    gateway.load(self.logs)
            for client in self.clients:
                client.receive()
                client.full = False
                assert client.gateway is not None
                client.gateway.hub.resume(client)
                client.gateway.hub.flush()
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
            assert answer.ends or name in self.logs.responses, "a response that is no more never got its end"


# It takes a minute of a processor that it has for itself.
TestDelivery = pytest.mark.timeout(400)(Delivery.TestCase)
TestDelivery.settings = settings(
    settings.default,
    # This is the promise: it gets more than its share.
    max_examples=5 * settings().max_examples,
    stateful_step_count=60,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


class Deaf(Gateway):
    """A gateway that believes what is published."""

    def compare(self, logs: Logs) -> None:
        pass


class Forgetful(Delivery):
    """As the model, but nothing is ever compared with the store."""

    def __init__(self) -> None:
        super().__init__()
        self.gateways = [Deaf(), Deaf()]


def test_the_model_finds_what_is_lost_without_comparisons() -> None:
    few = settings(max_examples=300, database=None, report_multiple_bugs=False, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Forgetful, settings=few)


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


class Screen:
    """A viewer that is full whenever it was given something, if `pause_at` says where."""

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


def watch(hub: Hub, room: Room, screen: Screen, after: str | None = None, **named: str) -> None:
    frames, position = room.begin(after, named)
    screen.send(FrameBatch(frames))
    hub.subscribe(room, screen, position)
    hub.flush()


def test_viewers_at_one_position_are_given_the_same_bytes() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    screens = [Screen() for _ in range(3)]
    for screen in screens:
        watch(hub, room, screen)
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    given = [screen.batches[-1] for screen in screens]
    assert given[0] is given[1] is given[2]
    assert [frame.type for frame in given[0]] == ["delta"]


def test_who_takes_packets_is_given_those_and_may_be_pause_at_once() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    screen, direct = Screen(), Screen()
    packets: list[bytes] = []

    def write(packet: bytes) -> None:
        packets.append(packet)
        hub.pause(direct)

    direct.direct_write = write
    for each in (direct, screen):
        hub.subscribe(room, each, Position(ASKED[0], ((RESPONSE, STARTED[0]),)))
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert packets == [screen.batches[0].encoded]
    assert room.lagging == {direct: room.groups[0].position}
    assert direct.batches == []


def test_while_the_store_is_away_answers_wait_and_then_do_what_they_did() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    other = keys.response_id(CONVERSATION, "b" * 16)
    room.responses[other] = over = ResponseReplica(other)
    over.extend(None, [QUEUED, STARTED, TEXT, ENDED])
    screen, full = Screen(), Screen()
    cursors = ((RESPONSE, STARTED[0]), (other, ENDED[0]))
    for each in (screen, full):
        hub.subscribe(room, each, Position(ASKED[0], cursors))
    hub.pause(full)
    idle = Screen()
    hub.subscribe(room, idle, Position(ASKED[0]))
    hub.notify_store_status([room], unavailable=True)
    assert [frame["state"] for frame in screen.frames] == ["waiting"]
    late = Screen()
    watch(hub, room, late)
    assert [shown["state"] for shown in late.frames[1]["responses"]] == ["waiting"]
    hub.notify_store_status([room], unavailable=False)
    assert [frame["state"] for frame in screen.frames] == ["waiting", "running"]
    assert full.frames == idle.frames == []
    hub.resume(full)
    assert [frame["state"] for frame in full.frames] == ["running"]


def test_who_takes_one_thing_after_the_other_is_told_of_the_store_before_anything_else() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    slow = Screen(hub)
    hub.subscribe(room, slow, Position(ASKED[0], ((RESPONSE, STARTED[0]),)))
    hub.notify_store_status([room], unavailable=True)
    hub.notify_store_status([room], unavailable=False)
    hub.apply(room, published(TEXT, STARTED[0]))
    given = []
    for _ in range(3):
        hub.flush()
        given += [(frame["type"], frame.get("state")) for frame in slow.frames]
        slow.frames.clear()
        hub.resume(slow)
    assert given == [("status", "waiting"), ("status", "running"), ("delta", None)]


def test_one_that_is_full_joins_behind() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    full = Screen()
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


def test_one_that_falls_behind_is_given_the_rest_in_one_piece_in_every_room() -> None:
    hub = Hub()
    room, other = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED]), hub.open("c2")
    slow = Screen()
    watch(hub, room, slow)
    watch(hub, other, slow)
    assert slow.kinds() == ["watching", "snapshot"] * 2
    slow.pause_at = hub
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert slow.kinds() == ["delta"]
    hub.apply(room, published(ENDED, TEXT[0]))
    hub.apply(other, [Published(None, b"1-5", b"-", [ASKED[1]])])
    hub.flush()
    assert slow.kinds() == []
    hub.resume(slow)
    hub.flush()
    assert len(slow.kinds()) == 1
    slow.pause_at = None
    hub.resume(slow)
    hub.flush()
    assert len(slow.kinds()) == 1
    hub.resume(Screen())


def test_a_viewer_leaves_while_it_is_behind() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    slow = Screen(hub)
    watch(hub, room, slow)
    assert slow.kinds() == ["watching", "snapshot"]
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert slow.kinds() == []
    hub.resume(slow)
    hub.flush()
    assert slow.kinds() == ["delta"]
    hub.unsubscribe(slow)
    assert not room.watched
    hub.apply(room, published(ENDED, TEXT[0]))
    hub.flush()
    assert slow.kinds() == []


class Rude(Screen):
    """A viewer whose taking makes another leave, as a socket does that is found closed."""

    def __init__(self, hub: Hub, other: Screen) -> None:
        super().__init__()
        self._hub = hub
        self._other = other

    def send(self, batch: FrameBatch) -> None:
        self._hub.unsubscribe(self._other)
        self._hub.unsubscribe(self)
        super().send(batch)


def test_viewers_leave_while_others_are_given_something() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    other, witness = Screen(), Screen()
    rude = Rude(hub, other)
    for screen, cursor in ((rude, STARTED[0]), (other, QUEUED[0]), (witness, STARTED[0])):
        hub.subscribe(room, screen, Position(ASKED[0], ((RESPONSE, cursor),)))
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert [len(each.batches) for each in (rude, other, witness)] == [1, 0, 1]
    hub.unsubscribe(witness)
    hub.subscribe(room, rude, Position(ASKED[0], ((RESPONSE, QUEUED[0]),)))
    hub.flush()
    assert not room.watched


def test_what_contradicts_a_copy_is_read_anew() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    hub.apply(room, published((LogId(2 * NONCES, 3), log_entries.TEXT + b"Bye"), LogId(2 * NONCES, 2)))
    assert room.to_load == {RESPONSE, HISTORY}
    assert RESPONSE not in room.responses


def test_a_viewer_leaves_one_room_or_all() -> None:
    hub = Hub()
    room, other = hub.open(CONVERSATION), hub.open("c2")
    screen = Screen()
    watch(hub, room, screen)
    watch(hub, other, screen)
    hub.unsubscribe(screen, room)
    assert [room.watched, other.watched] == [False, True]
    hub.unsubscribe(screen)
    hub.unsubscribe(screen)
    assert [room.watched, other.watched] == [False, False]
    hub.close(room)
    assert hub.open(CONVERSATION) is not room


def test_the_settled_copy_waits_for_the_end() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    screen = Screen()
    watch(hub, room, screen)
    screen.kinds()
    hub.apply(room, published(SETTLED, ASKED[0], None))
    hub.flush()
    assert screen.kinds() == []
    assert room.to_load == {RESPONSE}
    hub.load_response(room, RESPONSE, TEXT[0], [TEXT, ENDED])
    hub.flush()
    assert screen.kinds() == ["end", "message"]
    assert [position.responses for position in room.positions()] == [()]
    late = Screen()
    watch(hub, room, late, str(ASKED[0]))
    assert late.kinds() == ["watching", "message"]
    assert hub.open(CONVERSATION) is room
    room.drop_ended_logs()
    assert not room.responses


def test_an_answer_that_a_failover_took_back_and_that_was_ended_otherwise_is_shown_as_it_was_settled() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT, ENDED])
    screen = Screen()
    watch(hub, room, screen)
    screen.kinds()
    stopped = (
        log_entries.SETTLED + log_entries.settled_head(RESPONSE, "m2", End("stopped", retryable=True)) + b',"text":""}'
    )
    hub.apply(room, published((SETTLED[0], stopped), ASKED[0], None))
    hub.flush()
    reset, end, message = screen.frames
    assert (reset["type"], reset["text"], end["reason"]) == ("reset", "", "stopped")
    assert message["message"]["text"] == ""
    assert RESPONSE not in room.responses


def test_a_response_whose_log_is_gone_ends_with_its_settled_text() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED, SETTLED], [])
    assert room.missing_logs({RESPONSE: "1-1"}) == {RESPONSE}
    hub.load_response(room, RESPONSE, None, [])
    assert room.missing_logs({RESPONSE: "1-1"}) == set()
    screen = Screen()
    watch(hub, room, screen, str(SETTLED[0]), **{RESPONSE: str(TEXT[0])})
    assert [frame["type"] for frame in screen.frames] == ["watching", "reset", "end"]
    assert screen.frames[1]["text"] == "Hello"
    assert screen.frames[2]["chars"] == 5
    room.drop_ended_logs()
    assert not room.expired


def test_a_response_of_which_nothing_is_left_ends_as_failed() -> None:
    hub = Hub()
    room = room_with(hub, [], [])
    hub.load_response(room, RESPONSE, None, [])
    screen = Screen()
    watch(hub, room, screen, None, **{RESPONSE: str(TEXT[0])})
    assert screen.frames[-1]["type"] == "end"
    assert screen.frames[-1]["error"]["code"] == "gone"
    assert "chars" not in screen.frames[-1]


def test_an_open_response_that_lost_its_log_ends_with_what_the_workers_make_of_it() -> None:
    """Found by tests.chaos, seed 2041: it ended at once, with a text that was then settled as another."""
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    screen = Screen()
    watch(hub, room, screen)
    hub.load_response(room, RESPONSE, TEXT[0], [])
    hub.load_response(room, RESPONSE, None, [])
    screen.frames.clear()
    hub.flush()
    assert screen.kinds() == []
    hub.apply(room, published(SETTLED, ASKED[0], None))
    hub.flush()
    assert screen.kinds() == ["reset", "end", "message"]


def test_the_log_of_another_conversation_is_not_shown() -> None:
    hub = Hub()
    room = hub.open("c2")
    assert hub.load_response(room, RESPONSE, None, [QUEUED, STARTED, TEXT])
    assert room.expired == {RESPONSE}


def test_one_response_can_be_followed_by_itself() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    screen = Screen()
    hub.subscribe(room, screen, Position(None, ((RESPONSE, None),)))
    hub.flush()
    assert screen.kinds() == ["start", "delta"]
    hub.apply(room, published(ENDED, TEXT[0]) + published(SETTLED, ASKED[0], None))
    hub.flush()
    assert screen.kinds() == ["end"]
    assert room.size > len("Hello")
    other = Screen()
    hub.subscribe(room, other, Position(None, (("r0" + "0" * 17, None),)))
    hub.flush()
    assert room.to_load == {"r0" + "0" * 17}


def test_a_client_that_comes_back_is_told_what_its_answer_is_doing() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED])
    screen = Screen()
    watch(hub, room, screen, str(ASKED[0]), **{RESPONSE: str(QUEUED[0])})
    assert screen.kinds() == ["watching", "status"]
    room.drop_ended_logs()
    assert room.responses
    # One that does not name it begins with a reset: it may show it with an end that the store took back.
    watch(hub, room, screen, str(ASKED[0]))
    assert screen.kinds() == ["watching", "reset", "status"]
    hub.load_response(room, RESPONSE, QUEUED[0], [QUEUED, STARTED, TEXT, ENDED])
    watch(hub, room, screen, str(ASKED[0]), **{RESPONSE: str(ENDED[0])})
    assert screen.kinds() == ["watching", "reset", "start", "end"]


def test_what_the_client_has_of_a_response_counts_more_than_its_opening() -> None:
    hub = Hub()
    again = (
        HistoryId(4, 1),
        log_entries.encode(log_entries.OPENED, Opened(RESPONSE + "x", "m1", "default", RESPONSE, again=True)),
    )
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    screen = Screen()
    watch(hub, room, screen, "0-0", **{RESPONSE: str(TEXT[0])})
    assert screen.kinds() == ["watching", "message"]
    hub.load_response(room, RESPONSE, TEXT[0], [TEXT, ENDED])
    hub.load_history(room, ASKED[0], [ASKED, SETTLED, again])
    _frames, position = room.begin(str(SETTLED[0]), {})
    assert dict(position.responses) == {RESPONSE + "x": UNKNOWN}


def test_what_follows_on_nothing_here_is_read() -> None:
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


def test_quiet_logs_are_compared_and_busy_ones_are_not() -> None:
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


def test_a_history_that_was_lost_is_replaced_and_every_viewer_begins_anew() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED, SETTLED], [QUEUED, STARTED, TEXT, ENDED])
    screen = Screen()
    watch(hub, room, screen, str(ASKED[0]), **{RESPONSE: str(TEXT[0])})
    assert screen.kinds() == ["watching", "end", "message"]
    assert hub.load_history(room, SETTLED[0], [])
    assert hub.history_cursor(room) is None
    hub.load_history(room, None, [OPENED, (HistoryId(2, 9), ASKED[1])])
    assert hub.history_cursor(room) == HistoryId(2, 9)
    assert hub.load_response(room, RESPONSE, ENDED[0], [])
    assert RESPONSE in room.to_load
    hub.load_response(room, RESPONSE, None, [QUEUED, STARTED])
    hub.flush()
    assert [frame["type"] for frame in screen.frames] == ["watching", "snapshot"]
    assert screen.frames[0]["reason"] == "lost"
    assert screen.frames[1]["responses"][0]["state"] == "running"


def test_what_another_gateway_has_given_is_read_before_it_is_called_lost() -> None:
    """Found by tests.chaos, seed 10082: a gateway that had missed an answer's end took it back from the screen."""
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    assert room.missing_logs({RESPONSE: str(TEXT[0])}, str(ASKED[0])) == set()
    assert room.missing_logs({RESPONSE: "nonsense"}, "nonsense") == set()
    assert room.missing_logs({RESPONSE: str(ENDED[0])}, str(ASKED[0])) == {RESPONSE}
    assert room.missing_logs({}, str(SETTLED[0])) == {HISTORY}


def test_a_log_whose_first_entry_was_too_large_to_be_published_is_read() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [])
    screen = Screen()
    watch(hub, room, screen)
    hub.apply(room, [Published(RESPONSE, str(QUEUED[0]).encode(), b"-", [])])
    hub.flush()
    assert RESPONSE in room.to_load
    screen.kinds()
    hub.load_response(room, RESPONSE, None, [QUEUED, STARTED, TEXT])
    hub.flush()
    assert screen.kinds() == ["start", "delta"]


def test_viewers_are_told_of_a_history_that_was_lost_whole() -> None:
    """Found by tests.chaos, seed 49: they went on to show messages that were no more."""
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED, SETTLED], [QUEUED, STARTED, TEXT, ENDED])
    screen = Screen()
    watch(hub, room, screen)
    screen.kinds()
    assert hub.load_history(room, SETTLED[0], [])
    assert hub.load_history(room, None, [])
    hub.flush()
    assert screen.frames[-1]["messages"] == []
    assert screen.kinds() == ["watching", "snapshot"]


def test_a_viewer_whose_response_is_being_read_again_misses_nothing_of_it() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT, ENDED])
    screen = Screen()
    watch(hub, room, screen)
    # The answer has its end, its settled copy was lost with the history that is here now.
    room.stale = True
    hub.load_history(room, None, [(HistoryId(1, 7), OPENED[1])])
    hub.flush()
    assert [frame["type"] for frame in screen.frames][-4:] == ["snapshot", "reset", "start", "end"]


def test_a_room_that_is_not_trusted_any_more_is_read_anew() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED, TEXT])
    screen = Screen()
    watch(hub, room, screen)
    screen.kinds()
    hub.invalidate(room)
    assert room.to_load == {HISTORY, RESPONSE}
    # What was asked for from the old copy's tail on says nothing about a log of which there is no copy.
    room.to_load.clear()
    assert not hub.load_response(room, RESPONSE, TEXT[0], [])
    assert room.to_load == {RESPONSE}
    hub.load_history(room, hub.history_cursor(room), [OPENED, ASKED])
    hub.load_response(room, RESPONSE, hub.response_cursor(room, RESPONSE), [QUEUED, STARTED, TEXT, ENDED])
    hub.flush()
    assert screen.kinds() == ["end"]


def test_what_is_given_is_counted_once_a_viewer() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [QUEUED, STARTED])
    for _ in range(3):
        watch(hub, room, Screen())
    assert room.viewers == 3
    hub.tally = Tally()
    hub.apply(room, published(TEXT, STARTED[0]))
    hub.flush()
    assert hub.tally == Tally(received=1, delivered=3, frames=3, gaps=0)
    hub.apply(room, published((LogId(NONCES, 7), TEXT[1]), LogId(NONCES, 6)))
    assert (hub.tally.received, hub.tally.gaps) == (2, 1)


def test_the_first_text_of_a_response_that_was_heard_from_its_beginning_is_noticed_once() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [])
    watch(hub, room, Screen())
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


def test_one_that_ends_without_text_is_waited_for_no_longer() -> None:
    hub = Hub()
    room = room_with(hub, [OPENED, ASKED], [])
    hub.apply(room, published(QUEUED, "-"))
    hub.apply(room, published((LogId(NONCES, 2), ENDED[1]), QUEUED[0]))
    hub.flush()
    assert (room.awaiting_first_text, hub.first_text_sent) == (set(), [])
