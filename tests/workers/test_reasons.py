"""Finish reasons of providers."""

from __future__ import annotations

from typing import Any

import pytest

from workers.providers import reasons


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("stop", "complete"),
        ("STOP", "complete"),
        ("eos", "complete"),
        ("eos_token", "complete"),
        ("end_turn", "complete"),
        ("endTurn", "complete"),
        ("FINISH_REASON_STOP", "complete"),
        ("stop_sequence", "complete"),
        ("pause_turn", "complete"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("maxTokens", "length"),
        ("model_length", "length"),
        ("model_context_window_exceeded", "length"),
        ("content_filter", "filtered"),
        ("content-filter", "filtered"),
        ("SAFETY", "filtered"),
        ("content_filter: SAFETY", "filtered"),
        ("refusal", "refused"),
        ("tool_use", "tool_calls"),
        ("function_call", "tool_calls"),
        ("insufficient_system_resource", None),
        ("error", None),
        ("abort", None),
        ("function_call_filter: MALFORMED_FUNCTION_CALL", None),
        ("unexpected_tool_call", None),
        ("cancelled", None),
    ],
)
def test_reason_has_a_meaning_or_is_no_success(reason: str, meaning: str | None) -> None:
    assert reasons.known(reason) == meaning


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("stop", "stop"),
        (None, None),
        ("", None),
        (" ", None),
        ("null", None),
        ("None", None),
        ("FINISH_REASON_UNSPECIFIED", None),
        (False, None),
        (True, None),
        ({"type": "stop"}, "stop"),
        ({"reason": None, "name": "length"}, "length"),
        ({}, None),
        ([None, "stop"], "stop"),
        ([], None),
        (2, "2"),
    ],
)
def test_reason_is_read_from_any_shape(value: Any, reason: str | None) -> None:
    assert reasons.given(value) == reason


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("error", "error"),
        (" a b\n<script>c ", "a_b_script_c"),
        ("x: Y", "x:_Y"),
        ("é", ""),
        ("n" * 100, "n" * reasons.MAX_DETAIL),
    ],
)
def test_detail_has_safe_characters(reason: str, detail: str) -> None:
    assert reasons.detail(reason) == detail


@pytest.mark.parametrize(
    "reason",
    [
        "FinishReason.STOP",
        "STOP",
        "FINISH_REASON_STOP",
        "eos",
        "stop_sequence: ###",
        "StopReason.END_TURN",
        "<|im_end|>",
        "</s>",
    ],
)
def test_spellings_of_a_success(reason: str) -> None:
    assert reasons.known(reason) == "complete"


@pytest.mark.parametrize(
    ("first", "later", "counts"),
    [
        (None, None, None),
        ("stop", None, "stop"),
        (None, "stop", "stop"),
        ("length", "stop", "length"),
        ("error", "stop", "error"),
        ("stop", "content_filter", "content_filter"),
        ("stop", "abort", "abort"),
        ("stop", "tool_calls", "stop"),
        ("length", "abort", "length"),
    ],
)
def test_reason_that_is_no_success_wins(first: str | None, later: str | None, counts: str | None) -> None:
    assert reasons.merged(first, later) == counts
