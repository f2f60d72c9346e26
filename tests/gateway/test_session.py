"""A session: the commands for each frame in each state, compared with a model for any sequence of frames."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import frame_codec
from gateway.auth import ANONYMOUS, EXPIRED, Denied, Identity
from gateway.rate_limits import BURST_S, BYTES_PER_UNIT, NAMES_PER_UNIT, RateLimits
from gateway.session import (
    MAX_BAD_FRAMES,
    MAX_BURST_FRAMES,
    MAX_FRAMES_PER_S,
    MAX_REJECTED_FRAMES,
    OTHER_SUBJECT,
    CloseSocket,
    Command,
    Execute,
    SendFrame,
    Session,
    State,
)
from gateway.streams import keys
from gateway.subject_connections import RETRY_S, SubjectConnections
from gateway.token_limits import TokenLimits
from gateway.wire import HELLO_WITHIN_S, Close, ErrorFrame, Older, Retry, Send, Stop, Unwatch, Watch

BEGIN: Final = 1_800_000_000.0
LIFETIME: Final = 30.0
"""Seconds for which a token of these tests is valid, from its use on."""

RESPONSE: Final = keys.response_id("c1", "0123456789abcdef")


WRONG_KEY: Final = Denied("wrong_key", "the token is signed with another key")


def denial(denied: Denied) -> list[Command]:
    """Return what a session does with a rejected token: it says what is wrong, then it closes."""
    message = denied.sentence
    frame = frame_codec.encode(ErrorFrame(code="unauthenticated", message=message, problem=denied.problem))
    return [SendFrame(frame), CloseSocket(Close.NOT_AUTHENTICATED, denied.reason)]


def check(token: str | None, now: float) -> Identity | Denied:
    """Return the identity of a token; `ann` and `bob` are valid."""
    if token in ("ann", "bob"):
        return Identity(token, now + LIFETIME, ("c1", "open-*"))
    return WRONG_KEY


NO_LIMITS: Final = RateLimits(0)
UNLIMITED: Final[Any] = {
    "limits": NO_LIMITS,
    "tokens": TokenLimits(NO_LIMITS),
    "connections": SubjectConnections(0),
}


class Client:
    """A client and its session, with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.session = Session("s1", check, ("default",), self.now, **UNLIMITED)

    def send_json(self, **fields: Any) -> list[Command]:
        return self.send(json.dumps(fields))

    def send(self, data: str | bytes) -> list[Command]:
        return self.session.receive(data, self.now, BEGIN + self.now)

    def tick(self) -> list[Command]:
        return self.session.tick(self.now, BEGIN + self.now)


@pytest.fixture
def client() -> Client:
    """A client that is authenticated as ann."""
    ready = Client()
    ready.send_json(type="hello", token="ann")
    return ready


def shown(command: Command) -> dict[str, Any]:
    assert isinstance(command, SendFrame)
    frame = json.loads(command.frame.body)
    assert isinstance(frame, dict)
    return frame


def refusal(commands: list[Command]) -> tuple[str, str | None]:
    """Return the code and the key of the one error."""
    (command,) = commands
    frame = shown(command)
    assert frame["type"] == "error"
    return frame["code"], frame.get("key")


def test_hello_with_valid_token_is_answered_ready() -> None:
    client = Client()
    (command,) = client.send_json(type="hello", token="ann")
    ready = shown(command)
    assert (ready["type"], ready["session"], ready["models"]) == ("ready", "s1", ["default"])
    assert client.session.state is State.READY
    assert client.session.identity == Identity("ann", BEGIN + LIFETIME, ("c1", "open-*"))


@pytest.mark.parametrize("token", [None, "wrong"])
def test_hello_with_invalid_token_closes(token: str | None) -> None:
    client = Client()
    assert client.send_json(type="hello", token=token) == denial(WRONG_KEY)
    assert client.session.state is State.CLOSED


