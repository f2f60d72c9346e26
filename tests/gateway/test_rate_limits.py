"""Rate limits of subjects: what a bucket admits, what its debts cost, and whose bucket a request uses."""

from __future__ import annotations

import pytest

from gateway.auth import ANONYMOUS, Identity
from gateway.rate_limits import BURST_S, MAX_RETRY_S, MAX_SUBJECTS, RateLimits, subject_of

RATE = 10.0
BURST = int(RATE * BURST_S)


def admitted(limits: RateLimits, subject: str | None, times: int, now: float = 0.0) -> int:
    """Return how many of so many requests at one moment are admitted."""
    return sum(limits.admit(subject, now) is None for _ in range(times))


def test_burst_is_admitted_and_the_next_request_refused() -> None:
    limits = RateLimits(RATE)
    assert admitted(limits, "ann", BURST) == BURST
    assert limits.admit("ann", 0.0) == pytest.approx(1 / RATE)
    assert limits.admit("bob", 0.0) is None


def test_refused_request_is_admitted_after_its_retry_time() -> None:
    limits = RateLimits(RATE)
    admitted(limits, "ann", BURST)
    retry_after = limits.admit("ann", 0.0)
    assert retry_after is not None
    assert limits.admit("ann", retry_after * 0.9) is not None
    assert limits.admit("ann", retry_after + 1e-9) is None


def test_bucket_refills_to_the_burst_and_not_beyond() -> None:
    limits = RateLimits(RATE)
    admitted(limits, "ann", BURST)
    assert admitted(limits, "ann", BURST, now=1.0) == int(RATE)
    assert admitted(limits, "ann", 2 * BURST, now=1e6) == BURST


def test_debt_is_paid_before_the_next_request() -> None:
    limits = RateLimits(RATE)
    assert limits.admit("ann", 0.0, units=5 * RATE) is None
    limits.spend("ann", 0.0, 10 * RATE)
    retry_after = limits.admit("ann", 0.0)
    assert retry_after is not None
    assert retry_after == pytest.approx(15.0 - BURST_S + 1 / RATE)
    assert limits.admit("ann", retry_after + 1e-9) is None


def test_retry_time_of_a_large_debt_is_bounded() -> None:
    limits = RateLimits(RATE)
    limits.spend("ann", 0.0, 1e9)
    assert limits.admit("ann", 0.0) == MAX_RETRY_S


@pytest.mark.parametrize(("rate", "subject"), [(0.0, "ann"), (RATE, None)])
def test_no_limit_admits_everything(rate: float, subject: str | None) -> None:
    limits = RateLimits(rate)
    limits.spend(subject, 0.0, 1e9)
    assert admitted(limits, subject, 10 * BURST) == 10 * BURST


def test_bucket_used_longest_ago_is_forgotten() -> None:
    limits = RateLimits(RATE)
    admitted(limits, "first", BURST)
    admitted(limits, "second", BURST)
    for number in range(MAX_SUBJECTS - 2):
        limits.spend(f"{number}", 0.0, 1.0)
    limits.spend("first", 0.0, 1.0)
    assert limits.admit("second", 0.0) is not None
    limits.spend("one more", 0.0, 1.0)
    assert limits.admit("second", 0.0) is None
    assert limits.admit("first", 0.0) is not None


def test_authenticated_requests_use_the_bucket_of_their_subject() -> None:
    ann, bob = Identity("ann", 0.0, ()), Identity("bob", 0.0, ())
    assert subject_of(ann, "192.0.2.1") == subject_of(ann, "127.0.0.1") != subject_of(bob, "192.0.2.1")
    long = subject_of(Identity("x" * 60_000, 0.0, ()), "")
    assert long is not None
    assert len(long) < 40


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
        ("", "127.evil", "192.0.2.1"),
    ],
)
def test_anonymous_requests_use_the_bucket_of_their_address(address: str, same: str, other: str) -> None:
    assert subject_of(ANONYMOUS, address) == subject_of(ANONYMOUS, same) != subject_of(ANONYMOUS, other)
    assert subject_of(ANONYMOUS, address) is not None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_anonymous_programs_of_this_machine_have_no_limit(address: str) -> None:
    assert subject_of(ANONYMOUS, address) is None
