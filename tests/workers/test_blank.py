"""Text without a visible character."""

from __future__ import annotations

import pytest

from workers.providers.blank import is_blank


@pytest.mark.parametrize(
    "text",
    ["", " \n\t\u00a0", "\u200b", "\ufeff\u200b \u2060", "\x00\x1b", "\u00ad", "\u3164\u2800", "\ufe0f", "\U000e0101"],
)
def test_text_without_visible_characters_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["x", "\u200bx", " .", "👍\ufe0f", "\ud83d", "́"])
def test_text_with_a_visible_character_is_not_blank(text: str) -> None:
    assert not is_blank(text)