def test_bad_tokens_are_verified_up_to_the_rate_of_their_address() -> None:
    verified: list[str | None] = []

    def counted(token: str | None, now: float) -> Identity | Denied:
        verified.append(token)
        return check(token, now)

    rate = 2.0
    tokens = TokenLimits(RateLimits(rate))

    def hello(token: str | None, address: str = "192.0.2.1") -> list[Command]:
        session = Session("s1", counted, None, 0.0, **{**UNLIMITED, "tokens": tokens}, address=address)
        return session.receive(json.dumps({"type": "hello", "token": token}), 0.0, BEGIN)

    assert hello("ann")[-1] != denial(WRONG_KEY)[-1]
    burst = int(rate * BURST_S)
    for _ in range(burst):
        assert hello("wrong") == denial(WRONG_KEY)
    error, closed = hello("wrong")
    assert (shown(error)["code"], shown(error)["retry_after"]) == ("too_fast", 1 / rate)
    assert isinstance(closed, CloseSocket)
    assert closed.code is Close.OVERLOADED
    assert verified == ["ann", *["wrong"] * burst]
    # A token that was valid lately, none at all, and another address are served.
    assert shown(hello("ann")[0])["type"] == "ready"
    assert hello(None) == denial(WRONG_KEY)
    assert hello("wrong", "192.0.2.2") == denial(WRONG_KEY)


def test_connections_of_a_subject_are_limited() -> None:
    connections = SubjectConnections(2)

    def hello(token: str) -> tuple[Session, list[Command]]:
        session = Session("s1", check, None, 0.0, **{**UNLIMITED, "connections": connections})
        return session, session.receive(json.dumps({"type": "hello", "token": token}), 0.0, BEGIN)

    first, _ = hello("ann")
    assert shown(hello("ann")[1][0])["type"] == "ready"
    refused, (error, closed) = hello("ann")
    assert (shown(error)["code"], shown(error)["retry_after"]) == ("too_many", RETRY_S)
    assert isinstance(closed, CloseSocket)
    assert (closed.code, refused.state) == (Close.OVERLOADED, State.CLOSED)
    assert shown(hello("bob")[1][0])["type"] == "ready"
    # One that was refused does not count, and one that ended counts once.
    for _ in range(2):
        refused.ended()
        first.ended()
    assert shown(hello("ann")[1][0])["type"] == "ready"
    assert shown(hello("ann")[1][0])["code"] == "too_many"


@pytest.mark.parametrize("text", ['{"type":"watch","conversation":"c1"}', '{"type":"token","token":"ann"}', "{}", "hi"])
def test_frame_before_hello_closes(text: str) -> None:
    assert Client().send(text) == [CloseSocket(Close.NOT_THE_PROTOCOL, "the first frame must be hello")]


def test_missing_hello_closes_after_deadline() -> None:
    client = Client()
    client.now = HELLO_WITHIN_S
    assert client.tick() == []
    client.now = HELLO_WITHIN_S + 0.1
    assert client.tick() == [CloseSocket(Close.NO_HELLO, "no hello within five seconds")]
    assert client.tick() == []


def test_due_is_hello_deadline_then_token_expiry() -> None:
    client = Client()
    assert client.session.due(client.now, BEGIN) == HELLO_WITHIN_S
    client.now = 3.0
    client.send_json(type="hello", token="ann")
    assert client.session.due(client.now, BEGIN + client.now) == client.now + LIFETIME
    client.session.identity = None
    assert client.session.due(client.now, BEGIN + client.now) == math.inf


def test_second_hello_is_a_bad_frame(client: Client) -> None:
    assert refusal(client.send_json(type="hello", token="ann")) == ("bad_frame", None)


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ('{"type":"watch","conversation":"c1"}', Watch("c1")),
        ('{"type":"watch","conversation":"open-1","after":"?"}', Watch("open-1", "?")),
        (
            json.dumps({"type": "watch", "conversation": "c1", "responses": {RESPONSE: "1-1"}}),
            Watch("c1", None, {RESPONSE: "1-1"}),
        ),
        ('{"type":"older","conversation":"open-1","before":"9-1"}', Older("open-1", "9-1")),
        ('{"type":"unwatch","conversation":"never watched"}', Unwatch("never watched")),
        ('{"type":"send","key":"k","conversation":"c1","text":"Why?"}', Send("k", "c1", "Why?")),
        (json.dumps({"type": "stop", "response": RESPONSE}), Stop(RESPONSE)),
        (json.dumps({"type": "retry", "response": RESPONSE, "key": "k"}), Retry(RESPONSE, "k")),
    ],
)
def test_authorized_request_is_executed(client: Client, text: str, request_: Any) -> None:
    assert client.send(text) == [Execute(request_)]


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ('{"type":"watch","conversation":"c2"}', ("forbidden", None)),
        ('{"type":"watch","conversation":"open"}', ("forbidden", None)),
        ('{"type":"send","key":"k","conversation":"c2","text":"Why?"}', ("forbidden", "k")),
        ('{"type":"older","conversation":"c2","before":"9-1"}', ("forbidden", None)),
        ('{"type":"older","conversation":"c1","before":"9"}', ("bad_frame", None)),
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
def test_rejected_request_keeps_socket_open(client: Client, text: str, refused: tuple[str, str | None]) -> None:
    assert refusal(client.send(text)) == refused
    assert client.send_json(type="watch", conversation="c1") == [Execute(Watch("c1"))]


