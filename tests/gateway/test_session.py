"""A session: what each frame leads to in each state, and that no sequence of frames leads anywhere else."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import ANONYMOUS, Denied, Identity
from gateway.session import (
    MAX_BAD_FRAMES,
    MAX_BURST_FRAMES,
    MAX_FRAMES_PER_S,
    MAX_REJECTED_FRAMES,
    CloseSocket,
    Command,
    Execute,
    SendFrame,
    Session,
    State,
)
from gateway.streams import keys
from gateway.wire import HELLO_WITHIN_S, Close, Retry, Send, Stop, Unwatch, Watch

BEGIN: Final = 1_800_000_000.0
LIFETIME: Final = 30.0
"""Seconds that a token of these tests is good for from when it is shown."""

RESPONSE: Final = keys.response_id("c1", "0123456789abcdef")


def check(token: str | None, now: float) -> Identity | Denied:
    """Who a token of these tests is: `ann` and `bob` are known."""
    if token in ("ann", "bob"):
        return Identity(token, now + LIFETIME, ("c1", "open-*"))
    return Denied("the token is not valid")


class Client:
    """A client and its session, on a clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.session = Session("s1", check, ("default",), self.now)

    def say(self, **fields: Any) -> list[Command]:
        return self.send(json.dumps(fields))

    def send(self, data: str | bytes) -> list[Command]:
        return self.session.receive(data, self.now, BEGIN + self.now)

    def tick(self) -> list[Command]:
        return self.session.tick(self.now, BEGIN + self.now)


@pytest.fixture
def client() -> Client:
    """A client that has been let in as ann."""
    ready = Client()
    ready.say(type="hello", token="ann")
    return ready


def shown(command: Command) -> dict[str, Any]:
    assert isinstance(command, SendFrame)
    frame = json.loads(command.frame.body)
    assert isinstance(frame, dict)
    return frame


def refusal(commands: list[Command]) -> tuple[str, str | None]:
    """The code and the key of the one error that was said."""
    (command,) = commands
    frame = shown(command)
    assert frame["type"] == "error"
    return frame["code"], frame.get("key")


def test_hello_makes_a_client_ready() -> None:
    client = Client()
    (command,) = client.say(type="hello", token="ann")
    ready = shown(command)
    assert (ready["type"], ready["session"], ready["models"]) == ("ready", "s1", ["default"])
    assert client.session.state is State.READY
    assert client.session.identity == Identity("ann", BEGIN + LIFETIME, ("c1", "open-*"))


@pytest.mark.parametrize("token", [None, "wrong"])
def test_hello_without_a_good_token_is_the_end(token: str | None) -> None:
    client = Client()
    assert client.say(type="hello", token=token) == [CloseSocket(Close.NOT_AUTHENTICATED, "the token is not valid")]
    assert client.session.state is State.CLOSED


@pytest.mark.parametrize("text", ['{"type":"watch","conversation":"c1"}', '{"type":"token","token":"ann"}', "{}", "hi"])
def test_nothing_comes_before_hello(text: str) -> None:
    assert Client().send(text) == [CloseSocket(Close.NOT_THE_PROTOCOL, "the first frame must be hello")]


def test_a_client_that_does_not_say_hello_is_let_go_of() -> None:
    client = Client()
    client.now = HELLO_WITHIN_S
    assert client.tick() == []
    client.now = HELLO_WITHIN_S + 0.1
    assert client.tick() == [CloseSocket(Close.NO_HELLO, "no hello within five seconds")]
    assert client.tick() == []


def test_a_session_says_when_time_changes_something() -> None:
    client = Client()
    assert client.session.due(client.now, BEGIN) == HELLO_WITHIN_S
    client.now = 3.0
    client.say(type="hello", token="ann")
    assert client.session.due(client.now, BEGIN + client.now) == client.now + LIFETIME
    client.session.identity = None
    assert client.session.due(client.now, BEGIN + client.now) == math.inf


