"""A schedule is a pure function of its seed, and every fault that there is gets its turn."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from tests.chaos.faults import FAULTS as INJECTED
from tests.chaos.schedule import FAULTS, FAULTY, HABITS, PROVIDERS, Habit, draw


def test_the_same_seed_is_the_same_schedule() -> None:
    assert [draw(seed) for seed in range(100)] == [draw(seed) for seed in range(100)]
    assert draw(1) != draw(2)


def test_every_kind_is_drawn_and_can_be_done() -> None:
    drawn = Counter(fault.kind for seed in range(1000) for fault in draw(seed).faults)
    assert set(drawn) == set(FAULTS) == set(INJECTED)
    assert min(drawn.values()) >= 5
    assert set(PROVIDERS) == set(FAULTY)
    assert set(HABITS) == set(get_args(Habit))


def test_the_store_loses_something_once_at_the_most() -> None:
    for seed in range(500):
        assert sum(FAULTS[fault.kind].lossy for fault in draw(seed).faults) <= 1


def test_only_what_is_asked_for_goes_wrong() -> None:
    assert {fault.kind for seed in range(50) for fault in draw(seed, ("cut clients",)).faults} == {"cut clients"}
