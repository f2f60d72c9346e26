"""A seam: what a model repeats of the text it goes on from is left out, and nothing else is."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.overlap import MAX_OVERLAP, MIN_OVERLAP, OverlapFilter

# Few letters, so that a text often has a part twice; and one that is two halves to some providers.
LETTERS = "ab😀"
TEXTS = st.text(LETTERS, max_size=40)
CUTS = st.lists(st.integers(0, 60))


def halved(text: str) -> str:
    """The text as a provider that counts in UTF-16 has it: a character of two units is two."""
    units = text.encode("utf-16-le")
    return "".join(chr(int.from_bytes(units[place : place + 2], "little")) for place in range(0, len(units), 2))


def continued(before: str, continuation: str, cuts: list[int]) -> str:
    """What comes out of a continuation that comes in as these chunks."""
    units = halved(continuation)
    places = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    seam = OverlapFilter(before)
    pieces = [seam.feed(units[begin:end]) for begin, end in pairwise(places)]
    return "".join([*pieces, seam.close()]).encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def repeated(before: str, continuation: str) -> int:
    """How many characters a continuation repeats."""
    lengths = range(MIN_OVERLAP, min(len(before), len(continuation), MAX_OVERLAP) + 1)
    return max((length for length in lengths if before.endswith(continuation[:length])), default=0)


@given(TEXTS, TEXTS, st.integers(MIN_OVERLAP, 40), CUTS)
@example("ab😀a", "b", 4, [1, 2, 3])
@example("ab😀", "b", 4, [3])
@example("aaaaaaaa", "aaab", 8, [])
def test_a_repetition_of_the_end_is_left_out_in_any_chunking(
    before: str, new: str, length: int, cuts: list[int]
) -> None:
    before = before.rjust(MIN_OVERLAP, "a")
    repetition = before[-length:]
    out = continued(before, repetition + new, cuts)
    # Where the text has its end twice, more of the continuation may be a repetition; never less.
    assert new.endswith(out)
    assert out == (repetition + new)[repeated(before, repetition + new) :]


@given(TEXTS, st.text("xyz😀", max_size=40), st.integers(MIN_OVERLAP, 40), CUTS)
def test_what_follows_the_repetition_is_all_there(before: str, new: str, length: int, cuts: list[int]) -> None:
    before = before.rjust(MIN_OVERLAP, "a")
    new = "x" + new
    assert continued(before, before[-length:] + new, cuts) == new


@given(TEXTS, TEXTS, CUTS)
def test_a_continuation_that_repeats_nothing_is_unchanged_in_any_chunking(
    before: str, continuation: str, cuts: list[int]
) -> None:
    if repeated(before, continuation) == 0:
        assert continued(before, continuation, cuts) == continuation


@given(st.text(LETTERS, max_size=3), st.text("xyz", min_size=1), CUTS)
def test_a_few_characters_may_be_the_same_by_chance(chance: str, new: str, cuts: list[int]) -> None:
    assert continued("The end of it" + chance, chance + new, cuts) == chance + new


@given(st.text(st.characters(exclude_categories=())), st.lists(st.text(st.characters(exclude_categories=()))))
def test_no_text_makes_a_seam_fall(before: str, pieces: list[str]) -> None:
    seam = OverlapFilter(before)
    out = "".join([seam.feed(piece) for piece in pieces]) + seam.close()
    rejoined = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    assert rejoined.endswith(out.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass"))


def test_what_can_not_be_a_repetition_is_not_held_back() -> None:
    seam = OverlapFilter("The sky is blue because")
    assert seam.feed(" air") == " air"
    assert seam.feed(" because") == " because"


def test_what_may_be_one_is_held_back_until_that_is_certain() -> None:
    seam = OverlapFilter("The sky is blue")
    assert seam.feed("sky") == ""
    assert seam.feed(" is") == ""
    assert seam.feed(" blue") == ""
    assert seam.feed(", and") == ", and"
    assert seam.close() == ""


def test_a_beginning_that_only_looks_like_a_repetition_comes_whole() -> None:
    seam = OverlapFilter("The sky is blue")
    assert seam.feed("sky") == ""
    assert seam.feed(" was") == "sky was"


def test_a_continuation_that_ends_while_it_is_held_back_comes_out_at_the_end() -> None:
    seam = OverlapFilter("The sky is blue")
    assert seam.feed("is") == ""
    assert seam.close() == "is"
    assert seam.close() == ""


def test_half_a_character_is_not_taken_for_something_new() -> None:
    seam = OverlapFilter("It is fine 😀")
    assert seam.feed("fine \ud83d") == ""
    assert seam.feed("\ude00") == ""
    assert seam.feed("!") == "!"


@pytest.mark.parametrize("text", ["", "a", "aaaa"])
def test_without_a_text_before_nothing_is_held_back(text: str) -> None:
    seam = OverlapFilter("")
    assert seam.feed(text) == text
    assert seam.close() == ""


def test_a_repetition_that_began_long_ago_is_not_looked_for() -> None:
    before = "".join(chr(0x4E00 + number) for number in range(MAX_OVERLAP + 10))
    assert continued(before, before[-MAX_OVERLAP:] + "!", [7]) == "!"
    assert continued(before, before[-MAX_OVERLAP - 1 :] + "!", [7]) == before[-MAX_OVERLAP - 1 :] + "!"
