"""The timer wheel compared with a list: each item is due once, never early and at most one step late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.timer_wheel import STEP_S, TimerWheel

TIMES = st.floats(0, 40, allow_nan=False)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 5), TIMES),
        st.tuples(st.just("drop"), st.integers(0, 5), st.just(0.0)),
        st.tuples(st.just("pass"), st.just(0), st.floats(0, 10)),
    ),
    max_size=60,
)


@given(STEPS)
def test_due_items_are_returned_once_and_in_time(steps: list[tuple[str, int, float]]) -> None:
    now = 1000.0
    wheel: TimerWheel[int] = TimerWheel(now)
    expected: dict[int, float] = {}
    for step, item, amount in steps:
        match step:
            case "set":
                wheel.set(item, now + amount)
                expected[item] = now + amount
            case "drop":
                wheel.remove(item)
                expected.pop(item, None)
            case _:
                now += amount
                due = wheel.due(now)
                assert wheel.now == now
                assert len(due) == len(set(due))
                assert all(expected.pop(each) <= now for each in due)
                assert all(late > now - STEP_S for late in expected.values())
    assert sorted(wheel.due(now + 100)) == sorted(expected)
