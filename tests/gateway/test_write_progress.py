"""Slow clients: one that reads is served for ever, one that does not is found within a window."""

from __future__ import annotations

import pytest

from gateway.write_progress import (
    MIN_BYTES_PER_S,
    SILENT_WITHIN_S,
    WRITE_WITHIN_S,
    UnreadData,
    WriteProgress,
    unreachable,
)

ENOUGH = int(MIN_BYTES_PER_S * WRITE_WITHIN_S)


@pytest.mark.parametrize(("taken", "stalled"), [(0, True), (ENOUGH - 1, True), (ENOUGH, False), (10 * ENOUGH, False)])
def test_client_must_take_a_number_of_bytes_in_each_window(taken: int, stalled: bool) -> None:
    progress = WriteProgress(20 * ENOUGH, now=100.0)
    assert progress.due == 100.0 + WRITE_WITHIN_S
    assert progress.stalled(20 * ENOUGH - taken, 100.0 + WRITE_WITHIN_S) is stalled


def test_client_is_not_judged_before_the_end_of_a_window() -> None:
    progress = WriteProgress(ENOUGH, now=0.0)
    assert not progress.stalled(ENOUGH, WRITE_WITHIN_S - 0.1)
    assert progress.stalled(ENOUGH, WRITE_WITHIN_S)


def test_steady_reader_is_served_and_found_when_it_stops() -> None:
    progress, unsent, now = WriteProgress(100 * ENOUGH, now=0.0), 100 * ENOUGH, 0.0
    for _ in range(99):
        now, unsent = progress.due, unsent - ENOUGH
        assert not progress.stalled(unsent, now)
    assert progress.stalled(unsent, progress.due)


def test_client_that_took_everything_is_not_stalled() -> None:
    """What was left is less than it would have to take."""
    assert not WriteProgress(10, now=0.0).stalled(0, WRITE_WITHIN_S)
    assert WriteProgress(10, now=0.0).stalled(1, WRITE_WITHIN_S)


def test_client_that_acknowledges_nothing_is_unreachable() -> None:
    assert not unreachable(0.0)
    assert not unreachable(SILENT_WITHIN_S - 0.1)
    assert unreachable(SILENT_WITHIN_S)


def test_client_that_takes_nothing_of_what_is_on_its_way_is_stalled() -> None:
    unread = UnreadData()
    assert not unread.stalled(10, 100, 0.0)
    assert not unread.stalled(10, 100, WRITE_WITHIN_S - 0.1)
    assert unread.stalled(10, 100, WRITE_WITHIN_S)


def test_client_that_takes_a_byte_or_everything_is_not_stalled() -> None:
    unread, now = UnreadData(), 0.0
    for acknowledged in range(10):
        assert not unread.stalled(10, acknowledged, now)
        now += WRITE_WITHIN_S
    for _ in range(10):
        assert not unread.stalled(0, 9, now)
        now += WRITE_WITHIN_S
