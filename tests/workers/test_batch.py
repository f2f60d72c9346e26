"""A batch: whatever the pieces and whenever they are taken, the text is the same, and it is taken in time.

A interval: beats follow each other in time, and come less often the busier the worker is.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.streams import log_entries
from workers.batch import BUSY_SHARE, IDLE_SHARE, MAX_CHARACTERS, MAX_INTERVAL_S, Batch, BatchingInterval

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = st.sampled_from([log_entries.TEXT, log_entries.REASONING])
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
    return log_entries.unescape(b"".join(entry[1:] for entry in entries if entry[:1] == kind))


@given(st.lists(st.tuples(KINDS, PIECES, st.booleans())))
def test_each_kind_of_text_is_what_its_pieces_are_together(pieces: list[tuple[bytes, str, bool]]) -> None:
    """Whatever comes between, and whenever they are taken."""
    batch = Batch(1_000_000)
    entries = []
    for kind, piece, taken in pieces:
        batch.add(kind, piece)
        if taken:
            entries += batch.take(1)
    entries += batch.take(1, last=True)
    for kind in (log_entries.TEXT, log_entries.REASONING):
        assert read(entries, kind) == whole("".join(piece for other, piece, _ in pieces if other == kind))


@given(st.text(), st.lists(st.integers(0, 60)), st.integers(1, 7))
def test_any_splitting_of_a_text_gives_that_text(text: str, cuts: list[int], every: int) -> None:
    units = halved(text)
    places = [0, *sorted(cuts), len(units)]
    batch = Batch(1_000_000)
    entries = []
    for number, (begin, end) in enumerate(pairwise(places)):
        batch.add(log_entries.TEXT, units[begin:end])
        if number % every == 0:
            entries += batch.take(1)
    entries += batch.take(1, last=True)
    assert read(entries, log_entries.TEXT) == text


def test_half_a_pair_waits_for_its_other_half() -> None:
    batch = Batch(100)
    batch.add(log_entries.TEXT, "a\ud83d")
    assert batch.take(1) == [b"Ta"]
    batch.add(log_entries.REASONING, "hm")
    batch.add(log_entries.TEXT, "\ude00b")
    assert batch.take(1) == [b"Rhm", "T😀b".encode()]


@pytest.mark.parametrize("kind", [log_entries.TEXT, log_entries.REASONING])
def test_half_a_pair_waits_no_longer_than_there_is_something_to_wait_for(kind: bytes) -> None:
    batch = Batch(100)
    batch.add(kind, "\ud83d")
    assert batch.empty
    assert not batch.due(1)
    assert batch.take(1) == []
    assert batch.take(1, last=True) == [kind + "\N{REPLACEMENT CHARACTER}".encode()]
    assert batch.take(1, last=True) == []


def test_kinds_keep_their_order() -> None:
    batch = Batch(100)
    for kind, piece in ((b"R", "1"), (b"R", "2"), (b"T", "3"), (b"R", "4"), (b"T", "5"), (b"T", ""), (b"T", "6")):
        batch.add(kind, piece)
    assert batch.take(1) == [b"R12", b"T3", b"R4", b"T56"]


def test_the_first_piece_is_due_at_once_and_the_next_in_the_next_beat() -> None:
    batch = Batch(100)
    assert not batch.due(7)
    batch.add(log_entries.TEXT, "a")
    assert batch.due(7)
    assert batch.take(7) == [b"Ta"]
    batch.add(log_entries.TEXT, "b")
    batch.add(log_entries.TEXT, "c")
    assert not batch.due(7)
    assert batch.due(8)
    assert batch.take(8) == [b"Tbc"]


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=2))))
def test_pieces_are_due_in_every_beat_but_the_one_in_which_some_were_taken(steps: list[tuple[bool, str]]) -> None:
    batch = Batch(1_000_000)
    beat, taken_in = 1, 0
    for another, piece in steps:
        beat += another
        batch.add(log_entries.TEXT, piece)
        assert batch.due(beat) is (not batch.empty and taken_in != beat)
        if batch.due(beat):
            assert batch.take(beat) != []
            taken_in = beat


@given(st.floats(0, 1), st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1.5))))
def test_beats_follow_each_other_by_a_window(least: float, steps: list[tuple[float, float]]) -> None:
    interval = BatchingInterval(least)
    now, number, ends_at = 0.0, 0, interval.ends_at
    for pause, busy in steps:
        now += pause
        interval.adapt(busy)
        if now < ends_at:
            assert interval.tick_at(now) == number
        else:
            assert interval.tick_at(now) == number + 1
            number, ends_at = number + 1, now + interval.seconds
        assert interval.ends_at == ends_at


def test_a_beat_begins_when_it_is_told_to() -> None:
    """A timer that is early by less than a millisecond is the beat, or there would be a second one right after it."""
    interval = BatchingInterval(0.005)
    first = interval.tick_at(10.0)
    assert interval.ends_at == 10.005
    assert interval.start_tick(10.0049) == first + 1
    assert interval.tick_at(10.005) == first + 1
    assert interval.ends_at == 10.0049 + 0.005


def test_after_a_silence_there_is_another_beat() -> None:
    interval = BatchingInterval(0.005)
    first = interval.tick_at(10.0)
    assert interval.tick_at(10.004) == first
    assert interval.tick_at(99.0) == first + 1


@given(st.floats(0, 1), st.lists(st.floats(0, 2)))
def test_a_window_is_never_narrower_than_it_is_set_nor_wider_than_a_person_bears(
    least: float, shares: list[float]
) -> None:
    interval = BatchingInterval(least)
    for busy in shares:
        before = interval.seconds
        interval.adapt(busy)
        assert least <= interval.seconds <= max(least, MAX_INTERVAL_S)
        if busy > BUSY_SHARE:
            assert interval.seconds >= before
        elif busy < IDLE_SHARE:
            assert interval.seconds <= before
        else:
            assert interval.seconds == before


@given(
    least=st.sampled_from([0.001, 0.005, 0.005, 0.025, 0.2]),
    before=st.floats(0, 4),
    streams=st.integers(1, 5000),
    rate=st.floats(1, 1000),
    each=st.floats(1e-6, 50e-6),
    turn=st.floats(10e-6, 500e-6),
)
def test_a_window_comes_to_rest_wherever_it_began(
    least: float, before: float, streams: int, rate: float, each: float, turn: float
) -> None:
    """A worker's cost: so much for each token, and so much for each turn of a stream that has any."""

    def busy() -> float:
        turns = min(rate, 1 / interval.seconds) if interval.seconds else rate
        return min(1.0, streams * (rate * each + turns * turn))

    interval = BatchingInterval(least)
    for _ in range(200):
        interval.adapt(before)
    for _ in range(80):
        interval.adapt(busy())
    rest = interval.seconds
    interval.adapt(busy())
    assert interval.seconds == rest
    # Where it gathers more than it has to, it would be busy without.
    if rest > least:
        interval.seconds = max(rest / 2, least)
        assert busy() >= IDLE_SHARE


