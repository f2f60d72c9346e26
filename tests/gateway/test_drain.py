"""Clients are sent away evenly, each once, told before it is closed, and the last one in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.drain import MOVE_WITHIN, DrainSchedule

BEGIN = 1000.0


@given(st.integers(0, 300), st.floats(0, 60), st.lists(st.floats(0, 5), max_size=60))
def test_each_is_told_once_and_then_closed_once_and_the_last_in_time(
    count: int, window: float, steps: list[float]
) -> None:
    departure = DrainSchedule(range(count), BEGIN, window)
    told: dict[int, float] = {}
    closed: dict[int, float] = {}
    now = BEGIN
    for step in [0.0, *steps, window + 0.001]:
        now += step
        told.update((client, now) for client in departure.tell(now) if client not in told)
        for client in departure.close(now):
            assert client not in closed
            closed[client] = now
            assert told[client] <= now
    assert list(told) == list(closed) == list(range(count))
    assert departure.over
    assert 0 <= departure.within <= MOVE_WITHIN
    assert departure.within <= window / 2


@given(st.integers(1, 2000), st.floats(1, 60))
def test_they_leave_one_after_the_other(count: int, window: float) -> None:
    """However finely the time is cut, no piece of it has more than its share, and one."""
    departure = DrainSchedule(range(count), BEGIN, window)
    over = window - departure.within
    for part in range(102):
        now = BEGIN + part * window / 100
        assert len(departure.tell(now)) <= count * window / 100 / over + 2
        assert len(departure.close(now)) <= count * window / 100 / over + 2
    assert departure.over


def test_nobody_is_closed_without_the_time_to_move() -> None:
    departure = DrainSchedule(["a", "b"], BEGIN, 10.0)
    assert departure.within == MOVE_WITHIN
    assert departure.tell(BEGIN - 1) == []
    assert departure.tell(BEGIN) == ["a"]
    assert departure.close(BEGIN + MOVE_WITHIN - 0.1) == []
    assert departure.close(BEGIN + MOVE_WITHIN) == ["a"]
    assert not departure.over
    assert departure.tell(BEGIN + 5) == ["b"]
    assert departure.close(BEGIN + 10) == ["b"]
    assert departure.over


def test_where_there_is_no_time_all_are_sent_away_at_once() -> None:
    departure = DrainSchedule(["a", "b"], BEGIN, 0.0)
    assert departure.within == 0
    assert departure.tell(BEGIN) == departure.close(BEGIN) == ["a", "b"]
    assert departure.over


def test_who_has_nobody_is_done() -> None:
    assert DrainSchedule([], BEGIN, 10.0).over