def test_error_names_key_of_rejected_request(client: Client) -> None:
    """A client that sent two requests can match the error to one of them."""
    assert refusal(client.send_json(type="send", key="k1", conversation="c2", text="Why?"))[1] == "k1"
    assert refusal(client.send_json(type="retry", key="k2", response="r1"))[1] == "k2"


def test_binary_frame_closes(client: Client) -> None:
    assert client.send(b'{"type":"watch","conversation":"c1"}') == [
        CloseSocket(Close.NOT_THE_PROTOCOL, "frames must be text")
    ]


def test_too_many_bad_frames_close(client: Client) -> None:
    for _ in range(MAX_BAD_FRAMES):
        assert refusal(client.send("?")) == ("bad_frame", None)
    (command,) = client.send("?")
    assert isinstance(command, CloseSocket)
    assert command.code is Close.NOT_THE_PROTOCOL


def test_expired_token_closes(client: Client) -> None:
    client.now = LIFETIME - 0.1
    assert client.tick() == []
    client.now = LIFETIME
    assert client.tick() == denial(EXPIRED)


def test_new_token_extends_the_session(client: Client) -> None:
    client.now = LIFETIME - 1
    assert client.send_json(type="token", token="ann") == []
    client.now = LIFETIME + 1
    assert client.tick() == []
    client.now = 2 * LIFETIME
    assert client.tick() == denial(EXPIRED)


@pytest.mark.parametrize(("token", "denied"), [("bob", OTHER_SUBJECT), ("wrong", WRONG_KEY)])
def test_new_token_of_other_subject_closes(client: Client, token: str, denied: Denied) -> None:
    assert client.send_json(type="token", token=token) == denial(denied)
    assert client.session.identity is not None
    assert client.session.identity.subject == "ann"


def test_new_token_changes_open_conversations() -> None:
    opened = ["c1"]
    session = Session("s1", lambda _, now: Identity("ann", now + 60, tuple(opened)), None, 0.0, **UNLIMITED)
    session.receive('{"type":"hello"}', 0.0, BEGIN)
    assert refusal(session.receive('{"type":"watch","conversation":"c2"}', 0.0, BEGIN)) == ("forbidden", None)
    opened[:] = ["c2"]
    session.receive('{"type":"token","token":"new"}', 0.0, BEGIN)
    assert session.receive('{"type":"watch","conversation":"c2"}', 0.0, BEGIN) == [Execute(Watch("c2"))]
    assert refusal(session.receive('{"type":"watch","conversation":"c1"}', 0.0, BEGIN)) == ("forbidden", None)


def test_anonymous_identity_never_expires() -> None:
    session = Session("s1", lambda *_: ANONYMOUS, None, 0.0, **UNLIMITED)
    session.receive('{"type":"hello"}', 0.0, BEGIN)
    assert session.tick(1e9, BEGIN + 1e9) == []
    assert session.receive('{"type":"watch","conversation":"c1"}', 1e9, BEGIN + 1e9) == [Execute(Watch("c1"))]


def watch(client: Client, times: int) -> list[str]:
    """Return the outcomes of so many frames at one moment."""
    outcomes = []
    for _ in range(times):
        (command,) = client.send_json(type="watch", conversation="c1")
        outcomes.append("executed" if isinstance(command, Execute) else shown(command)["code"])
    return outcomes


