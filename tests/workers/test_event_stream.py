"""The parser for server-sent events: the rules of the standard, independent of chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.providers.event_stream import MAX_EVENT_BYTES, MAX_TEXT_BYTES, EventStream, EventTooLargeError


def parsed(*chunks: bytes, limit: int = MAX_EVENT_BYTES) -> list[bytes]:
    stream = EventStream(limit)
    return [event for chunk in chunks for event in stream.feed(chunk)]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b'data: {"a":1}\n\n', [b'{"a":1}']),
        (b"data:no space\n\n", [b"no space"]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b"event: ping\ndata: x\n\n", [b"x"]),
        (b"event:ping\ndata: x\n\n", [b"x"]),
        (b"data: x\nevent: late\n\n", [b"x"]),
        (b"event: one\nevent: two\ndata: x\n\n", [b"x"]),
        (b"event: once\ndata: x\n\ndata: y\n\n", [b"x", b"y"]),
        (b"data: a\ndata: b\ndata:\ndata: c\n\n", [b"a\nb\n\nc"]),
        (b"data: a\ndata\n\n", [b"a\n"]),
        (b"data\n\ndata\ndata\n\n", [b"", b"\n"]),
        (b"data:\n\n", [b""]),
        (b"event: alone\n\ndata: x\n\n", [b"x"]),
        (b": keep-alive\n\n", []),
        (b": comment\ndata: x\n: another\n\n", [b"x"]),
        (b"id: 7\nretry: 10\nunknown: y\ndata: x\n\n", [b"x"]),
        (b" data: x\n\n", []),
        (b"Data: x\n\n", []),
        (b"\n\n\n\n", []),
        (b"data: x\r\n\r\ndata: y\r\n\r\n", [b"x", b"y"]),
        (b"event: e\r\ndata: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
        (b"data: x\r\rdata: y\r\r", [b"x", b"y"]),
        (b"data: x\r\n\rdata: y\n\r\n", [b"x", b"y"]),
        (b"\xef\xbb\xbfdata: x\n\n", [b"x"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
        (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [b"x"]),
        ("event: 事\ndata: 😀é\n\n".encode(), ["😀é".encode()]),
        (b"event: \xff\ndata: \xff\n\n", [b"\xff"]),
        # Only these three end a line: str.splitlines would cut at each of the others.
        ("data: a\x0bb\x0cc\x1cd\x85e\u2028f\n\n".encode(), ["a\x0bb\x0cc\x1cd\x85e\u2028f".encode()]),
        (b"data: never finished\n", []),
        (b"data: never finished", []),
    ],
)
def test_lines_are_interpreted_as_in_the_standard(text: bytes, events: list[bytes]) -> None:
    assert parsed(text) == events
    assert parsed(*(text[i : i + 1] for i in range(len(text)))) == events


def closed(*chunks: bytes) -> tuple[list[bytes], list[bytes]]:
    stream = EventStream()
    return [event for chunk in chunks for event in stream.feed(chunk)], stream.close()


@pytest.mark.parametrize(
    ("text", "events", "at_the_end"),
    [
        (b"data: x\n", [], [b"x"]),
        (b"data: x", [], [b"x"]),
        (b"data: x\ndata:y", [], [b"x\ny"]),
        (b"data: x\nev", [], [b"x"]),
        (b"data: x\n\n", [b"x"], []),
        (b'data: {"a": 1}\ndata: {"b": 2}\n', [b'{"a": 1}', b'{"b": 2}'], []),
        (b'data: {"a":\ndata: 1}\n\n', [b'{"a":\n1}'], []),
        (b'event: error\ndata: {"a": 1}\n', [], [b'{"error": {"a": 1}}']),
        (b'event: error\ndata: {"a": 1}', [], [b'{"error": {"a": 1}}']),
        (b"event: error\ndata: slow\n", [], [b'{"error": "slow"}']),
        (b"event: error\ndata: slo", [], []),
        (b"event: done\ndata:", [], [b""]),
        (b"event: done\ndata: {}", [], [b"[DONE]"]),
        (b'{"a": 1}', [], [b'{"a": 1}']),
        (b'\xef\xbb\xbf{"a": 1}', [], [b'{"a": 1}']),
        (b'{"a": 1}\n{"b": 2}\n', [b'{"a": 1}', b'{"b": 2}'], []),
        (b'{\n "a": 1\n}\n', [], [b'{\n "a": 1\n}\n']),
        (b'\n\n{\n "a": 1\n}', [], [b'\n\n{\n "a": 1\n}']),
        (b'[{"a": 1},\n{"b": 2}]', [], [b'[{"a": 1},\n{"b": 2}]']),
        (b'data: x\n\n{"error": 1}\n', [b"x", b'{"error": 1}'], []),
    ],
)
def test_incomplete_events_and_documents_are_returned_at_the_end(
    text: bytes, events: list[bytes], at_the_end: list[bytes]
) -> None:
    whole, rest = closed(text)
    assert (whole, [each.strip() for each in rest]) == (events, [each.strip() for each in at_the_end])
    whole, rest = closed(*(text[i : i + 1] for i in range(len(text))))
    assert (whole, [each.strip() for each in rest]) == (events, [each.strip() for each in at_the_end])


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (b"slow down", b'{"error": "slow down"}'),
        (b'{"code": 1}', b'{"error": {"code": 1}}'),
        (b"", b'{"type": "error"}'),
        (b"{}", b'{"type": "error"}'),
        (b"null", b'{"type": "error"}'),
        (b"\xff", b'{"error": "\\ufffd"}'),
    ],
)
def test_event_named_error_becomes_an_error(data: bytes, event: bytes) -> None:
    stream = b"event: error\n\ndata: x\n\nevent:error\ndata: " + data + b"\n\ndata: y\n\n"
    assert parsed(stream) == [b"x", event, b"y"]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"event: done\ndata: {}\n\n", [b"[DONE]", b"[DONE]"]),
        (b"event: done\ndata: {}\n", [b"[DONE]"]),
        (b"event: end\ndata: null\n\n", [b"[DONE]"]),
        (b"event: End\ndata:\n\n", [b"[DONE]"]),
        (b"event: message_stop\n\n", [b"[DONE]"]),
        (b"event: end\n", []),
        (b"event: end\ndata:\n", []),
        (b'event: done\ndata: {"a": 1}\n\n', [b'{"a": 1}', b"[DONE]"]),
        (b'event: end\ndata: {"a": 1}\n\n', [b'{"a": 1}']),
        (b"event: ping\ndata: {}\n\n", [b"{}"]),
        (b"event: ping\n\n", []),
        (b"data: [DONE]\n", [b"[DONE]"]),
        (b"event: error\ndata: [DONE]\n\n", [b'{"error": "[DONE]"}']),
        (b'data: null\ndata: {"a": 1}\n', [b"null", b'{"a": 1}']),
        (b'data: [\ndata: {"a": 1}\ndata: ]\n\n', [b'[\n{"a": 1}\n]']),
    ],
)
def test_ends_without_data_or_empty_lines_are_markers(text: bytes, events: list[bytes]) -> None:
    assert parsed(text) == events
    assert parsed(*(text[i : i + 1] for i in range(len(text)))) == events


@pytest.mark.parametrize(
    ("body", "text", "bare"),
    [
        (b"<html>\n: x\nid: 7\n<p>no</p>", b"<html>\n<p>no</p>\n", False),
        (b"rate limited", b"rate limited\n", False),
        (b"x" * MAX_TEXT_BYTES + b"\ny\n", b"x" * MAX_TEXT_BYTES, False),
        (b"data: x\n\n", b"", False),
        (b'{"a": 1}', b"", True),
        (b'{"a": 1}\n', b"", True),
        (b'{\n"a": 1\n}', b"", True),
        (b'data: x\n\n{"a": 1}', b"", False),
    ],
)
def test_body_of_another_type_is_kept(body: bytes, text: bytes, *, bare: bool) -> None:
    stream = EventStream()
    stream.feed(body)
    stream.close()
    assert (stream.text, stream.bare) == (text, bare)


def test_document_is_limited_in_size() -> None:
    stream = EventStream(100)
    stream.feed(b'{"a":\n ')
    with pytest.raises(EventTooLargeError):
        stream.feed(b"x" * 100)


def test_event_is_returned_at_its_last_byte() -> None:
    stream = EventStream()
    assert stream.feed(b"data: x\r") == []
    assert stream.feed(b"\r") == [b"x"]
    assert stream.feed(b"\n") == []
    assert stream.feed(b"") == []
    assert stream.feed(b"data: y\r\n\r") == [b"y"]
    assert stream.feed(b"") == []
    assert stream.feed(b"\ndata: z\n\n") == [b"z"]


LINES = st.one_of(
    st.sampled_from([b"data: ", b"data:", b"event: ", b"event:", b":", b"id: ", b""]).flatmap(
        lambda start: st.text(st.characters(exclude_characters="\r\n"), max_size=6).map(
            lambda rest: start + rest.encode("utf-8", "surrogatepass")
        )
    ),
    st.just(b""),
    st.binary(max_size=6),
)
STREAMS = st.builds(
    lambda mark, lines: mark + b"".join(line + end for line, end in lines),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n", b""])), max_size=12),
)


def by_the_standard(text: bytes) -> list[bytes]:
    """Section 9.2.6 of the standard, applied to the whole stream."""
    text = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, data = [], b""
    first = next((line.strip() for line in text.split(b"\n")[:-1] if line.strip()), b"")
    if first[:1] in (b"{", b"[") and first[-1:] not in (b"}", b"]"):
        return []
    for line in text.split(b"\n")[:-1]:
        if not line:
            if data:
                events.append(data.removesuffix(b"\n"))
            data = b""
        elif line[:1] in (b"{", b"["):
            # Not in the standard: see EventStream.
            events.append(line)
        elif not line.startswith(b":"):
            field, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            whole = field == b"data" and value[:1] == b"{" and value[-1:] == b"}"
            if whole and data and data.lstrip()[:1] not in (b"{", b"["):
                events.append(data.removesuffix(b"\n"))
                data = b""
            if whole and not data:
                events.append(value)
            elif field == b"data":
                data += value + b"\n"
    return events


@given(STREAMS, st.data())
def test_events_are_independent_of_chunks(text: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert b"".join(chunks) == text
    assert parsed(*chunks) == by_the_standard(text)
    assert parsed(*(text[i : i + 1] for i in range(len(text)))) == by_the_standard(text)


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 100],
        [b"data: " + b"x" * 100 + b"\n"],
        [b"x"] * 101,
        [b"data: " + b"x" * 40 + b"\n"] * 3,
        [b"data\n"] * 101,
        [b"data: " + b"x" * 60 + b"\n", b"data: " + b"x" * 40],
    ],
)
def test_incomplete_event_is_limited_in_size(chunks: list[bytes]) -> None:
    with pytest.raises(EventTooLargeError):
        parsed(*chunks, limit=100)


def test_limit_applies_to_one_event_not_the_stream() -> None:
    text = b"data: " + b"x" * 80 + b"\n\n"
    assert len(parsed(*[text] * 50, limit=100)) == 50
    stream = text * 50
    assert len(parsed(*(stream[i : i + 1] for i in range(len(stream))), limit=100)) == 50


def test_limit_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="more than 10 bytes in one incomplete event"):
        parsed(b"data: 0123456789", limit=10)