def test_hello_comes_once(client: Client) -> None:
    assert refusal(client.say(type="hello", token="ann")) == ("bad_frame", None)


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ('{"type":"watch","conversation":"c1"}', Watch("c1")),
        ('{"type":"watch","conversation":"open-1","after":"?"}', Watch("open-1", "?")),
        (
            json.dumps({"type": "watch", "conversation": "c1", "responses": {RESPONSE: "1-1"}}),
            Watch("c1", None, {RESPONSE: "1-1"}),
        ),
        ('{"type":"unwatch","conversation":"never watched"}', Unwatch("never watched")),
        ('{"type":"send","key":"k","conversation":"c1","text":"Why?"}', Send("k", "c1", "Why?")),
        (json.dumps({"type": "stop", "response": RESPONSE}), Stop(RESPONSE)),
        (json.dumps({"type": "retry", "response": RESPONSE, "key": "k"}), Retry(RESPONSE, "k")),
    ],
)
def test_what_a_client_may_ask_is_carried_out(client: Client, text: str, request_: Any) -> None:
    assert client.send(text) == [Execute(request_)]


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ('{"type":"watch","conversation":"c2"}', ("forbidden", None)),
        ('{"type":"watch","conversation":"open"}', ("forbidden", None)),
        ('{"type":"send","key":"k","conversation":"c2","text":"Why?"}', ("forbidden", "k")),
        ('{"type":"watch","conversation":"c 1"}', ("bad_frame", None)),
        ('{"type":"watch","conversation":"open-{x}"}', ("bad_frame", None)),
        ('{"type":"watch","conversation":"c1","responses":{"r1":"1-1"}}', ("bad_frame", None)),
        ('{"type":"send","key":"k","conversation":"open-\u00e9","text":"Why?"}', ("bad_frame", None)),
        ('{"type":"stop","response":"r1"}', ("not_found", None)),
        ('{"type":"retry","response":"r1","key":"k"}', ("not_found", "k")),
        ('{"type":"bye"}', ("bad_frame", None)),
        ("not JSON", ("bad_frame", None)),
        ("\ud800", ("bad_frame", None)),
    ],
)
def test_what_it_may_not_is_refused_and_the_socket_stays(
    client: Client, text: str, refused: tuple[str, str | None]
) -> None:
    assert refusal(client.send(text)) == refused
    assert client.say(type="watch", conversation="c1") == [Execute(Watch("c1"))]


def test_a_refusal_names_the_key_of_what_was_refused(client: Client) -> None:
    """A client that sent two matches the refusal to the one that was refused."""
    assert refusal(client.say(type="send", key="k1", conversation="c2", text="Why?"))[1] == "k1"
    assert refusal(client.say(type="retry", key="k2", response="r1"))[1] == "k2"


def test_frames_are_text(client: Client) -> None:
    assert client.send(b'{"type":"watch","conversation":"c1"}') == [
        CloseSocket(Close.NOT_THE_PROTOCOL, "frames must be text")
    ]


def test_a_client_that_does_not_speak_the_protocol_is_let_go_of(client: Client) -> None:
    for _ in range(MAX_BAD_FRAMES):
        assert refusal(client.send("?")) == ("bad_frame", None)
    (command,) = client.send("?")
    assert isinstance(command, CloseSocket)
    assert command.code is Close.NOT_THE_PROTOCOL


def test_a_token_lasts_until_it_expires(client: Client) -> None:
    client.now = LIFETIME - 0.1
    assert client.tick() == []
    client.now = LIFETIME
    assert client.tick() == [CloseSocket(Close.NOT_AUTHENTICATED, "the token has expired")]


def test_a_fresh_token_lets_a_client_stay(client: Client) -> None:
    client.now = LIFETIME - 1
    assert client.say(type="token", token="ann") == []
    client.now = LIFETIME + 1
    assert client.tick() == []
    client.now = 2 * LIFETIME
    assert client.tick() == [CloseSocket(Close.NOT_AUTHENTICATED, "the token has expired")]


@pytest.mark.parametrize(
    ("token", "reason"), [("bob", "the token has another subject"), ("wrong", "the token is not valid")]
)
def test_a_fresh_token_that_is_not_ones_own_is_the_end(client: Client, token: str, reason: str) -> None:
    assert client.say(type="token", token=token) == [CloseSocket(Close.NOT_AUTHENTICATED, reason)]
    assert client.session.identity is not None
    assert client.session.identity.subject == "ann"


