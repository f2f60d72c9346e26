"""The overlap filter: repeated text is removed from a continuation, and nothing else."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.overlap import MAX_OVERLAP, MIN_OVERLAP, OverlapFilter

# Few letters, so that repetitions are frequent; one of them is a surrogate pair for some providers.
LETTERS = "ab😀"
TEXTS = st.text(LETTERS, max_size=40)
CUTS = st.lists(st.integers(0, 60))


def utf16_units(text: str) -> str:
    """Return the text in UTF-16 units, as some providers split it."""
    units = text.encode("utf-16-le")
    return "".join(
        chr(int.from_bytes(units[position : position + 2], "little")) for position in range(0, len(units), 2)
    )


def continued(before: str, continuation: str, cuts: list[int]) -> str:
    """Return the filtered continuation, fed in chunks."""
    units = utf16_units(continuation)
    positions = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    overlap = OverlapFilter(before)
    pieces = [overlap.feed(units[begin:end]) for begin, end in pairwise(positions)]
    return "".join([*pieces, overlap.close()]).encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def repeated(before: str, continuation: str) -> int:
    """Return how many characters a continuation repeats."""
    lengths = range(MIN_OVERLAP, min(len(before), len(continuation), MAX_OVERLAP) + 1)
    return max((length for length in lengths if before.endswith(continuation[:length])), default=0)


@given(TEXTS, TEXTS, st.integers(MIN_OVERLAP, 40), CUTS)
@example("ab😀a", "b", 4, [1, 2, 3])
@example("ab😀", "b", 4, [3])
@example("aaaaaaaa", "aaab", 8, [])
def test_repetition_is_removed_in_any_chunking(before: str, new: str, length: int, cuts: list[int]) -> None:
    before = before.rjust(MIN_OVERLAP, "a")
    repetition = before[-length:]
    out = continued(before, repetition + new, cuts)
    # If the end occurs twice in the text, the repetition may be longer, never shorter.
    assert new.endswith(out)
    assert out == (repetition + new)[repeated(before, repetition + new) :]


@given(TEXTS, st.text("xyz😀", max_size=40), st.integers(MIN_OVERLAP, 40), CUTS)
def test_text_after_the_repetition_is_complete(before: str, new: str, length: int, cuts: list[int]) -> None:
    before = before.rjust(MIN_OVERLAP, "a")
    new = "x" + new
    assert continued(before, before[-length:] + new, cuts) == new


@given(TEXTS, TEXTS, CUTS)
def test_continuation_without_repetition_is_unchanged(before: str, continuation: str, cuts: list[int]) -> None:
    if repeated(before, continuation) == 0:
        assert continued(before, continuation, cuts) == continuation


@given(st.text(LETTERS, max_size=3), st.text("xyz", min_size=1), CUTS)
def test_short_repetition_is_coincidence(shared: str, new: str, cuts: list[int]) -> None:
    assert continued("The end of it" + shared, shared + new, cuts) == shared + new


@given(st.text(" \n", min_size=1, max_size=6), st.integers(1, 6), CUTS)
def test_white_space_is_repeated_at_any_length(space: str, repeated: int, cuts: list[int]) -> None:
    new = space[len(space) - repeated :] + "x y"
    assert continued("The end" + space, new, cuts) == "x y"


@given(st.text(st.characters(exclude_categories=())), st.lists(st.text(st.characters(exclude_categories=()))))
def test_filter_accepts_any_text(before: str, pieces: list[str]) -> None:
    overlap = OverlapFilter(before)
    out = "".join([overlap.feed(piece) for piece in pieces]) + overlap.close()
    rejoined = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    assert rejoined.endswith(out.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass"))


def test_new_text_is_not_buffered() -> None:
    overlap = OverlapFilter("The sky is blue because")
    assert overlap.feed(" air") == " air"
    assert overlap.feed(" because") == " because"


def test_possible_repetition_is_buffered() -> None:
    overlap = OverlapFilter("The sky is blue")
    assert overlap.feed("sky") == ""
    assert overlap.feed(" is") == ""
    assert overlap.feed(" blue") == ""
    assert overlap.feed(", and") == ", and"
    assert overlap.close() == ""


def test_partial_match_is_returned_completely() -> None:
    overlap = OverlapFilter("The sky is blue")
    assert overlap.feed("sky") == ""
    assert overlap.feed(" was") == "sky was"


def test_buffered_text_is_returned_by_close() -> None:
    overlap = OverlapFilter("The sky is blue")
    assert overlap.feed("is") == ""
    assert overlap.close() == "is"
    assert overlap.close() == ""


def test_high_surrogate_is_not_compared() -> None:
    overlap = OverlapFilter("It is fine 😀")
    assert overlap.feed("fine \ud83d") == ""
    assert overlap.feed("\ude00") == ""
    assert overlap.feed("!") == "!"


@pytest.mark.parametrize("text", ["", "a", "aaaa"])
def test_without_a_text_before_nothing_is_buffered(text: str) -> None:
    overlap = OverlapFilter("")
    assert overlap.feed(text) == text
    assert overlap.close() == ""


def test_repetition_beyond_the_maximum_is_not_detected() -> None:
    before = "".join(chr(0x4E00 + number) for number in range(MAX_OVERLAP + 10))
    assert continued(before, before[-MAX_OVERLAP:] + "!", [7]) == "!"
    assert continued(before, before[-MAX_OVERLAP - 1 :] + "!", [7]) == before[-MAX_OVERLAP - 1 :] + "!"
