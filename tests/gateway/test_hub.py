"""The model: whatever is lost, doubled, delayed, cut or rebuilt, every viewer shows exactly what the logs say.

Two gateways copy the logs of one store, which a failover may throw back to an earlier state. What reaches them is
published entries, each delivered, lost or doubled, and comparisons with the store. Clients join and leave either
gateway, fall behind, and are cut off between any two frames.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.hub import Hub, Position, Room
from gateway.streams import events, keys
from gateway.streams.events import (
    NONCES,
    End,
    LogId,
    Opened,
    Published,
    Queued,
    Start,
    TurnId,
    UserMessage,
    Waiting,
)
from gateway.wire import Frame
from tests.transcript import Transcript

CONVERSATION = "c1"
LETTERS = st.text('abé😀"\\\n', min_size=1, max_size=6)


@dataclass
class Logs:
    """All that the store holds: what a failover restores."""

    turns: list[tuple[TurnId, bytes]] = field(default_factory=list)
    responses: dict[str, list[tuple[LogId, bytes]]] = field(default_factory=dict)


class Client:
    """A client and its connection: frames on their way to it can be lost with the connection, from any one on."""

    def __init__(self) -> None:
        self.transcript = Transcript(CONVERSATION)
        self.gateway: Gateway | None = None
        self.in_flight: list[Frame] = []
        self.full = False

    def give(self, frames: Sequence[Frame]) -> bool:
        self.in_flight += frames
        return not self.full

    def receive(self, count: int | None = None) -> None:
        taken, self.in_flight = self.in_flight[:count], self.in_flight[count:] if count is not None else []
        for frame in taken:
            self.transcript.fold(json.loads(frame.body))


class Gateway:
    """The hub, and what the feed does with it."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.room: Room = self.hub.open(CONVERSATION)
        self.loaded = False

    def load(self, logs: Logs) -> None:
        while self.room.wanted:
            name = self.room.wanted.pop()
            self.read(logs, name)

    def read(self, logs: Logs, name: str) -> None:
        if name:
            last = self.hub.ask_response(self.room, name)
            stored = logs.responses.get(name, [])
            self.hub.load_response(self.room, name, last, [e for e in stored if last is None or e[0] >= last])
        else:
            turn = self.hub.ask_turns(self.room)
            self.hub.load_turns(self.room, turn, [e for e in logs.turns if turn is None or e[0] >= turn])

    def compare(self, logs: Logs) -> None:
        for name in self.hub.compare(self.room, idle=True):
            self.read(logs, name)
        self.load(logs)

    def enter(self, logs: Logs, named: dict[str, str]) -> None:
        if not self.loaded:
            self.loaded = True
            self.room.wanted.add("")
        self.room.wanted |= self.room.unknown(named)
        self.load(logs)


