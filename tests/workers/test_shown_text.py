"""The text that viewers have, as far as the next provider call continues it."""

from __future__ import annotations

import pytest

from workers.shown_text import ShownText


def test_text_grows_by_what_is_added() -> None:
    shown = ShownText("Be", grows=True)
    shown.add("cau")
    assert shown.text == "Becau"
    shown.add("se")
    assert shown.text == "Because"


def test_text_that_is_not_continued_is_not_kept() -> None:
    shown = ShownText("", grows=False)
    assert not shown
    shown.add("Because")
    assert shown
    assert shown.text == ""


@pytest.mark.parametrize("grows", [True, False])
def test_white_space_is_blank(*, grows: bool) -> None:
    shown = ShownText(" \u200b", grows=grows)
    shown.add("\n\ufeff")
    assert shown.blank
    shown.add(" x")
    shown.add(" ")
    assert not shown.blank


def test_half_a_character_is_dropped_and_whole_ones_are_joined() -> None:
    shown = ShownText("", grows=True)
    for piece in ("a", "\ud83d", "\ude00", "b\ud83d"):
        shown.add(piece)
    shown.drop_half_character()
    assert shown.text == "a😀b"
    shown.drop_half_character()
    assert shown.text == "a😀b"
