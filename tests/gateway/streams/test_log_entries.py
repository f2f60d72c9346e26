"""Entries and ids: encoding round trips, and decoding of arbitrary bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.streams import log_entries
from gateway.streams.log_entries import (
    NONCES,
    Details,
    End,
    HistoryEntry,
    HistoryId,
    LogId,
    LogText,
    Opened,
    Problem,
    Published,
    Queued,
    ResponseEntry,
    Settled,
    Start,
    UserMessage,
    Waiting,
)
from gateway.streams.unreadable import TALLY

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = st.integers(0, 10**16 - 1)
NAMES = st.text(max_size=10)
MAYBE = st.none() | NAMES
USAGE = st.none() | st.dictionaries(st.sampled_from(["input_tokens", "output_tokens"]), st.integers(0, 2**53))
PROBLEMS = st.none() | st.builds(Problem, NAMES, NAMES)
MODES = st.sampled_from(["restart", "continue"])

LOG_ENTRIES: dict[bytes, st.SearchStrategy[Any]] = {
    log_entries.QUEUED: st.builds(Queued, NAMES, NAMES, NAMES, MAYBE, st.none() | st.integers(1, 2**31), MAYBE, MODES),
    log_entries.START: st.builds(Start, NAMES, NAMES),
    log_entries.CONTINUE: st.builds(Start, NAMES, NAMES),
    log_entries.WAITING: st.builds(Waiting, st.floats(0, log_entries.MAX_WAIT_S)),
    log_entries.END: st.builds(End, NAMES, USAGE, PROBLEMS, st.none() | st.booleans()),
}
HISTORY_ENTRIES: dict[bytes, st.SearchStrategy[Any]] = {
    log_entries.MESSAGE: st.builds(UserMessage, NAMES, st.text(), MAYBE),
    log_entries.OPENED: st.builds(Opened, NAMES, NAMES, NAMES, MAYBE, st.booleans()),
}


def of(entries: dict[bytes, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[bytes, Any]]:
    return st.one_of([st.tuples(st.just(kind), bodies) for kind, bodies in entries.items()])


@given(PARTS, PARTS)
def test_ids_survive_a_round_trip(first: int, second: int) -> None:
    assert log_entries.parse_log_id(str(LogId(first, second))) == LogId(first, second)
    assert log_entries.parse_log_id(str(LogId(first, second)).encode()) == LogId(first, second)
    assert log_entries.parse_history_id(str(HistoryId(first, second))) == HistoryId(first, second)
    assert log_entries.parse_history_id(str(HistoryId(first, second)).encode()) == HistoryId(first, second)


@given(st.binary() | st.from_regex(rb"[0-9]{0,20}-[0-9]{0,20}"))
@example(b"")
@example(b"-")
@example(b"01-1")
@example(b"1-01")
@example(b"1-1\n")
@example(b"10000000000000000-1")
@example(b"9" * 5000 + b"-1")
def test_any_bytes_parse_as_a_canonical_id_or_none(data: bytes) -> None:
    log_id, history_id = log_entries.parse_log_id(data), log_entries.parse_history_id(data)
    assert log_id is None or str(log_id).encode() == data
    assert history_id is None or str(history_id).encode() == data
    assert (log_id is None) is (history_id is None)


@given(st.text(st.characters(exclude_categories=())) | st.from_regex(r"\d{0,20}-\d{0,20}"))
@example("\u0661-\u0661")
def test_any_text_parses_as_a_canonical_id_or_none(text: str) -> None:
    log_id, history_id = log_entries.parse_log_id(text), log_entries.parse_history_id(text)
    assert log_id is None or str(log_id) == text
    assert history_id is None or str(history_id) == text


@given(*[st.integers(0, 999), st.integers(0, NONCES - 1), st.integers(1, 10**6)] * 2)
def test_ids_of_a_later_attempt_sort_after_earlier_ones(
    number: int, nonce: int, seq: int, other: int, other_nonce: int, other_seq: int
) -> None:
    one, two = LogId(number * NONCES + nonce, seq), LogId(other * NONCES + other_nonce, other_seq)
    assert (one.number, two.number) == (number, other)
    if number < other:
        assert one < two


def test_largest_log_id_survives_a_round_trip() -> None:
    """1000 attempts with the largest nonce."""
    last = LogId(1000 * NONCES + NONCES - 1, 10**15)
    assert log_entries.parse_log_id(str(last)) == last


@given(of(LOG_ENTRIES))
def test_response_entries_survive_a_round_trip(entry: tuple[bytes, ResponseEntry]) -> None:
    kind, body = entry
    value = log_entries.encode(kind, body)
    assert value[:1] == kind
    assert b"\n" not in value
    assert log_entries.decode_response_entry(value) == body


@given(of(HISTORY_ENTRIES))
def test_history_entries_survive_a_round_trip(entry: tuple[bytes, HistoryEntry]) -> None:
    kind, body = entry
    value = log_entries.encode(kind, body)
    assert value[:1] == kind
    assert b"\n" not in value
    assert log_entries.decode_history_entry(value) == body


@given(NAMES, NAMES, LOG_ENTRIES[log_entries.END], st.lists(st.text()))
def test_settled_head_is_completed_by_the_text(response: str, message: str, end: End, pieces: list[str]) -> None:
    """As the end script does: it appends the text entries unchanged."""
    text = b"".join(map(log_entries.escape, pieces))
    value = log_entries.SETTLED + log_entries.settled_head(response, message, end) + b',"text":"' + text + b'"}'
    settled = log_entries.decode_history_entry(value)
    assert isinstance(settled, Settled)
    assert (settled.response, settled.message) == (response, message)
    assert json.loads(bytes(settled.text)) == "".join(pieces)
    decoded = (settled.reason, settled.usage, settled.error, settled.retryable)
    assert decoded == (end.reason, end.usage, end.error, end.retryable)
    assert log_entries.decode_history_entry(log_entries.encode(log_entries.SETTLED, settled)) == settled


@given(
    st.binary() | st.tuples(st.sampled_from(b"QSKTRWEMOX"), st.binary()).map(lambda pair: bytes([pair[0]]) + pair[1])
)
@example(b'Q{"conversation":"\xff"}')
@example(b'Q{"x":' + b"[" * 100_000)
def test_decoding_any_bytes_never_raises_and_counts_malformed_bodies(value: bytes) -> None:
    TALLY.take()
    for decode, kinds in ((log_entries.decode_response_entry, b"QSKWE"), (log_entries.decode_history_entry, b"MOX")):
        entry = decode(value, "r1")
        unreadable = value[:1] in {bytes([kind]) for kind in kinds} and entry in (None, log_entries.UNREADABLE_END)
        assert TALLY.take() == ((1, "r1") if unreadable else (0, ""))
    body = log_entries.text_body(value, "r2")
    try:
        log_entries.unescape(value[1:])
    except ValueError:
        assert (body, TALLY.take()) == (b"", (1, "r2"))
    else:
        assert (body, TALLY.take()) == (value[1:], (0, ""))


@pytest.mark.parametrize(
    "value",
    [
        b'W{"retry_in":-1}',
        b'W{"retry_in":86401}',
        b'S{"model":1}',
        b'X{"response":"r","message":"m","reason":"complete","text":5}',
        b'X{"response":"r","message":"m","reason":"complete","text":"\xff"}',
        b'X{"response":"r","message":"m","reason":"complete","text":"","usage":{"cost":0.5}}',
        b'X{"response":"r","message":"m","reason":"complete","text":"","usage":{"n":1%b}}' % (b"0" * 16),
    ],
)
def test_entry_with_a_value_that_cannot_be_sent_is_skipped(value: bytes) -> None:
    assert log_entries.decode_response_entry(value) is None
    assert log_entries.decode_history_entry(value) is None


@pytest.mark.parametrize("body", [b'{"reason":5}', b'{"reason":"complete","usage":{"cost":0.00012}}', b"", b"\xff"])
def test_malformed_end_is_a_failed_end(body: bytes) -> None:
    end = log_entries.decode_response_entry(log_entries.END + body)
    assert end is log_entries.UNREADABLE_END
    assert end.error is not None
    assert (end.reason, end.error.code) == ("failed", "unreadable")


def test_largest_count_is_read_and_a_larger_one_is_not() -> None:
    end = End("complete", usage={"output_tokens": log_entries.MAX_COUNT})
    value = log_entries.encode(log_entries.END, end)
    assert log_entries.decode_response_entry(value) == end
    larger = value.replace(b"%d" % log_entries.MAX_COUNT, b"%d" % (log_entries.MAX_COUNT + 1))
    assert log_entries.decode_response_entry(larger) is log_entries.UNREADABLE_END


@pytest.mark.parametrize("kind", [log_entries.TEXT, log_entries.REASONING, b"?", b""])
def test_text_and_unknown_kinds_decode_as_none(kind: bytes) -> None:
    assert log_entries.decode_response_entry(kind + b"{}") is None
    assert log_entries.decode_history_entry(kind + b"{}") is None


def test_unknown_fields_are_ignored() -> None:
    assert log_entries.decode_response_entry(b'E{"reason":"tired","later":[1]}') == End("tired")


@given(st.lists(st.text()))
def test_escaped_texts_can_be_concatenated(pieces: list[str]) -> None:
    escaped = b"".join(map(log_entries.escape, pieces))
    assert escaped == log_entries.escape("".join(pieces))
    assert log_entries.unescape(escaped) == "".join(pieces)
    assert b"\n" not in escaped
    assert b'"' not in escaped.replace(rb"\\", b"").replace(rb"\"", b"")


def test_unescape_rejects_unescaped_text() -> None:
    with pytest.raises(msgspec.DecodeError):
        log_entries.unescape(b'a"b')


VALUES = of(LOG_ENTRIES | HISTORY_ENTRIES).map(lambda entry: log_entries.encode(*entry)) | st.text().map(
    lambda text: log_entries.TEXT + log_entries.escape(text)
)
IDS = st.builds(lambda first, second: f"{first}-{second}".encode(), PARTS, PARTS)
PUBLISHED = st.builds(
    Published,
    st.none() | st.from_regex(r"r[01][0-5][0-9a-z]{16}", fullmatch=True),
    IDS,
    st.just(b"-") | IDS,
    st.lists(VALUES, max_size=4),
)


@given(st.lists(PUBLISHED))
def test_published_parts_survive_a_round_trip(parts: list[Published]) -> None:
    lines = [
        line
        for part in parts
        for line in (b"@" + (part.response or "c").encode() + b" %b %b" % (part.first, part.previous), *part.values)
    ]
    assert log_entries.parse_published(b"\n".join(lines)) == parts


@given(st.binary() | st.lists(st.sampled_from([b"@", b"c", b" ", b"\n", b"\xff", b"1-1", b"T"])).map(b"".join))
@example(b"@\xff 1-1\nTx")
def test_any_published_bytes_can_be_parsed(data: bytes) -> None:
    parts = log_entries.parse_published(data)
    assert len(parts) == sum(line.startswith(b"@") for line in data.split(b"\n"))


def test_details_that_cannot_be_read_are_counted() -> None:
    TALLY.take()
    assert log_entries.decode_details(b'{"metadata":{"page":"/"},"newer":1}') == Details(metadata={"page": "/"})
    assert TALLY.take().entries == 0
    assert log_entries.decode_details(b"[", "k") is None
    assert TALLY.take() == (1, "k")


def text_before(entries: Sequence[tuple[LogId, bytes]], before: LogId | None) -> str:
    text = LogText(before)
    text.add(entries[:3])
    text.add(entries[3:])
    assert bool(text) == bool(text.escaped)
    return log_entries.unescape(text.escaped)


def test_text_of_a_log_begins_at_the_last_start_before_an_entry() -> None:
    values = [b"Q{}", b"S{}", b"Tlost", b"S{}", b"TBe", b"Rhm", b'Tc\\"', b"K{}", b"Tnot before"]
    entries = [(LogId(1, seq), value) for seq, value in enumerate(values, 1)]
    assert text_before(entries, LogId(1, 8)) == 'Bec"'
    assert text_before(entries[:5], LogId(1, 8)) == "Be"
    assert text_before([], LogId(1, 8)) == ""
    assert text_before(entries, None) == text_before(entries, LogId(9, 99)) == 'Bec"not before'