class Delivery(RuleBasedStateMachine):
    """See the head of this module."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = Logs()
        self.saved: list[Logs] = []
        self.gateways = [Gateway(), Gateway()]
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
                gateway.hub.take(gateway.room, copy.deepcopy(parts))

    def text_of(self, response: str) -> str:
        text = b""
        for _, value in self.logs.responses[response]:
            if value[:1] == events.START:
                text = b""
            elif value[:1] == events.TEXT:
                text += value[1:]
        return events.unescape(text)

    def put(self, response: str, entry: LogId, value: bytes) -> Published:
        log = self.logs.responses[response]
        previous = str(log[-1][0]) if log else "-"
        log.append((entry, value))
        self.texts[response, str(entry)] = self.text_of(response)
        return Published(response, str(entry).encode(), previous.encode(), [value])

    def happen(self, value: bytes) -> Published:
        previous = self.logs.turns[-1][0] if self.logs.turns else None
        entry = TurnId(previous.seq + 1 if previous else 1, self.fresh())
        self.logs.turns.append((entry, value))
        return Published(None, str(entry).encode(), str(previous or "-").encode(), [value])

    def open(self, *, claimed: bool | None = None) -> list[str]:
        return [
            name
            for name, log in self.logs.responses.items()
            if log[-1][1][:1] != events.END and (claimed is None or (log[-1][0].number > 0) == claimed)
        ]

    def written(self) -> list[str]:
        """The responses that a living worker writes."""
        return [r for r in self.open(claimed=True) if (r, self.logs.responses[r][-1][0].attempt) not in self.dead]

    def rewind(self, response: str, fates: list[int]) -> None:
        log = self.logs.responses[response]
        for entry, value in self.lost.pop(response, []):
            if entry.attempt == log[-1][0].attempt and entry.seq == log[-1][0].seq + 1:
                self.publish([self.put(response, entry, value)], fates)

    fates = st.lists(st.sampled_from([1, 1, 1, 0, 2]), min_size=2, max_size=2)

    @rule(text=LETTERS, fates=fates)
    def submit(self, text: str, fates: list[int]) -> None:
        assume(len(self.logs.responses) < 6)
        message, response = f"m{self.fresh()}", keys.response_id(CONVERSATION, f"{self.fresh():016d}")
        self.logs.responses[response] = []
        parts = [
            self.happen(events.encode(events.OPENED, Opened(response, message, "default"))),
            self.happen(events.encode(events.MESSAGE, UserMessage(message, text))),
            self.put(
                response,
                LogId(self.fresh(), 1),
                events.encode(events.QUEUED, Queued(CONVERSATION, message, "default")),
            ),
        ]
        self.publish(parts, fates)

    @precondition(lambda self: any(log[-1][1][:1] == events.END for log in self.logs.responses.values()))
    @rule(data=st.data(), fates=fates)
    def retry(self, data: st.DataObject, fates: list[int]) -> None:
        ended = [name for name, log in self.logs.responses.items() if log[-1][1][:1] == events.END]
        assume(len(self.logs.responses) < 6)
        former = data.draw(st.sampled_from(ended))
        response = keys.response_id(CONVERSATION, f"{self.fresh():016d}")
        queued = Queued(CONVERSATION, "m", "default", replaces=former)
        self.logs.responses[response] = []
        parts = [
            self.happen(events.encode(events.OPENED, Opened(response, "m", "default", former, again=True))),
            self.put(response, LogId(self.fresh(), 1), events.encode(events.QUEUED, queued)),
        ]
        self.publish(parts, fates)

    @precondition(lambda self: self.open())
    @rule(data=st.data(), keep=st.booleans(), fates=fates)
    def claim(self, data: st.DataObject, keep: bool, fates: list[int]) -> None:
        response = data.draw(st.sampled_from(self.open()))
        last = self.logs.responses[response][-1][0]
        kind = events.CONTINUE if keep and last.number else events.START
        entry = LogId((last.number + 1) * NONCES + self.fresh(), last.seq + 1)
        self.publish([self.put(response, entry, events.encode(kind, Start("default", "w")))], fates)

    @precondition(lambda self: self.written())
    @rule(
        data=st.data(),
        pieces=st.lists(
            st.tuples(st.sampled_from([events.TEXT, events.TEXT, events.REASONING]), LETTERS), min_size=1, max_size=4
        ),
        large=st.booleans(),
        fates=fates,
    )
    def append(self, data: st.DataObject, pieces: list[tuple[bytes, str]], large: bool, fates: list[int]) -> None:
        response = data.draw(st.sampled_from(self.written()))
        self.rewind(response, fates)
        last = self.logs.responses[response][-1][0]
        values = [kind + events.escape(text) for kind, text in pieces]
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
        value = events.encode(events.WAITING, Waiting(1.5))
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
        ended = self.put(response, LogId(attempt, last.seq + 1), events.encode(events.END, how))
        head = events.settled_head(response, keys.answer_id(response), how)
        text = b',"text":"%b"}' % events.escape(self.text_of(response))
        self.publish([ended, self.happen(events.SETTLED + head + text)], fates)

    @rule()
    def save(self) -> None:
        """A replica of the store is this far behind."""
        self.saved.append(copy.deepcopy(self.logs))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def fail_over(self, data: st.DataObject) -> None:
        """The store is what it was: acknowledged entries are lost, and their numbers will be given again."""
        before, self.logs = self.logs, copy.deepcopy(data.draw(st.sampled_from(self.saved)))
        for response, log in self.logs.responses.items():
            last = log[-1][0]
            lost = [e for e in before.responses.get(response, []) if e[0].seq > last.seq]
            own = [e for e in lost if e[0].attempt == last.attempt]
            if own == lost and not (own and own[-1][1][:1] == events.END) and response in before.responses:
                self.lost[response] = own + self.lost.get(response, [])
            else:
                self.dead.add((response, last.attempt))

    @precondition(lambda self: self.logs.responses)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """The log of an ended response is no longer kept; its text stands in the conversation."""
        ended = [name for name in self.logs.responses if name not in self.open()]
        assume(ended)
        response = data.draw(st.sampled_from(ended))
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

    @rule(gateway=st.integers(0, 1))
    def join(self, gateway: int) -> None:
        assume(len(self.clients) < 5)
        self.clients.append(Client())
        self.connect(self.clients[-1], self.gateways[gateway])

    def connect(self, client: Client, gateway: Gateway, spoiled: str | None = None) -> None:
        watch = client.transcript.watch()
        named: dict[str, str] = watch.get("responses", {})
        after = watch.get("after")
        if spoiled is not None:
            after = spoiled if after is not None else None
        gateway.enter(self.logs, named)
        frames, position = gateway.room.begin(after, named)
        client.gateway, client.full = gateway, False
        client.give(frames)
        gateway.hub.join(gateway.room, client, position)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), received=st.integers(0, 8))
    def cut(self, data: st.DataObject, received: int) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if client.gateway is None:
            return
        client.receive(received)
        client.in_flight = []
        client.gateway.hub.leave(client)
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
            client.gateway.hub.ready(client)

    @invariant()
    def shows_what_its_cursor_says(self) -> None:
        """Nothing is lost, doubled or mixed: not even on the way, not even over a failover."""
        for client in self.clients:
            for name, answer in client.transcript.open.items():
                if answer.cursor is not None:
                    assert answer.text == self.texts[name, answer.cursor]

    def teardown(self) -> None:
        """Once nothing more is lost, every client that is connected shows the logs, and has every end."""
        for client in self.clients:
            if client.gateway is None:
                self.connect(client, self.gateways[0])
        for _ in range(4):
            for gateway in self.gateways:
                if gateway.loaded:
                    gateway.hub.flush()
                    gateway.room.heard.clear()
                    gateway.compare(self.logs)
                    gateway.hub.flush()
                    gateway.load(self.logs)
            for client in self.clients:
                client.receive()
                client.full = False
                assert client.gateway is not None
                client.gateway.hub.ready(client)
        for client in self.clients:
            client.receive()
            self.check(client.transcript)

    def check(self, transcript: Transcript) -> None:
        messages: dict[str, Any] = {}
        settled = {}
        for _, value in self.logs.turns:
            entry = events.decode_turn(value)
            if isinstance(entry, UserMessage):
                messages[entry.id] = entry.text
            elif isinstance(entry, events.Settled):
                messages[entry.message] = settled[entry.response] = json.loads(bytes(entry.text))
        shown = {name: message["text"] for name, message in transcript.messages.items()}
        assert shown == messages, (shown, messages, transcript.cursor)
        for name, log in self.logs.responses.items():
            answer = transcript.answers.get(name)
            if log[-1][1][:1] == events.END:
                assert name not in transcript.open
            else:
                assert answer is not None
                if not answer.ends:
                    assert answer.text == self.text_of(name)
        for name, answer in transcript.answers.items():
            assert answer.ends or name in self.logs.responses, "a response that is no more never got its end"


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(settings.default, stateful_step_count=60, report_multiple_bugs=False)
