"""Admission control compared with a model, and the time in which many clients are accepted that obey retry times."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import (
    BURST_S,
    KEPT_S,
    MAX_ADDRESSES,
    MAX_RETRY_S,
    RESERVED_SHARE,
    RETRY_ELSEWHERE_S,
    RETRY_WHEN_FULL_S,
    Admission,
    Rejection,
)
from gateway.connections import MAX_PER_ADDRESS

ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "127.0.0.1", "::1", "127.evil"])
CHANCE = 0.5


def admission(most: int = 1000, most_per_address: int | None = None, rate: float = 0.0) -> Admission:
    return Admission(most, most_per_address, rate, lambda: CHANCE)


def rejected(admission: Admission, address: str = "10.0.0.1", now: float = 0.0) -> Rejection:
    rejection = admission.accept(address, now)
    assert rejection is not None
    return rejection


@given(
    st.integers(0, 12),
    st.one_of(st.none(), st.integers(1, 6)),
    st.lists(st.tuples(st.booleans(), ADDRESSES), max_size=80),
)
def test_connection_limits_hold_in_any_sequence(most: int, each: int | None, steps: list[tuple[bool, str]]) -> None:
    control = admission(most, each)
    inside: Counter[str] = Counter()
    for comes, address in steps:
        if comes:
            crowded = each is not None and inside[address] >= each
            full = inside.total() >= most
            rejection = control.accept(address, 0.0)
            assert (rejection is None) == (not full and not crowded)
            if rejection is None:
                inside[address] += 1
            else:
                assert rejection.address_full == crowded
                assert RETRY_WHEN_FULL_S / 2 <= rejection.retry_after < RETRY_WHEN_FULL_S
        elif inside[address]:
            control.release(address)
            inside[address] -= 1


def test_address_limit_does_not_apply_to_loopback() -> None:
    control = admission(most=5000)
    for _ in range(MAX_PER_ADDRESS):
        assert control.accept("10.0.0.1", 0.0) is None
        for local in ("127.0.0.1", "::1"):
            assert control.accept(local, 0.0) is control.accept(local, 0.0) is None
    assert rejected(control).address_full
    assert control.accept("10.0.0.2", 0.0) is None
    control.release("10.0.0.1")
    assert control.accept("10.0.0.1", 0.0) is None


def test_closed_admission_rejects_all() -> None:
    control = admission()
    assert control.accept("10.0.0.1", 0.0) is None
    control.close()
    rejection = rejected(control, "10.0.0.2")
    assert rejection == Rejection("this gateway is shutting down", RETRY_ELSEWHERE_S * CHANCE, shutting_down=True)
    control.release("10.0.0.1")


@given(st.floats(1, 2000), st.lists(st.floats(0, 2), min_size=1, max_size=100), st.integers(1, 40))
def test_accepted_connections_never_exceed_rate_and_burst(rate: float, pauses: list[float], together: int) -> None:
    """In any interval of time."""
    control = admission(10**9, None, rate)
    now, accepted = 5000.0, deque[float]()
    for pause in pauses:
        now += pause
        accepted.extend(
            now for _ in range(together) if control.accept("10.0.0.1" if pause else "10.0.0.2", now) is None
        )
    for first, begin in enumerate(accepted):
        if first and accepted[first - 1] == begin:
            continue
        for last in range(first, len(accepted)):
            stretch = accepted[last] - begin
            assert last - first + 1 <= rate * (BURST_S + KEPT_S + stretch) + 1e-6


@given(st.integers(1, 3000), st.integers(20, 1000), st.booleans(), st.floats(0, 1))
def test_clients_that_obey_retry_times_are_accepted_in_least_time(
    count: int, rate: int, whole: bool, spread: float
) -> None:
    """The last client is accepted once the reserved share of the rate allows it.

    That holds for retry times in fractions and, as in `Retry-After`, in whole seconds. Clients that arrive at the same
    moment are rejected at most once.
    """
    control = admission(10**9, 10**9, rate)
    arrivals = [(100.0 + spread * number / count, number) for number in range(count)]
    tries: Counter[int] = Counter()
    last = 100.0
    waits_at_most = MAX_RETRY_S * 0.9
    if count / rate / RESERVED_SHARE > waits_at_most:
        count = int(waits_at_most * rate * RESERVED_SHARE)
        arrivals = arrivals[:count]
    while arrivals:
        now, client = heapq.heappop(arrivals)
        tries[client] += 1
        rejection = control.accept("10.0.0.1", now)
        if rejection is None:
            last = now
        else:
            assert rejection.retry_after > 0
            assert not rejection.address_full
            wait = math.ceil(rejection.retry_after) if whole else rejection.retry_after
            heapq.heappush(arrivals, (now + wait, client))
    assert last - 100.0 <= spread + count / rate / RESERVED_SHARE + 2
    assert spread or max(tries.values()) <= 2


def test_ten_thousand_clients_retry_within_ten_seconds() -> None:
    """At the default rate, with one process."""
    from gateway.cli.settings import Settings

    rate = Settings.model_fields["accepts"].default
    control = admission(10**9, None, rate)
    waits = [
        rejection.retry_after for _ in range(10_000) if (rejection := control.accept("127.0.0.1", 50.0)) is not None
    ]
    assert len(waits) == 10_000 - rate * BURST_S
    assert max(waits) <= 10.0


def test_flood_from_one_address_does_not_reject_others() -> None:
    """An address that connects and disconnects at three times the rate; another one connects twice a second."""
    control = admission(10_000, None, 200.0)
    now, accepted, retries = 100.0, 0, []
    for step in range(20 * 100):
        now += 0.01
        for _ in range(6):
            rejection = control.accept("203.0.113.9", now)
            if rejection is None:
                control.release("203.0.113.9")
                accepted += 1
            else:
                retries.append(rejection.retry_after)
        if step % 50 == 0:
            assert control.accept("198.51.100.1", now) is None
            control.release("198.51.100.1")
    # What others do not use is the flood's.
    assert accepted > 0.9 * 20 * 200
    assert max(retries) <= MAX_RETRY_S


@given(st.integers(1, 2000), st.integers(1, 300))
def test_retry_times_are_bounded_however_many_are_rejected(rate: int, addresses: int) -> None:
    control = admission(10**9, 10**9, rate)
    for number in range(5000):
        rejection = control.accept(f"10.0.{number % addresses // 250}.{number % 250}", 100.0)
        assert rejection is None or 0 < rejection.retry_after <= MAX_RETRY_S


def test_rates_of_addresses_are_kept_for_a_bounded_number() -> None:
    control = admission(10**9, 10**9, 10)
    assert control.accept("10.0.0.1", 0.0) is None
    for number in range(MAX_ADDRESSES + 10):
        control.accept(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(control._rates) == MAX_ADDRESSES


def test_address_limit_is_reported_before_the_total() -> None:
    control = admission(2, 2)
    assert control.accept("10.0.0.1", 0.0) is None
    assert control.accept("10.0.0.1", 0.0) is None
    assert rejected(control, "10.0.0.1").address_full
    assert not rejected(control, "10.0.0.2").address_full


def test_zero_rate_is_no_rate_limit() -> None:
    control = admission(10**9)
    assert [control.accept("127.0.0.1", 0.0) for _ in range(5000)] == [None] * 5000
