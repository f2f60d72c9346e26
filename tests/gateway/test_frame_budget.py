"""The rate limit of frames: few before the first message, then a token bucket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.frame_budget import MAX_BURST_FRAMES, MAX_FRAMES_BEFORE_MESSAGE, MAX_FRAMES_PER_S, FrameBudget


def test_frames_before_the_first_message_are_few_at_any_rate() -> None:
    budget = FrameBudget()
    assert all(budget.spend(1, 1000.0 * number) for number in range(MAX_FRAMES_BEFORE_MESSAGE))
    assert not budget.spend(1, 1e9)


def test_first_message_opens_the_whole_burst() -> None:
    budget = FrameBudget()
    budget.spend(MAX_FRAMES_BEFORE_MESSAGE, 0.0)
    budget.first_message(50.0)
    assert budget.spend(MAX_BURST_FRAMES, 50.0)
    assert not budget.spend(1, 50.0)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 300)), min_size=1, max_size=60))
def test_frames_within_the_limit_never_exceed_rate_and_burst(steps: list[tuple[float, int]]) -> None:
    budget = FrameBudget()
    budget.first_message(100.0)
    now, spent = 100.0, 0
    for pause, frames in steps:
        now += pause
        if not budget.spend(frames, now):
            return
        spent += frames
        assert spent <= MAX_BURST_FRAMES + MAX_FRAMES_PER_S * (now - 100.0) + 1e-6


def test_sustained_rate_is_served_forever() -> None:
    budget = FrameBudget()
    budget.first_message(0.0)
    assert all(budget.spend(1, number / MAX_FRAMES_PER_S) for number in range(10_000))
