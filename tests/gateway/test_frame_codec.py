"""Frames: every client frame is decoded, everything else is refused, every server frame is encoded as declared."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import frame_codec, wire
from gateway.frame_codec import BadFrame, Frame
from gateway.streams import log_entries
from gateway.streams.log_entries import HistoryId
from gateway.wire import (
    ClientFrame,
    Close,
    Hello,
    Message,
    Older,
    OpenResponse,
    Retry,
    Send,
    Stop,
    Token,
    Unwatch,
    Watch,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))
IDS = st.text(min_size=1, max_size=128)
CURSORS = st.text(max_size=128)
KEYS = st.from_regex(r"[!-~]{1,128}", fullmatch=True)
ALIASES = st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True)
CLIENT_FRAMES: st.SearchStrategy[Any] = st.one_of(
    st.builds(Hello, st.none() | st.text(), st.none() | st.text(max_size=200)),
    st.builds(Watch, IDS, st.none() | CURSORS, st.dictionaries(st.text(), CURSORS, max_size=64)),
    st.builds(Older, IDS, CURSORS),
    st.builds(Unwatch, IDS),
    st.builds(
        Send,
        KEYS,
        IDS,
        st.text(min_size=1),
        ALIASES,
        st.none() | st.text(),
        st.none() | st.integers(1, 1_000_000),
        st.none() | IDS,
        st.sampled_from(["queue", "reject", "interrupt"]),
    ),
    st.builds(Stop, IDS, st.sampled_from(["stopped", "guarded"])),
    st.builds(Retry, IDS, KEYS, st.sampled_from(["restart", "continue"])),
    st.builds(Token, st.text()),
)


SERVER_FRAMES = {member.__struct_config__.tag for member in get_args(wire.ServerFrame)}


def fields(frame: Frame) -> dict[str, Any]:
    """Return the fields that a client decodes."""
    read = json.loads(frame.body)
    assert isinstance(read, dict)
    return read


@given(CLIENT_FRAMES)
def test_every_client_frame_is_decoded_as_encoded(frame: ClientFrame) -> None:
    assert frame_codec.decode(msgspec.json.encode(frame)) == frame
    assert frame_codec.decode(msgspec.json.encode(frame).decode()) == frame


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"type":"hello"}', Hello()),
        ('{"type":"hello","token":"t","client":"page 1"}', Hello("t", "page 1")),
        ('{"type":"watch","conversation":"c1"}', Watch("c1")),
        (
            '{"type":"watch","conversation":"c1","after":"5-1","responses":{"r":"1-7"}}',
            Watch("c1", "5-1", {"r": "1-7"}),
        ),
        ('{"type":"older","conversation":"c1","before":"9-1"}', Older("c1", "9-1")),
        ('{"type":"unwatch","conversation":"c1"}', Unwatch("c1")),
        ('{"type":"send","key":"k","conversation":"c1","text":"Why?"}', Send("k", "c1", "Why?")),
        ('{"type":"stop","response":"r"}', Stop("r", "stopped")),
        ('{"type":"retry","response":"r","key":"k"}', Retry("r", "k", "restart")),
        ('{"type":"token","token":"t"}', Token("t")),
        # Unknown fields are ignored, and `type` may have any place.
        ('{"later":[{}],"response":"r","type":"stop"}', Stop("r")),
    ],
)
def test_an_omitted_field_has_its_default(text: str, frame: ClientFrame) -> None:
    assert frame_codec.decode(text) == frame


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"hello"',
        '{"type":"hello"',
        '{"type":"hello"}{}',
        '{"type":"bye"}',
        '{"type":null}',
        '{"type":"hello","token":5}',
        '{"type":"hello","client":"%s"}' % ("x" * 201),
        '{"type":"watch"}',
        '{"type":"watch","conversation":""}',
        '{"type":"watch","conversation":"%s"}' % ("x" * 129),
        '{"type":"watch","conversation":"c","after":"%s"}' % ("1" * 129),
        '{"type":"watch","conversation":"c","responses":["r"]}',
        json.dumps({"type": "watch", "conversation": "c", "responses": {f"r{n}": "1-1" for n in range(65)}}),
        '{"type":"older","conversation":"c"}',
        '{"type":"older","conversation":"c","before":"%s"}' % ("1" * 129),
        '{"type":"send","conversation":"c","text":"x"}',
        '{"type":"send","key":"k","conversation":"c","text":""}',
        '{"type":"send","key":"k","conversation":"c","text":"%s"}' % ("x" * (wire.MAX_TEXT + 1)),
        '{"type":"send","key":"a b","conversation":"c","text":"x"}',
        '{"type":"send","key":"\u00e9","conversation":"c","text":"x"}',
        '{"type":"send","key":"k\\n","conversation":"c","text":"x"}',
        '{"type":"send","key":"k","conversation":"c","text":"x","model":"a b"}',
        '{"type":"send","key":"k","conversation":"c","text":"x","model":"m\\n"}',
        '{"type":"send","key":"k","conversation":"c","text":"x","max_tokens":0}',
        '{"type":"send","key":"k","conversation":"c","text":"x","max_tokens":1e99}',
        '{"type":"send","key":"k","conversation":"c","text":"x","if_busy":"wait"}',
        '{"type":"send","key":"k","conversation":"c","text":"\\ud800"}',
        '{"type":"stop","response":"r","reason":"bored"}',
        '{"type":"retry","response":"r","key":"k","mode":"again"}',
        '{"type":"token"}',
        "[" * 100_000,
        '{"type":"hello","x":' + "[" * 100_000,
    ],
)
def test_a_frame_outside_the_protocol_is_refused(text: str) -> None:
    refused = frame_codec.decode(text)
    assert isinstance(refused, BadFrame)
    assert 0 < len(refused.reason) <= 200


@given(st.binary() | ANY_TEXT)
@example(b"\xff")
@example(b'{"type":"hello","token":"\xff"}')
@example(b'{"type":"\xff"}')
@example('{"type":"hello","token":"\ud800"}')
@example(b'{"x":' * 5000)
def test_any_input_is_decoded_or_refused_with_a_reason(data: str | bytes) -> None:
    frame = frame_codec.decode(data)
    if isinstance(frame, BadFrame):
        assert fields(frame_codec.error("bad_frame", frame.reason))["message"] == frame.reason


@given(ANY_TEXT)
def test_an_unknown_type_is_refused_with_a_sendable_reason(name: str) -> None:
    frame = frame_codec.decode(json.dumps({"type": name}))
    assert isinstance(frame, (BadFrame, Hello))
    if isinstance(frame, BadFrame):
        assert fields(frame_codec.error("bad_frame", frame.reason))["code"] == "bad_frame"


MESSAGE = Message(
    id="m6", role="assistant", text=frame_codec.raw(rb"a\nb"), response="r9", replies_to="m5", reason="complete"
)
OPEN = OpenResponse(
    response="r9",
    cursor="1-7",
    state="running",
    model="default",
    attempt=1,
    text=frame_codec.raw(b"Because"),
    replies_to="m5",
)

ENCODED = [
    (
        frame_codec.ready("s1", ("default", "fast")),
        {
            "type": "ready",
            "session": "s1",
            "heartbeat": wire.HEARTBEAT_S,
            "limits": {"frame": 65_536, "text": 32_000, "conversations": 32},
            "models": ["default", "fast"],
        },
        (None, None),
    ),
    (
        frame_codec.encode(wire.Watching(conversation="c1", cursor="5-1", resumed=True)),
        {"type": "watching", "conversation": "c1", "cursor": "5-1", "resumed": True},
        (None, "5-1"),
    ),
    (
        frame_codec.encode(wire.Watching(conversation="c1", cursor="5-1", resumed=False, reason="lost")),
        {"type": "watching", "conversation": "c1", "cursor": "5-1", "resumed": False, "reason": "lost"},
        (None, None),
    ),
    (
        frame_codec.encode(
            wire.Snapshot(conversation="c1", cursor="5-1", messages=[MESSAGE], responses=[OPEN], more=True)
        ),
        {
            "type": "snapshot",
            "conversation": "c1",
            "cursor": "5-1",
            "messages": [
                {
                    "id": "m6",
                    "role": "assistant",
                    "text": "a\nb",
                    "response": "r9",
                    "replies_to": "m5",
                    "reason": "complete",
                }
            ],
            "responses": [
                {
                    "response": "r9",
                    "cursor": "1-7",
                    "state": "running",
                    "model": "default",
                    "attempt": 1,
                    "text": "Because",
                    "replies_to": "m5",
                }
            ],
            "more": True,
        },
        (None, "5-1"),
    ),
    (
        frame_codec.encode(wire.Snapshot(conversation="c1", cursor="0-0", messages=[], responses=[], more=False)),
        {"type": "snapshot", "conversation": "c1", "cursor": "0-0", "messages": [], "responses": []},
        (None, "0-0"),
    ),
    (
        frame_codec.encode(
            wire.MessageFrame(
                conversation="c1", cursor="5-1", message=Message(id="m5", role="user", text=frame_codec.raw(b"Why?"))
            )
        ),
        {
            "type": "message",
            "conversation": "c1",
            "cursor": "5-1",
            "message": {"id": "m5", "role": "user", "text": "Why?"},
        },
        (None, "5-1"),
    ),
    (
        frame_codec.encode(
            wire.Start(conversation="c1", response="r9", cursor="1-2", model="default", attempt=1, replies_to="m5")
        ),
        {
            "type": "start",
            "conversation": "c1",
            "response": "r9",
            "cursor": "1-2",
            "model": "default",
            "attempt": 1,
            "replies_to": "m5",
        },
        ("r9", "1-2"),
    ),
    (
        frame_codec.delta("r9", "1-3", rb"Be\"", b""),
        {"type": "delta", "response": "r9", "cursor": "1-3", "text": 'Be"'},
        ("r9", "1-3"),
    ),
    (
        frame_codec.delta("r9", "1-3", b"", b"Hm"),
        {"type": "delta", "response": "r9", "cursor": "1-3", "text": "", "reasoning": "Hm"},
        ("r9", "1-3"),
    ),
    (
        frame_codec.encode(wire.Reset(response="r9", cursor="2-9", text=frame_codec.raw(rb"\\"), reason="attempt")),
        {"type": "reset", "response": "r9", "cursor": "2-9", "text": "\\", "reason": "attempt"},
        ("r9", "2-9"),
    ),
    (
        frame_codec.encode(
            wire.Reset(
                response="r9",
                cursor="2-9",
                text=frame_codec.raw(b""),
                reasoning=frame_codec.raw(b"Hm"),
                reason="lost",
            )
        ),
        {"type": "reset", "response": "r9", "cursor": "2-9", "text": "", "reasoning": "Hm", "reason": "lost"},
        ("r9", "2-9"),
    ),
    (
        frame_codec.encode(wire.Status(response="r9", state="waiting", retry_in=1.5)),
        {"type": "status", "response": "r9", "state": "waiting", "retry_in": 1.5},
        (None, None),
    ),
    (
        frame_codec.encode(
            wire.Status(response="r9", state="recovering", conversation="c1", replies_to="m5", cursor="2-9")
        ),
        {
            "type": "status",
            "response": "r9",
            "state": "recovering",
            "cursor": "2-9",
            "conversation": "c1",
            "replies_to": "m5",
        },
        ("r9", "2-9"),
    ),
    (
        frame_codec.encode(
            wire.End(
                conversation="c1",
                response="r9",
                cursor="1-9",
                reason="complete",
                chars=312,
                usage={"output_tokens": 7},
            )
        ),
        {
            "type": "end",
            "conversation": "c1",
            "response": "r9",
            "cursor": "1-9",
            "reason": "complete",
            "chars": 312,
            "usage": {"output_tokens": 7},
        },
        ("r9", "1-9"),
    ),
    (
        frame_codec.encode(
            wire.End(
                conversation="c1",
                response="r9",
                cursor="1-9",
                reason="failed",
                error=log_entries.Problem("gone", "Gone."),
                retryable=False,
            )
        ),
        {
            "type": "end",
            "conversation": "c1",
            "response": "r9",
            "cursor": "1-9",
            "reason": "failed",
            "error": {"code": "gone", "message": "Gone."},
            "retryable": False,
        },
        ("r9", "1-9"),
    ),
    (
        frame_codec.encode(wire.Accepted(key="k1", message="m5", response="r9", duplicate=False)),
        {"type": "accepted", "key": "k1", "message": "m5", "response": "r9", "duplicate": False},
        (None, None),
    ),
    (
        frame_codec.error("too_fast", "Too many frames at once.", key="k1", retry_after=1.0),
        {"type": "error", "code": "too_fast", "message": "Too many frames at once.", "key": "k1", "retry_after": 1.0},
        (None, None),
    ),
    (
        frame_codec.unauthenticated("expired", "The token has expired."),
        {"type": "error", "code": "unauthenticated", "message": "The token has expired.", "problem": "expired"},
        (None, None),
    ),
    (
        frame_codec.page(Older("c1", "9-1"), [], HistoryId(5, 7)),
        {"type": "messages", "conversation": "c1", "before": "9-1", "messages": [], "more": True, "earlier": "5-7"},
        (None, None),
    ),
    (
        frame_codec.page(Older("c1", "9-1"), [], None),
        {"type": "messages", "conversation": "c1", "before": "9-1", "messages": []},
        (None, None),
    ),
    (frame_codec.encode(wire.Moving(within=5.0)), {"type": "moving", "within": 5.0}, (None, None)),
    (frame_codec.HEARTBEAT_FRAME, {"type": "heartbeat"}, (None, None)),
]


@pytest.mark.parametrize(("frame", "expected", "moves"), ENCODED, ids=[frame.type for frame, _, _ in ENCODED])
def test_a_server_frame_has_its_fields_and_moves_its_cursor(
    frame: Frame, expected: dict[str, Any], moves: tuple[str | None, str | None]
) -> None:
    assert fields(frame) == expected
    assert frame.body.startswith(b'{"type":"%b"' % frame.type.encode())
    assert (frame.response, frame.cursor) == moves


def test_every_server_frame_is_encoded_above() -> None:
    assert {frame.type for frame, _, _ in ENCODED} == SERVER_FRAMES


def test_frame_types_are_unique() -> None:
    names = [member.__struct_config__.tag for member in get_args(ClientFrame)]
    assert len(set(names)) == len(names) == 8
    assert len(SERVER_FRAMES) == len(get_args(wire.ServerFrame)) == 14


def test_ready_without_known_models_omits_the_field() -> None:
    assert "models" not in fields(frame_codec.ready("s1", None))


@given(st.text(), st.text())
def test_delta_and_reset_carry_text_that_was_escaped_once(text: str, reasoning: str) -> None:
    read = fields(frame_codec.delta("r9", "1-3", log_entries.escape(text), log_entries.escape(reasoning)))
    assert read["text"] == text
    assert read.get("reasoning", "") == reasoning
    reset = wire.Reset(
        response="r9",
        cursor="1-3",
        text=frame_codec.raw(log_entries.escape(text)),
        reasoning=frame_codec.raw(log_entries.escape(reasoning)),
        reason="lost",
    )
    again = fields(frame_codec.encode(reset))
    assert (again["text"], again["reasoning"]) == (text, reasoning)


def test_an_unknown_error_code_is_refused() -> None:
    with pytest.raises(AssertionError):
        frame_codec.error("surprise", "Something else.")
    assert all(400 <= status < 600 for status in wire.ERRORS.values())


def test_the_range_of_a_close_code_says_whether_to_reconnect() -> None:
    assert {code for code in Close if code < 4000} == {Close.TOO_BIG, Close.RESTART, Close.OVERLOADED}
    assert all(4400 <= code < 4500 for code in Close if code >= 4000)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (Send("k1", "c1", "Why?"), {"key": "k1"}),
        (Retry("r1", "k2"), {"key": "k2"}),
        (Stop("r1"), {"response": "r1"}),
        (Watch("c1"), {"conversation": "c1"}),
        (Unwatch("c1"), {"conversation": "c1"}),
    ],
)
def test_a_refusal_names_the_request(request_: Any, named: dict[str, str]) -> None:
    refused = fields(frame_codec.refusal(request_, "unavailable", "Not now.", 2.0))
    assert refused == {"type": "error", "code": "unavailable", "message": "Not now.", "retry_after": 2.0, **named}


def test_only_a_valid_traceparent_is_accepted() -> None:
    assert frame_codec.is_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert not frame_codec.is_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n")
    assert not frame_codec.is_traceparent("")


def with_metadata(metadata: object) -> object:
    return frame_codec.decode(
        json.dumps({"type": "send", "key": "k", "conversation": "c", "text": "x", "metadata": metadata})
    )


def test_metadata_is_bounded() -> None:
    name, value = "n" * (wire.MAX_METADATA_KEY - 2), "v" * wire.MAX_METADATA_VALUE
    largest = {f"{name}{number:02d}": value for number in range(wire.MAX_METADATA)}
    sent = with_metadata(largest)
    assert isinstance(sent, wire.Send)
    assert sent.metadata == largest
    for refused in (
        {**largest, "more": ""},
        {f"{name}123": ""},
        {"": ""},
        {"n": value + "v"},
        {"n": 5},
        ["n"],
    ):
        assert isinstance(with_metadata(refused), BadFrame)
