"""A batch: whatever the pieces and whenever they are taken, the text is the same, and it is taken in time."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.streams import events
from workers.batch import MOST_CHARACTERS, Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW = 0.25
KINDS = st.sampled_from([events.TEXT, events.REASONING])
UNITS = st.sampled_from(["a", "é", "語", '"', "\n", "\x00", "\ud83d", "\ude00", "\ud800", "\udfff", "😀"])
PIECES = st.text(st.characters(exclude_categories=())) | st.lists(UNITS).map("".join)


def whole(text: str) -> str:
    """What is to be read of a text: pairs are joined, and what remains of surrogates has no UTF-8."""
    joined = re.sub(
        "([\ud800-\udbff])([\udc00-\udfff])",
        lambda pair: chr(0x10000 + ((ord(pair[1]) - 0xD800) << 10) + ord(pair[2]) - 0xDC00),
        text,
    )
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", joined)


def halved(text: str) -> str:
    """The text as a provider that counts in UTF-16 has it: a character of two units is two."""
    units = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(int.from_bytes(units[place : place + 2], "little")) for place in range(0, len(units), 2))


def read(entries: Sequence[bytes], kind: bytes) -> str:
    return events.unescape(b"".join(entry[1:] for entry in entries if entry[:1] == kind))


@given(st.lists(st.tuples(KINDS, PIECES, st.booleans())))
def test_each_kind_of_text_is_what_its_pieces_are_together(pieces: list[tuple[bytes, str, bool]]) -> None:
    """Whatever comes between, and whenever they are taken."""
    batch = Batch(WINDOW, 1_000_000)
    entries = []
    for kind, piece, taken in pieces:
        batch.add(kind, piece, 0.0)
        if taken:
            entries += batch.take(0.0)
    entries += batch.take(0.0, last=True)
    for kind in (events.TEXT, events.REASONING):
        assert read(entries, kind) == whole("".join(piece for other, piece, _ in pieces if other == kind))


@given(st.text(), st.lists(st.integers(0, 60)), st.integers(1, 7))
def test_any_splitting_of_a_text_gives_that_text(text: str, cuts: list[int], every: int) -> None:
    units = halved(text)
    places = [0, *sorted(cuts), len(units)]
    batch = Batch(WINDOW, 1_000_000)
    entries = []
    for number, (begin, end) in enumerate(pairwise(places)):
        batch.add(events.TEXT, units[begin:end], 0.0)
        if number % every == 0:
            entries += batch.take(0.0)
    entries += batch.take(0.0, last=True)
    assert read(entries, events.TEXT) == text


def test_half_a_pair_waits_for_its_other_half() -> None:
    batch = Batch(WINDOW, 100)
    batch.add(events.TEXT, "a\ud83d", 0.0)
    assert batch.take(0.0) == [b"Ta"]
    batch.add(events.REASONING, "hm", 0.0)
    batch.add(events.TEXT, "\ude00b", 0.0)
    assert batch.take(0.0) == [b"Rhm", "T😀b".encode()]


@pytest.mark.parametrize("kind", [events.TEXT, events.REASONING])
def test_half_a_pair_waits_no_longer_than_there_is_something_to_wait_for(kind: bytes) -> None:
    batch = Batch(WINDOW, 100)
    batch.add(kind, "\ud83d", 0.0)
    assert batch.due() is None
    assert batch.take(0.0) == []
    assert batch.take(0.0, last=True) == [kind + "\N{REPLACEMENT CHARACTER}".encode()]
    assert batch.take(0.0, last=True) == []


def test_kinds_keep_their_order() -> None:
    batch = Batch(WINDOW, 100)
    for kind, piece in ((b"R", "1"), (b"R", "2"), (b"T", "3"), (b"R", "4"), (b"T", "5"), (b"T", ""), (b"T", "6")):
        batch.add(kind, piece, 0.0)
    assert batch.take(0.0) == [b"R12", b"T3", b"R4", b"T56"]


def test_the_first_piece_is_due_at_once_and_the_next_when_the_window_is_over() -> None:
    batch = Batch(WINDOW, 100)
    assert batch.due() is None
    batch.add(events.TEXT, "a", 10.0)
    assert batch.due() == 10.0
    batch.take(10.0)
    assert batch.due() is None
    batch.add(events.TEXT, "b", 10.1)
    batch.add(events.TEXT, "c", 10.2)
    assert batch.due() == 10.0 + WINDOW
    assert batch.take(10.0 + WINDOW) == [b"Tbc"]


def test_a_piece_that_comes_after_a_silence_is_due_at_once() -> None:
    batch = Batch(WINDOW, 100)
    batch.add(events.TEXT, "a", 10.0)
    batch.take(10.0)
    batch.add(events.TEXT, "b", 20.0)
    assert batch.due() == 20.0


@given(st.lists(st.tuples(st.integers(0, 8), st.text(max_size=3), st.integers(0, 8))))
def test_pieces_are_due_when_the_window_since_the_last_append_is_over(steps: list[tuple[int, str, int]]) -> None:
    """A slow store makes the window wider: what is due waits until the writer can take it."""
    batch = Batch(WINDOW, 1_000_000)
    now, taken_at, waiting_since = 0.0, None, None
    for pause, piece, late in steps:
        now += pause / 16
        due = batch.due()
        if due is not None and due + late / 16 <= now:
            assert batch.take(now) != []
            taken_at, waiting_since = now, None
        batch.add(events.TEXT, piece, now)
        if piece and waiting_since is None:
            waiting_since = now
        if waiting_since is None:
            assert batch.due() is None
        elif taken_at is None:
            assert batch.due() == waiting_since
        else:
            assert batch.due() == max(waiting_since, taken_at + WINDOW)


@given(st.lists(PIECES), st.integers(0, 20), st.booleans())
@example(["é"], 1, False)
@example(["ab", "c"], 2, False)
@example(["\ud83d"], 2, False)
def test_an_answer_is_never_longer_than_it_may_be_and_what_there_is_of_it_is_its_beginning(
    pieces: list[str], longest: int, early: bool
) -> None:
    batch = Batch(WINDOW, longest)
    entries = []
    for piece in pieces:
        was_full = batch.full
        batch.add(events.TEXT, piece, 0.0)
        taken = batch.take(0.0) if early else []
        entries += taken
        assert not (was_full and taken)
    entries += batch.take(0.0, last=True)
    text, all_of_it = read(entries, events.TEXT), whole("".join(pieces))
    assert len(text.encode()) <= longest
    assert all_of_it.startswith(text)
    assert batch.full is (len(all_of_it.encode()) >= longest)
    assert text == all_of_it or batch.full


def test_text_and_reasoning_share_what_room_there_is() -> None:
    batch = Batch(WINDOW, 4)
    batch.add(events.REASONING, "abc", 0.0)
    batch.add(events.TEXT, "de", 0.0)
    assert batch.full
    batch.add(events.REASONING, "f", 0.0)
    assert batch.take(0.0) == [b"Rabc", b"Td"]


@given(st.sampled_from(["a", "\x00", "😀", '"']), st.integers(0, 3 * MOST_CHARACTERS + 1))
def test_an_entry_is_never_large(character: str, count: int) -> None:
    batch = Batch(WINDOW, 1_000_000)
    batch.add(events.TEXT, character * count, 0.0)
    entries = batch.take(0.0)
    assert len(entries) == -(-count // MOST_CHARACTERS)
    assert all(1 < len(entry) < 25_000 and b"\n" not in entry for entry in entries)
    assert read(entries, events.TEXT) == character * count