def test_a_fresh_token_may_open_other_conversations() -> None:
    opened = ["c1"]
    session = Session("s1", lambda _, now: Identity("ann", now + 60, tuple(opened)), None, 0.0)
    session.receive('{"type":"hello"}', 0.0, BEGIN)
    assert refusal(session.receive('{"type":"watch","conversation":"c2"}', 0.0, BEGIN)) == ("forbidden", None)
    opened[:] = ["c2"]
    session.receive('{"type":"token","token":"new"}', 0.0, BEGIN)
    assert session.receive('{"type":"watch","conversation":"c2"}', 0.0, BEGIN) == [Execute(Watch("c2"))]
    assert refusal(session.receive('{"type":"watch","conversation":"c1"}', 0.0, BEGIN)) == ("forbidden", None)


def test_where_everybody_is_let_in_nobody_expires() -> None:
    session = Session("s1", lambda *_: ANONYMOUS, None, 0.0)
    session.receive('{"type":"hello"}', 0.0, BEGIN)
    assert session.tick(1e9, BEGIN + 1e9) == []
    assert session.receive('{"type":"watch","conversation":"c1"}', 1e9, BEGIN + 1e9) == [Execute(Watch("c1"))]


def watch(client: Client, times: int) -> list[str]:
    """What so many frames at one moment lead to."""
    outcomes = []
    for _ in range(times):
        (command,) = client.say(type="watch", conversation="c1")
        outcomes.append("carried" if isinstance(command, Execute) else shown(command)["code"])
    return outcomes


def test_a_burst_is_carried_out_and_what_is_beyond_it_is_refused(client: Client) -> None:
    assert watch(client, int(MAX_BURST_FRAMES)) == ["carried"] * (int(MAX_BURST_FRAMES) - 1) + ["too_fast"]
    (command,) = client.say(type="watch", conversation="c1")
    assert shown(command)["retry_after"] == 1.0


def test_who_waits_may_go_on(client: Client) -> None:
    watch(client, int(MAX_BURST_FRAMES))
    client.now += 1.0
    assert watch(client, int(MAX_FRAMES_PER_S) + 1) == ["carried"] * int(MAX_FRAMES_PER_S) + ["too_fast"]
    client.now += 3600.0
    assert watch(client, int(MAX_BURST_FRAMES) + 1) == ["carried"] * int(MAX_BURST_FRAMES) + ["too_fast"]


def test_who_keeps_to_the_rate_is_never_refused(client: Client) -> None:
    for _ in range(1000):
        client.now += 1 / MAX_FRAMES_PER_S
        assert watch(client, 1) == ["carried"]


def test_who_goes_on_all_the_same_is_let_go_of(client: Client) -> None:
    watch(client, int(MAX_BURST_FRAMES) - 1)
    assert watch(client, MAX_REJECTED_FRAMES) == ["too_fast"] * MAX_REJECTED_FRAMES
    assert client.say(type="watch", conversation="c1") == [CloseSocket(Close.TOO_FAST, "too many frames")]


def test_a_frame_that_is_carried_out_forgives_those_that_were_refused(client: Client) -> None:
    watch(client, int(MAX_BURST_FRAMES) - 1 + MAX_REJECTED_FRAMES)
    client.now += 1 / MAX_FRAMES_PER_S
    assert watch(client, 1 + MAX_REJECTED_FRAMES) == ["carried"] + ["too_fast"] * MAX_REJECTED_FRAMES


def test_nothing_follows_the_end(client: Client) -> None:
    client.send(b"")
    assert client.say(type="watch", conversation="c1") == []
    assert client.say(type="hello", token="ann") == []
    assert client.send(b"") == []
    client.now = 2 * LIFETIME
    assert client.tick() == []


