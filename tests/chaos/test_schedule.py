"""A schedule is a pure function of its seed, and every kind of fault is drawn."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from tests.chaos.faults import FAULTS as INJECTORS
from tests.chaos.schedule import ACTIONS, FAULTS, FAULTY, PROVIDERS, ActionKind, draw


def test_same_seed_gives_same_schedule() -> None:
    assert [draw(seed) for seed in range(100)] == [draw(seed) for seed in range(100)]
    assert draw(1) != draw(2)


def test_every_fault_kind_is_drawn_and_has_an_injector() -> None:
    drawn = Counter(fault.kind for seed in range(1000) for fault in draw(seed).faults)
    assert set(drawn) == set(FAULTS) == set(INJECTORS)
    assert min(drawn.values()) >= 5
    assert set(PROVIDERS) == set(FAULTY)
    assert set(ACTIONS) == set(get_args(ActionKind))


def test_schedule_has_at_most_one_lossy_fault() -> None:
    for seed in range(500):
        assert sum(FAULTS[fault.kind].lossy for fault in draw(seed).faults) <= 1


def test_only_option_restricts_fault_kinds() -> None:
    assert {fault.kind for seed in range(50) for fault in draw(seed, ("cut clients",)).faults} == {"cut clients"}