def test_rate_limit_rejects_frames_beyond_burst(client: Client) -> None:
    assert watch(client, int(MAX_BURST_FRAMES)) == ["executed"] * (int(MAX_BURST_FRAMES) - 1) + ["too_fast"]
    (command,) = client.send_json(type="watch", conversation="c1")
    assert shown(command)["retry_after"] == 1.0


def test_rate_limit_refills_over_time(client: Client) -> None:
    watch(client, int(MAX_BURST_FRAMES))
    client.now += 1.0
    assert watch(client, int(MAX_FRAMES_PER_S) + 1) == ["executed"] * int(MAX_FRAMES_PER_S) + ["too_fast"]
    client.now += 3600.0
    assert watch(client, int(MAX_BURST_FRAMES) + 1) == ["executed"] * int(MAX_BURST_FRAMES) + ["too_fast"]


def test_client_within_rate_limit_is_never_rejected(client: Client) -> None:
    for _ in range(1000):
        client.now += 1 / MAX_FRAMES_PER_S
        assert watch(client, 1) == ["executed"]


def test_client_beyond_rate_limit_is_closed(client: Client) -> None:
    watch(client, int(MAX_BURST_FRAMES) - 1)
    assert watch(client, MAX_REJECTED_FRAMES) == ["too_fast"] * MAX_REJECTED_FRAMES
    assert client.send_json(type="watch", conversation="c1") == [CloseSocket(Close.TOO_FAST, "too many frames")]


def test_executed_frame_resets_rejection_count(client: Client) -> None:
    watch(client, int(MAX_BURST_FRAMES) - 1 + MAX_REJECTED_FRAMES)
    client.now += 1 / MAX_FRAMES_PER_S
    assert watch(client, 1 + MAX_REJECTED_FRAMES) == ["executed"] + ["too_fast"] * MAX_REJECTED_FRAMES


def test_closed_session_returns_no_commands(client: Client) -> None:
    client.send(b"")
    assert client.send_json(type="watch", conversation="c1") == []
    assert client.send_json(type="hello", token="ann") == []
    assert client.send(b"") == []
    client.now = 2 * LIFETIME
    assert client.tick() == []


def subject_client(limits: RateLimits, token: str = "ann", address: str = "192.0.2.1") -> Client:
    """Return a client that is authenticated, with limits that it may share with others."""
    client = Client()
    client.session = Session("s1", check, ("default",), 0.0, **{**UNLIMITED, "limits": limits}, address=address)
    client.send_json(type="hello", token=token)
    return client


def test_sockets_of_one_subject_share_its_rate_limit() -> None:
    limits = RateLimits(2)
    burst = int(2 * BURST_S)
    first, second, other = subject_client(limits), subject_client(limits), subject_client(limits, "bob")
    assert watch(first, burst - 1) == ["executed"] * (burst - 1)
    assert watch(second, 2) == ["executed", "too_fast"]
    assert watch(other, 1) == ["executed"]
    (command,) = first.send_json(type="watch", conversation="c1")
    assert (shown(command)["conversation"], shown(command)["retry_after"]) == ("c1", 0.5)
    first.now = 0.5
    assert watch(first, 2) == ["executed", "too_fast"]


def test_unwatch_is_executed_beyond_the_rate_limit() -> None:
    limits = RateLimits(1)
    client = subject_client(limits)
    limits.spend(client.session.subject, 0.0, 60.0)
    assert refusal(client.send_json(type="stop", response=RESPONSE))[0] == "too_fast"
    assert client.send_json(type="unwatch", conversation="c1") == [Execute(Unwatch("c1"))]
    assert client.send_json(type="token", token="ann") == []


def test_request_that_waited_is_refused_after_the_token_was_narrowed() -> None:
    client = subject_client(RateLimits(0))
    (waiting,) = client.send_json(type="send", conversation="c1", key="k", text="x")
    assert isinstance(waiting, Execute)
    assert client.session.forbids(waiting.request) is None
    client.session.identity = Identity("ann", 1e9, ("other",))
    frame = client.session.forbids(waiting.request)
    assert frame is not None
    assert json.loads(frame.body)["code"] == "forbidden"
    (unwatch,) = client.send_json(type="unwatch", conversation="c1")
    assert isinstance(unwatch, Execute)
    assert client.session.forbids(unwatch.request) is None


