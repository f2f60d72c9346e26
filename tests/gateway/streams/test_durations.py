"""Durations as text with a unit."""

from __future__ import annotations

import pytest

from gateway.streams.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000.0), ("1.5h", 5400.0), ("250ms", 0.25), (" 90 s ", 90.0), ("2m", 120.0)]
)
def test_a_duration_may_have_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "1w", "-1d", "1d1h", "5"])
def test_a_text_without_a_known_unit_is_left_to_the_field(text: str) -> None:
    assert parse_duration(text) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2_592_000.0, "30d"), (90.0, "90s"), (0.025, "25ms"), (0.0, "0s"), (5400.0, "90m"), (0.0001, "0.0001s")],
)
def test_a_duration_is_shown_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