# The model: the same rules, told another way. Each kind of frame has what it leads to once a client is ready.
KINDS: Final[dict[str, tuple[str | bytes, str]]] = {
    "hello": ('{"type":"hello","token":"ann"}', "bad"),
    "hello, wrong": ('{"type":"hello","token":"wrong"}', "bad"),
    "token": ('{"type":"token","token":"ann"}', "refresh"),
    "token, bob's": ('{"type":"token","token":"bob"}', "4401"),
    "token, wrong": ('{"type":"token","token":"wrong"}', "4401"),
    "watch": ('{"type":"watch","conversation":"open-1"}', "carry Watch"),
    "watch, forbidden": ('{"type":"watch","conversation":"c2"}', "error forbidden"),
    "watch, bad name": ('{"type":"watch","conversation":"c 1"}', "bad"),
    "watch, bad response": ('{"type":"watch","conversation":"c1","responses":{"x":""}}', "bad"),
    "send": ('{"type":"send","key":"k","conversation":"c1","text":"x"}', "carry Send"),
    "send, forbidden": ('{"type":"send","key":"k","conversation":"c2","text":"x"}', "error forbidden"),
    "unwatch": ('{"type":"unwatch","conversation":"c1"}', "carry Unwatch"),
    "stop": (json.dumps({"type": "stop", "response": RESPONSE}), "carry Stop"),
    "stop, unknown": ('{"type":"stop","response":"r1"}', "error not_found"),
    "retry": (json.dumps({"type": "retry", "response": RESPONSE, "key": "k"}), "carry Retry"),
    "retry, unknown": ('{"type":"retry","response":"r1","key":"k"}', "error not_found"),
    "garbage": ("{", "bad"),
    "bytes": (b"{}", "4400"),
}


@dataclass
class Model:
    """What the protocol says of a client."""

    state: str = "new"
    expires: float = 0.0
    tokens: float = MAX_BURST_FRAMES
    refused: int = 0
    bad: int = 0
    at: float = 0.0

    def tick(self, now: float) -> str:
        if self.state == "new" and now > HELLO_WITHIN_S:
            return self.close("4408")
        if self.state == "ready" and now >= self.expires:
            return self.close("4401")
        return "nothing"

    def receive(self, kind: str, now: float) -> str:
        _, leads_to = KINDS[kind]
        if self.state == "closed":
            return "nothing"
        if leads_to == "4400":
            return self.close("4400")
        self.tokens = min(MAX_BURST_FRAMES, self.tokens + (now - self.at) * MAX_FRAMES_PER_S)
        self.at = now
        if self.tokens < 1:
            self.refused += 1
            return self.close("4429") if self.refused > MAX_REJECTED_FRAMES else "error too_fast"
        self.tokens -= 1
        self.refused = 0
        if self.state == "new":
            if kind == "hello":
                self.state, self.expires = "ready", now + LIFETIME
                return "ready"
            return self.close("4401" if kind == "hello, wrong" else "4400")
        if leads_to == "bad":
            self.bad += 1
            return self.close("4400") if self.bad > MAX_BAD_FRAMES else "error bad_frame"
        if leads_to == "refresh":
            self.expires = now + LIFETIME
            return "nothing"
        return self.close(leads_to) if leads_to == "4401" else leads_to

    def close(self, code: str) -> str:
        self.state = "closed"
        return code


def outcome(commands: list[Command]) -> str:
    """The one command, in the model's words."""
    assert len(commands) <= 1
    for command in commands:
        match command:
            case Execute(request):
                return f"carry {type(request).__name__}"
            case CloseSocket(code):
                return str(int(code))
            case SendFrame(frame):
                return f"error {shown(command)['code']}" if frame.type == "error" else frame.type
    return "nothing"


STEPS = st.tuples(
    # Quarters of a second, so that the rate's arithmetic is exact on both sides.
    st.sampled_from([0.0, 0.0, 0.0, 0.25, 1.0, 6.0, 29.75]),
    st.sampled_from([*KINDS, "tick"]),
    st.sampled_from([1, 1, 1, 1, 8, 59, 60, 101]),
)


@given(st.booleans(), st.lists(STEPS, max_size=20))
def test_any_sequence_of_frames_leads_where_the_model_says(let_in: bool, steps: list[tuple[float, str, int]]) -> None:
    client, model = Client(), Model()
    if let_in:
        assert outcome(client.say(type="hello", token="ann")) == model.receive("hello", 0.0) == "ready"
    for pause, kind, times in steps:
        client.now += pause
        for _ in range(times):
            if kind == "tick":
                assert outcome(client.tick()) == model.tick(client.now)
            else:
                assert outcome(client.send(KINDS[kind][0])) == model.receive(kind, client.now)
            assert client.session.state.value == model.state


@given(st.lists(st.text(st.characters(exclude_categories=())) | st.binary(), max_size=30))
def test_no_frame_makes_a_session_fall(frames: list[str | bytes]) -> None:
    for let_in in (True, False):
        client = Client()
        if let_in:
            client.say(type="hello", token="ann")
        for data in frames:
            assert all(isinstance(command, (SendFrame, CloseSocket, Execute)) for command in client.send(data))