@given(st.lists(PIECES), st.integers(0, 20), st.booleans())
@example(["é"], 1, False)
@example(["ab", "c"], 2, False)
@example(["\ud83d"], 2, False)
def test_an_answer_is_never_longer_than_it_may_be_and_what_there_is_of_it_is_its_beginning(
    pieces: list[str], longest: int, early: bool
) -> None:
    batch = Batch(longest)
    entries = []
    for piece in pieces:
        was_full = batch.full
        batch.add(log_entries.TEXT, piece)
        taken = batch.take(1) if early else []
        entries += taken
        assert not (was_full and taken)
    entries += batch.take(1, last=True)
    text, all_of_it = read(entries, log_entries.TEXT), whole("".join(pieces))
    assert len(text.encode()) <= longest
    assert all_of_it.startswith(text)
    assert batch.full is (len(all_of_it.encode()) >= longest)
    assert text == all_of_it or batch.full


def test_text_and_reasoning_share_what_room_there_is() -> None:
    batch = Batch(4)
    batch.add(log_entries.REASONING, "abc")
    assert batch.size == 3
    batch.add(log_entries.TEXT, "de")
    assert batch.full
    assert batch.size == 4
    batch.add(log_entries.REASONING, "f")
    assert batch.take(1) == [b"Rabc", b"Td"]


@given(st.sampled_from(["a", "\x00", "😀", '"']), st.integers(0, 3 * MAX_CHARACTERS + 1))
def test_an_entry_is_never_large(character: str, count: int) -> None:
    batch = Batch(1_000_000)
    batch.add(log_entries.TEXT, character * count)
    entries = batch.take(1)
    assert len(entries) == -(-count // MAX_CHARACTERS)
    assert all(1 < len(entry) < 25_000 and b"\n" not in entry for entry in entries)
    assert read(entries, log_entries.TEXT) == character * count
