"""Events of other shapes than documented."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams.log_entries import MAX_COUNT
from workers.providers import lenient


@pytest.mark.parametrize(
    "data",
    [b"[DONE]", b"[DONE] ", b" [done]\r", b'"[DONE]"', b"data: [DONE]", b"DONE", b"[DONE", b'{"data": "[DONE]"}'],
)
def test_done_is_found_in_any_wrapping(data: bytes) -> None:
    assert lenient.is_done(data)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"done": false}', b"[DONE] " * 20, b"[NOT DONE]", b'{"text": "done"}'])
def test_other_data_are_not_done(data: bytes) -> None:
    assert not lenient.is_done(data)


@pytest.mark.parametrize(
    ("data", "objects"),
    [
        (b'{"a": 1}', [{"a": 1}]),
        (b' \xef\xbb\xbf{"a": 1}\r', [{"a": 1}]),
        (b'data: {"a": 1}', [{"a": 1}]),
        (b'data:data: {"a": 1}', [{"a": 1}]),
        (b'{"a": 1}\n{"b": 2}', [{"a": 1}, {"b": 2}]),
        (b'{"a": 1}\n\ndata: [DONE]', [{"a": 1}, lenient.DONE]),
        (b'{"a": 1}\n{"b"', None),
        (b'[{"a": 1}, 2, {"b": 3}]', [{"a": 1}, {"b": 3}]),
        (b'{"a": "\xc3"}', [{"a": "\ufffd"}]),
        (b'{"a": "\\ud83d"}', [{"a": "\ud83d"}]),
        (b'{"a": "x\ty"}', [{"a": "x\ty"}]),
        (b'{"a": NaN}', [{"a": pytest.approx(float("nan"), nan_ok=True)}]),
        (b"", []),
        (b"ping", []),
        (b"null", []),
        (b"7", []),
        (b"<html>", []),
        (b"{", None),
        (b'{"a": 1', None),
        (b"[" * 100_000, []),
    ],
)
def test_objects_are_read_or_fillers_or_incomplete(data: bytes, objects: Any) -> None:
    assert lenient.objects(data) == objects


def text(value: Any) -> list[tuple[str, str]]:
    return [(piece.kind, piece.text) for piece in lenient.content(value)]


@pytest.mark.parametrize(
    ("value", "pieces"),
    [
        ("a", [("text", "a")]),
        ({"content": "a"}, [("text", "a")]),
        ({"content": None, "reasoning": None}, []),
        ({"content": ["a", None, {"type": "text", "text": "b"}]}, [("text", "a"), ("text", "b")]),
        ({"content": {"type": "text", "text": {"value": "a", "annotations": []}}}, [("text", "a")]),
        ({"content": {"parts": [{"text": "a", "thought": True}, {"text": "b"}]}}, [("reasoning", "a"), ("text", "b")]),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "a"}]},
                    {"type": "text", "text": "b"},
                ]
            },
            [("reasoning", "a"), ("text", "b")],
        ),
        ({"content": 4}, [("text", "4")]),
        ({"content": True}, []),
        ({"content": [{"type": "score", "value": 0.5}]}, []),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, []),
        ({"content": [{"type": "redacted_thinking", "data": "x"}, {"type": "tool_result", "content": "x"}]}, []),
        ({"reasoning_content": "a", "reasoning": "a", "content": "b"}, [("reasoning", "a"), ("text", "b")]),
        ({"reasoning_content": {"signature": "x"}}, []),
        ({"reasoning_content": {"signature": "x"}, "reasoning": "a"}, [("reasoning", "a")]),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "a"}]}, [("reasoning", "a")]),
        ({"reasoning_details": [{"type": "reasoning.summary", "summary": "a"}]}, [("reasoning", "a")]),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, []),
        ({"thinking": {"content": "a"}}, [("reasoning", "a")]),
        ({"thoughts": ["a", "b"]}, [("reasoning", "a"), ("reasoning", "b")]),
        ({"reasoning_text": "a"}, [("reasoning", "a")]),
        ({"refusal": "no"}, [("refusal", "no")]),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, [("refusal", "no")]),
        (None, []),
    ],
)
def test_text_is_read_from_any_shape(value: Any, pieces: list[tuple[str, str]]) -> None:
    assert text(value) == pieces


def test_text_in_text_has_a_limit() -> None:
    value: Any = "deep"
    for _ in range(1000):
        value = [value]
    assert text({"content": value}) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "thinking", "usage", "error", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_value_can_be_read(value: Any) -> None:
    for piece in lenient.content(value):
        assert piece.text
    lenient.usage(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7),
        (7.0, 7),
        ("7", 7),
        (" 7.0 ", 7),
        (0, 0),
        (-1, None),
        (True, None),
        (None, None),
        ("many", None),
        ("nan", None),
        (float("inf"), None),
        (MAX_COUNT + 1, None),
        ([7], None),
        ({}, None),
    ],
)
def test_count_is_read_from_any_shape(value: Any, number: int | None) -> None:
    assert lenient.count(value) == number


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        (None, {}),
        ([], {}),
        ({"prompt_tokens": "3", "completion_tokens": 4.0, "total_tokens": 7}, {"input_tokens": 3, "output_tokens": 4}),
        ({"prompt_tokens": None, "input_tokens": 3, "completion_tokens": -1}, {"input_tokens": 3}),
        (
            {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": "5"}},
            {"cached_tokens": 2, "reasoning_tokens": 5},
        ),
        (
            {"prompt_tokens_details": [], "completion_tokens_details": None, "prompt_cache_hit_tokens": 1},
            {"cached_tokens": 1},
        ),
        ({"prompt_eval_count": 3, "eval_count": 4}, {"input_tokens": 3, "output_tokens": 4}),
    ],
)
def test_usage_is_read_from_any_shape(value: Any, usage: dict[str, int]) -> None:
    assert lenient.usage(value) == usage


@pytest.mark.parametrize(
    ("choices", "choice"),
    [
        ([{"index": 0}], {"index": 0}),
        ([None, {"index": 0}], {"index": 0}),
        ([], {}),
        (None, {}),
        (7, {}),
        ({"delta": {}}, {"delta": {}}),
        ({"0": {"delta": {}}, "1": {}}, {"delta": {}}),
        ({"0": None}, {"0": None}),
        ({"10": {"text": "c"}, "2": {"text": "b"}}, {"text": "b"}),
        ([{"index": 1}, {"index": 0}, {"index": 2}], {"index": 0}),
    ],
)
def test_first_choice_of_any_shape(choices: Any, choice: dict[str, Any]) -> None:
    assert lenient.choice_of(choices) == choice


def test_event_with_too_many_objects_or_values_is_incomplete() -> None:
    assert lenient.objects(b"[" + b"{}," * (lenient.MAX_OBJECTS - 1) + b"{}]") == [{}] * lenient.MAX_OBJECTS
    assert lenient.objects(b"[" + b"{}," * lenient.MAX_OBJECTS + b"{}]") is None
    most = b'{"a": [' + b"[1]," * (lenient.MAX_VALUES // 2 - 2) + b"[1]]}"
    assert lenient.objects(most) is not None
    assert lenient.objects(b'{"a": [' + b"[1]," * (lenient.MAX_VALUES // 2) + b"{}]}") is None


def test_prefixes_of_relays_are_dropped_however_many() -> None:
    assert lenient.objects(b"data: " * 1000 + b'{"a": 1}') == [{"a": 1}]
    assert lenient.objects(b"data:" * 100_000) == []
