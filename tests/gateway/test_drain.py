"""A drain is even: each client is notified once, then closed once, and the last one in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.drain import RECONNECT_WITHIN_S, DrainSchedule

BEGIN = 1000.0


@given(st.integers(0, 300), st.floats(0, 60), st.lists(st.floats(0, 5), max_size=60))
def test_each_client_is_notified_then_closed_once_within_the_window(
    count: int, window: float, steps: list[float]
) -> None:
    schedule = DrainSchedule(range(count), BEGIN, window)
    notified: dict[int, float] = {}
    closed: dict[int, float] = {}
    now = BEGIN
    for step in [0.0, *steps, window + 0.001]:
        now += step
        notified.update((client, now) for client in schedule.notify(now) if client not in notified)
        for client in schedule.close(now):
            assert client not in closed
            closed[client] = now
            assert notified[client] <= now
    assert list(notified) == list(closed) == list(range(count))
    assert schedule.over
    assert 0 <= schedule.hint_s <= RECONNECT_WITHIN_S
    assert schedule.hint_s <= window / 2


@given(st.integers(1, 2000), st.floats(1, 60))
def test_no_interval_of_the_drain_has_more_than_its_share(count: int, window: float) -> None:
    """Each hundredth of the window has its share of clients and at most two more."""
    schedule = DrainSchedule(range(count), BEGIN, window)
    over = window - schedule.hint_s
    for part in range(102):
        now = BEGIN + part * window / 100
        assert len(schedule.notify(now)) <= count * window / 100 / over + 2
        assert len(schedule.close(now)) <= count * window / 100 / over + 2
    assert schedule.over


def test_a_client_is_closed_only_after_the_hint_time() -> None:
    schedule = DrainSchedule(["a", "b"], BEGIN, 10.0)
    assert schedule.hint_s == RECONNECT_WITHIN_S
    assert schedule.notify(BEGIN - 1) == []
    assert schedule.notify(BEGIN) == ["a"]
    assert schedule.close(BEGIN + RECONNECT_WITHIN_S - 0.1) == []
    assert schedule.close(BEGIN + RECONNECT_WITHIN_S) == ["a"]
    assert not schedule.over
    assert schedule.notify(BEGIN + 5) == ["b"]
    assert schedule.close(BEGIN + 10) == ["b"]
    assert schedule.over


def test_an_empty_window_drains_all_clients_immediately() -> None:
    schedule = DrainSchedule(["a", "b"], BEGIN, 0.0)
    assert schedule.hint_s == 0
    assert schedule.notify(BEGIN) == schedule.close(BEGIN) == ["a", "b"]
    assert schedule.over


def test_a_drain_without_clients_is_over() -> None:
    assert DrainSchedule([], BEGIN, 10.0).over