def test_token_frames_of_a_subject_have_a_rate_limit_of_their_own() -> None:
    limits = RateLimits(2)
    burst = int(2 * BURST_S)
    first, second, other = subject_client(limits), subject_client(limits), subject_client(limits, "bob")
    for client in (first, second):
        for _ in range(burst // 2):
            assert client.send_json(type="token", token="ann") == []
    assert refusal(second.send_json(type="token", token="ann"))[0] == "too_fast"
    assert other.send_json(type="token", token="bob") == []
    assert watch(first, 1) == ["executed"]
    second.now = 1.0
    assert second.send_json(type="token", token="ann") == []


def test_bytes_and_names_of_a_watch_cost_units() -> None:
    client = subject_client(RateLimits(1))
    client.session.charge(2 * BYTES_PER_UNIT, 0.0)
    assert watch(client, 2) == ["executed", "too_fast"]
    client = subject_client(RateLimits(1))
    names = {keys.response_id("c1", f"{n:016d}"): "1-1" for n in range(NAMES_PER_UNIT)}
    assert client.send_json(type="watch", conversation="c1", responses=names) == [Execute(Watch("c1", None, names))]
    assert watch(client, 2) == ["executed", "too_fast"]


# The model: each kind of frame, and its outcome once a client is ready.
KINDS: Final[dict[str, tuple[str | bytes, str]]] = {
    "hello": ('{"type":"hello","token":"ann"}', "bad"),
    "hello, wrong": ('{"type":"hello","token":"wrong"}', "bad"),
    "token": ('{"type":"token","token":"ann"}', "refresh"),
    "token, bob's": ('{"type":"token","token":"bob"}', "4401"),
    "token, wrong": ('{"type":"token","token":"wrong"}', "4401"),
    "watch": ('{"type":"watch","conversation":"open-1"}', "execute Watch"),
    "watch, forbidden": ('{"type":"watch","conversation":"c2"}', "error forbidden"),
    "watch, bad name": ('{"type":"watch","conversation":"c 1"}', "bad"),
    "watch, bad response": ('{"type":"watch","conversation":"c1","responses":{"x":""}}', "bad"),
    "send": ('{"type":"send","key":"k","conversation":"c1","text":"x"}', "execute Send"),
    "send, forbidden": ('{"type":"send","key":"k","conversation":"c2","text":"x"}', "error forbidden"),
    "older": ('{"type":"older","conversation":"c1","before":"9-1"}', "execute Older"),
    "unwatch": ('{"type":"unwatch","conversation":"c1"}', "execute Unwatch"),
    "stop": (json.dumps({"type": "stop", "response": RESPONSE}), "execute Stop"),
    "stop, unknown": ('{"type":"stop","response":"r1"}', "error not_found"),
    "retry": (json.dumps({"type": "retry", "response": RESPONSE, "key": "k"}), "execute Retry"),
    "retry, unknown": ('{"type":"retry","response":"r1","key":"k"}', "error not_found"),
    "garbage": ("{", "bad"),
    "bytes": (b"{}", "4400"),
}


@dataclass
class Model:
    """The rules of the protocol for one client."""

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
    """Return the one command in the notation of the model; a close may follow a frame that gives its reason."""
    assert len(commands) <= 1 or isinstance(commands[1], CloseSocket)
    for command in commands[-1:]:
        match command:
            case Execute(request):
                return f"execute {type(request).__name__}"
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
def test_any_sequence_of_frames_matches_the_model(authenticated: bool, steps: list[tuple[float, str, int]]) -> None:
    client, model = Client(), Model()
    if authenticated:
        assert outcome(client.send_json(type="hello", token="ann")) == model.receive("hello", 0.0) == "ready"
    for pause, kind, times in steps:
        client.now += pause
        for _ in range(times):
            if kind == "tick":
                assert outcome(client.tick()) == model.tick(client.now)
            else:
                assert outcome(client.send(KINDS[kind][0])) == model.receive(kind, client.now)
            assert client.session.state.value == model.state


@given(st.lists(st.text(st.characters(exclude_categories=())) | st.binary(), max_size=30))
def test_no_frame_raises(frames: list[str | bytes]) -> None:
    for authenticated in (True, False):
        client = Client()
        if authenticated:
            client.send_json(type="hello", token="ann")
        for data in frames:
            assert all(isinstance(command, (SendFrame, CloseSocket, Execute)) for command in client.send(data))
