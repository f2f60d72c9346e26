"""Batches: the text is independent of pieces and ticks, and pieces are due in time. The batching interval: ticks
follow each other, and load widens the interval.
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


def repaired(text: str) -> str:
    """Return the expected text: surrogate pairs are joined, lone surrogates replaced."""
    joined = re.sub(
        "([\ud800-\udbff])([\udc00-\udfff])",
        lambda pair: chr(0x10000 + ((ord(pair[1]) - 0xD800) << 10) + ord(pair[2]) - 0xDC00),
        text,
    )
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", joined)


def utf16_units(text: str) -> str:
    """Return the text in UTF-16 units, as some providers split it."""
    units = text.encode("utf-16-le", "surrogatepass")
    return "".join(
        chr(int.from_bytes(units[position : position + 2], "little")) for position in range(0, len(units), 2)
    )


def read(entries: Sequence[bytes], kind: bytes) -> str:
    return log_entries.unescape(b"".join(entry[1:] for entry in entries if entry[:1] == kind))


@given(st.lists(st.tuples(KINDS, PIECES, st.booleans())))
def test_text_of_each_kind_is_the_sum_of_its_pieces(pieces: list[tuple[bytes, str, bool]]) -> None:
    """Independent of other kinds in between and of the ticks."""
    batch = Batch(1_000_000)
    entries = []
    for kind, piece, taken in pieces:
        batch.add(kind, piece)
        if taken:
            entries += batch.take(1)
    entries += batch.take(1, last=True)
    for kind in (log_entries.TEXT, log_entries.REASONING):
        assert read(entries, kind) == repaired("".join(piece for other, piece, _ in pieces if other == kind))


@given(st.text(), st.lists(st.integers(0, 60)), st.integers(1, 7))
def test_text_is_independent_of_its_splitting(text: str, cuts: list[int], every: int) -> None:
    units = utf16_units(text)
    positions = [0, *sorted(cuts), len(units)]
    batch = Batch(1_000_000)
    entries = []
    for number, (begin, end) in enumerate(pairwise(positions)):
        batch.add(log_entries.TEXT, units[begin:end])
        if number % every == 0:
            entries += batch.take(1)
    entries += batch.take(1, last=True)
    assert read(entries, log_entries.TEXT) == text


def test_high_surrogate_waits_for_its_low_surrogate() -> None:
    batch = Batch(100)
    batch.add(log_entries.TEXT, "a\ud83d")
    assert batch.take(1) == [b"Ta"]
    batch.add(log_entries.REASONING, "hm")
    batch.add(log_entries.TEXT, "\ude00b")
    assert batch.take(1) == [b"Rhm", "T😀b".encode()]


@pytest.mark.parametrize("kind", [log_entries.TEXT, log_entries.REASONING])
def test_lone_surrogate_is_replaced_at_the_end(kind: bytes) -> None:
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


def test_first_piece_is_due_immediately_others_at_the_next_tick() -> None:
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
def test_pieces_are_due_once_per_tick(steps: list[tuple[bool, str]]) -> None:
    batch = Batch(1_000_000)
    tick, taken_at = 1, 0
    for another, piece in steps:
        tick += another
        batch.add(log_entries.TEXT, piece)
        assert batch.due(tick) is (not batch.empty and taken_at != tick)
        if batch.due(tick):
            assert batch.take(tick) != []
            taken_at = tick


@given(st.floats(0, 1), st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1.5))))
def test_ticks_are_one_interval_apart(min_s: float, steps: list[tuple[float, float]]) -> None:
    interval = BatchingInterval(min_s)
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


def test_tick_may_start_slightly_early() -> None:
    """A timer may fire up to a millisecond early; that is the tick, or a second one would follow immediately."""
    interval = BatchingInterval(0.005)
    first = interval.tick_at(10.0)
    assert interval.ends_at == 10.005
    assert interval.start_tick(10.0049) == first + 1
    assert interval.tick_at(10.005) == first + 1
    assert interval.ends_at == 10.0049 + 0.005


def test_next_tick_starts_after_a_silence() -> None:
    interval = BatchingInterval(0.005)
    first = interval.tick_at(10.0)
    assert interval.tick_at(10.004) == first
    assert interval.tick_at(99.0) == first + 1


@given(st.floats(0, 1), st.lists(st.floats(0, 2)))
def test_interval_stays_within_its_bounds(min_s: float, shares: list[float]) -> None:
    interval = BatchingInterval(min_s)
    for busy in shares:
        before = interval.seconds
        interval.adapt(busy)
        assert min_s <= interval.seconds <= max(min_s, MAX_INTERVAL_S)
        if busy > BUSY_SHARE:
            assert interval.seconds >= before
        elif busy < IDLE_SHARE:
            assert interval.seconds <= before
        else:
            assert interval.seconds == before


@given(
    min_s=st.sampled_from([0.001, 0.005, 0.005, 0.025, 0.2]),
    before=st.floats(0, 4),
    streams=st.integers(1, 5000),
    rate=st.floats(1, 1000),
    token_s=st.floats(1e-6, 50e-6),
    append_s=st.floats(10e-6, 500e-6),
)
def test_interval_converges_from_any_start(
    min_s: float, before: float, streams: int, rate: float, token_s: float, append_s: float
) -> None:
    """Model of the CPU cost: a part per token, and a part per append of a stream."""

    def cpu_share() -> float:
        appends = min(rate, 1 / interval.seconds) if interval.seconds else rate
        return min(1.0, streams * (rate * token_s + appends * append_s))

    interval = BatchingInterval(min_s)
    for _ in range(200):
        interval.adapt(before)
    for _ in range(80):
        interval.adapt(cpu_share())
    rest = interval.seconds
    interval.adapt(cpu_share())
    assert interval.seconds == rest
    # A wider interval than the minimum is justified by the load.
    if rest > min_s:
        interval.seconds = max(rest / 2, min_s)
        assert cpu_share() >= IDLE_SHARE


@given(st.lists(PIECES), st.integers(0, 20), st.booleans())
@example(["é"], 1, False)
@example(["ab", "c"], 2, False)
@example(["\ud83d"], 2, False)
def test_answer_is_cut_at_its_maximum_length(pieces: list[str], max_bytes: int, early: bool) -> None:
    batch = Batch(max_bytes)
    entries = []
    for piece in pieces:
        was_full = batch.full
        batch.add(log_entries.TEXT, piece)
        taken = batch.take(1) if early else []
        entries += taken
        assert not (was_full and taken)
    entries += batch.take(1, last=True)
    text, all_of_it = read(entries, log_entries.TEXT), repaired("".join(pieces))
    assert len(text.encode()) <= max_bytes
    assert all_of_it.startswith(text)
    assert batch.full is (len(all_of_it.encode()) >= max_bytes)
    assert text == all_of_it or batch.full


def test_text_and_reasoning_share_the_limit() -> None:
    batch = Batch(4)
    batch.add(log_entries.REASONING, "abc")
    assert batch.size == 3
    batch.add(log_entries.TEXT, "de")
    assert batch.full
    assert batch.size == 4
    batch.add(log_entries.REASONING, "f")
    assert batch.take(1) == [b"Rabc", b"Td"]


@given(st.sampled_from(["a", "\x00", "😀", '"']), st.integers(0, 3 * MAX_CHARACTERS + 1))
def test_entries_are_limited_in_size(character: str, count: int) -> None:
    batch = Batch(1_000_000)
    batch.add(log_entries.TEXT, character * count)
    entries = batch.take(1)
    assert len(entries) == -(-count // MAX_CHARACTERS)
    assert all(1 < len(entry) < 25_000 and b"\n" not in entry for entry in entries)
    assert read(entries, log_entries.TEXT) == character * count


def test_half_a_character_is_dropped_where_other_text_follows() -> None:
    batch = Batch(1_000)
    batch.add(log_entries.TEXT, "a\ud83d")
    batch.drop_half_character()
    batch.add(log_entries.TEXT, "b")
    assert batch.take(1, last=True) == [b"Tab"]
