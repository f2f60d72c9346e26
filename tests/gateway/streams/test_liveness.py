"""Liveness: whether a silent worker may be considered dead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams.liveness import (
    MIN_SLOW_S,
    RELEASED_MS,
    RELEASED_ONLY,
    StoreObserver,
    TakeOverRule,
    renewal_interval_s,
)

LEASES = st.floats(0.1, 3600)


@given(LEASES)
def test_two_renewals_may_fail_before_a_lease_expires(lease_s: float) -> None:
    assert 2 * renewal_interval_s(lease_s) < lease_s


@pytest.mark.parametrize(
    ("rule", "round_trip_s", "connected_s", "min_idle_ms"),
    [
        # Silence for a lease is evidence.
        (TakeOverRule(6.0), 0.01, 0.0, 6000),
        (TakeOverRule(6.0, 6.0), 0.01, 6.0, 6000),
        # Not at a server that this process has known for less than the minimum.
        (TakeOverRule(6.0, 6.0), 0.01, 5.9, RELEASED_MS),
        # Not while the store is slow: a third of the lease, but at least 0.2 s.
        (TakeOverRule(6.0), 2.0, 0.0, 6000),
        (TakeOverRule(6.0), 2.1, 0.0, RELEASED_MS),
        (TakeOverRule(0.3), MIN_SLOW_S, 0.0, 300),
        (TakeOverRule(0.3), MIN_SLOW_S + 0.01, 0.0, RELEASED_MS),
        # Never without a lease.
        (RELEASED_ONLY, 0.01, 1e9, RELEASED_MS),
    ],
)
def test_take_over_needs_a_reliable_store(
    rule: TakeOverRule, round_trip_s: float, connected_s: float, min_idle_ms: int
) -> None:
    assert rule.min_idle_ms(round_trip_s=round_trip_s, connected_s=connected_s) == min_idle_ms


@given(st.none() | LEASES, st.floats(0, 10), st.floats(0, 10))
def test_candidates_include_every_job_that_may_be_taken_over(
    lease_s: float | None, round_trip_s: float, connected_s: float
) -> None:
    rule = TakeOverRule(lease_s, 5.0)
    min_idle_ms = rule.min_idle_ms(round_trip_s=round_trip_s, connected_s=connected_s)
    assert rule.candidate_idle_ms <= min_idle_ms <= RELEASED_MS


def test_released_jobs_exceed_every_lease() -> None:
    assert TakeOverRule(3600.0).candidate_idle_ms < RELEASED_MS


def test_new_observer_considers_silence_as_evidence() -> None:
    assert StoreObserver(6.0).rule(0.0) == TakeOverRule(6.0, 6.0)


def test_failed_call_suspends_the_judgement_for_a_lease() -> None:
    observer = StoreObserver(6.0)
    observer.failed(100.0)
    assert observer.rule(100.0).lease_s is None
    assert observer.rule(106.0).lease_s is None
    assert observer.rule(106.1) == TakeOverRule(6.0, 6.0)


def test_outage_is_reported_once_at_its_start_and_end() -> None:
    observer = StoreObserver(6.0)
    assert observer.recovered(90.0) is None
    assert [observer.failed(now) for now in (100.0, 100.2, 101.0)] == [True, False, False]
    observer.answered(101.0, 101.1)
    assert observer.recovered(102.0) == 2.0
    assert observer.recovered(103.0) is None
    assert observer.failed(104.0)


@pytest.mark.parametrize(("elapsed_s", "reliable"), [(0.1, True), (2.0, True), (2.1, False)])
def test_slow_call_suspends_the_judgement(elapsed_s: float, reliable: bool) -> None:
    observer = StoreObserver(6.0)
    observer.answered(100.0, 100.0 + elapsed_s)
    assert (observer.rule(100.0 + elapsed_s).lease_s is not None) is reliable
    observer.answered(107.0, 107.1)
    assert observer.rule(110.0).lease_s is not None
