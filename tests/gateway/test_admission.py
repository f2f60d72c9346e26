"""Who is let in, against a model that counts; and a storm that obeys the hints gets through as the rate allows."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import (
    BURST_S,
    MAX_PER_ADDRESS,
    RESERVED_SHARE,
    RETRY_ELSEWHERE_S,
    RETRY_WHEN_FULL_S,
    Admission,
    Rejection,
)

ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "127.0.0.1", "::1", ""])
CHANCE = 0.5


def admission(most: int = 1000, most_per_address: int | None = None, rate: float = 0.0) -> Admission:
    return Admission(most, most_per_address, rate, lambda: CHANCE)


def refused(admission: Admission, address: str = "10.0.0.1", now: float = 0.0) -> Rejection:
    refusal = admission.accept(address, now)
    assert refusal is not None
    return refusal


@given(
    st.integers(0, 12),
    st.one_of(st.none(), st.integers(1, 6)),
    st.lists(st.tuples(st.booleans(), ADDRESSES), max_size=80),
)
def test_no_more_than_so_many_are_open(most: int, each: int | None, steps: list[tuple[bool, str]]) -> None:
    door = admission(most, each)
    inside: Counter[str] = Counter()
    for comes, address in steps:
        if comes:
            crowded = each is not None and inside[address] >= each
            full = inside.total() >= most
            refusal = door.accept(address, 0.0)
            assert (refusal is None) == (not full and not crowded)
            if refusal is None:
                inside[address] += 1
            else:
                assert refusal.address_full == (crowded and not full)
                assert RETRY_WHEN_FULL_S / 2 <= refusal.retry_after < RETRY_WHEN_FULL_S
        elif inside[address]:
            door.release(address)
            inside[address] -= 1


def test_one_address_has_its_bound_unless_it_is_this_machine() -> None:
    door = admission(most=5000)
    for _ in range(MAX_PER_ADDRESS):
        assert door.accept("10.0.0.1", 0.0) is None
        for local in ("127.0.0.1", "::1", ""):
            assert door.accept(local, 0.0) is door.accept(local, 0.0) is None
    assert refused(door).address_full
    assert door.accept("10.0.0.2", 0.0) is None
    door.release("10.0.0.1")
    assert door.accept("10.0.0.1", 0.0) is None


def test_nobody_is_let_in_by_a_gateway_that_leaves() -> None:
    door = admission()
    assert door.accept("10.0.0.1", 0.0) is None
    door.close()
    refusal = refused(door, "10.0.0.2")
    assert refusal == Rejection("this gateway is shutting down", RETRY_ELSEWHERE_S * CHANCE, shutting_down=True)
    door.release("10.0.0.1")


@given(st.floats(1, 2000), st.lists(st.floats(0, 2), min_size=1, max_size=100), st.integers(1, 40))
def test_never_more_than_the_rate_and_one_burst(rate: float, pauses: list[float], together: int) -> None:
    """In every stretch of time, whenever it begins."""
    door = admission(10**9, None, rate)
    now, entered = 5000.0, deque[float]()
    for pause in pauses:
        now += pause
        entered.extend(now for _ in range(together) if door.accept("10.0.0.1" if pause else "", now) is None)
    for first, begin in enumerate(entered):
        if first and entered[first - 1] == begin:
            continue
        for last in range(first, len(entered)):
            stretch = entered[last] - begin
            assert last - first + 1 <= rate * (BURST_S + stretch) + 1e-6


@given(st.integers(1, 3000), st.integers(20, 1000), st.booleans(), st.floats(0, 1))
def test_a_storm_that_obeys_is_through_in_the_least_time(count: int, rate: int, whole: bool, spread: float) -> None:
    """Whether the hints are obeyed to the fraction or in whole seconds, as `Retry-After` has them: the last one is in
    when the promised share of the rate has let it in. Of those who come at one moment nobody is refused twice.
    """
    door = admission(10**9, 10**9, rate)
    arrivals = [(100.0 + spread * number / count, number) for number in range(count)]
    tries: Counter[int] = Counter()
    last = 100.0
    while arrivals:
        now, client = heapq.heappop(arrivals)
        tries[client] += 1
        refusal = door.accept("10.0.0.1", now)
        if refusal is None:
            last = now
        else:
            assert refusal.retry_after > 0
            assert not refusal.address_full
            wait = math.ceil(refusal.retry_after) if whole else refusal.retry_after
            heapq.heappush(arrivals, (now + wait, client))
    assert last - 100.0 <= spread + count / rate / RESERVED_SHARE + 2
    assert spread or max(tries.values()) <= 2


def test_ten_thousand_at_once_are_in_within_ten_seconds() -> None:
    """At the rate that is the default, one process alone."""
    from gateway.cli.settings import Settings

    rate = Settings.model_fields["accepts"].default
    door = admission(10**9, None, rate)
    waits = [refusal.retry_after for _ in range(10_000) if (refusal := door.accept("127.0.0.1", 50.0)) is not None]
    assert len(waits) == 10_000 - rate * BURST_S
    assert max(waits) <= 10.0


def test_without_a_rate_all_may_come_at_once() -> None:
    door = admission(10**9)
    assert [door.accept("127.0.0.1", 0.0) for _ in range(5000)] == [None] * 5000
