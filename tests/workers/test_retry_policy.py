"""The retry policy: which failed provider calls are repeated, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.providers import ProviderError
from workers.retry_policy import FIRST_PAUSE_S, JITTER, MAX_PAUSE_S, MIN_PAUSE_S, RetryPolicy


def error(*, retryable: bool = True, retry_after: float | None = None) -> ProviderError:
    return ProviderError("provider_error", "It failed.", retryable=retryable, retry_after=retry_after)


def policy(timeout_s: float = 60.0, random: float = 0.0) -> RetryPolicy:
    return RetryPolicy(timeout_s, 1000.0, lambda: random)


def test_pauses_double_up_to_a_maximum() -> None:
    retries = policy()
    pauses = [retries.pause_s(error(), 1000.0, received=False) for _ in range(6)]
    assert pauses == [FIRST_PAUSE_S, 2.0, 4.0, MAX_PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S]


def test_retry_after_of_the_provider_replaces_the_backoff() -> None:
    retries = policy()
    assert retries.pause_s(error(retry_after=20.0), 1000.0, received=False) == 20.0
    assert retries.pause_s(error(retry_after=MIN_PAUSE_S), 1000.0, received=False) == MIN_PAUSE_S
    # Each failure counts for the backoff.
    assert retries.pause_s(error(), 1000.0, received=False) == 4.0


def test_thousands_of_failures_with_the_shortest_pause_are_counted_without_an_overflow() -> None:
    retries = policy()
    for _ in range(2000):
        assert retries.pause_s(error(retry_after=0.0), 1000.0, received=False) == MIN_PAUSE_S
    assert retries.pause_s(error(), 1000.0, received=False) == MAX_PAUSE_S


@given(st.floats(0, 1), st.floats(0, 30))
def test_jitter_only_lengthens_a_pause(random: float, retry_after: float) -> None:
    pause_s = policy(random=random).pause_s(error(retry_after=retry_after), 1000.0, received=False)
    assert pause_s is not None
    asked = max(retry_after, MIN_PAUSE_S)
    assert asked <= pause_s <= asked * (1 + JITTER)


@pytest.mark.parametrize(
    ("failure", "received"),
    [(error(), True), (error(retryable=False), False), (error(retryable=False, retry_after=1.0), False)],
    ids=["after the first token", "not retryable", "not retryable despite Retry-After"],
)
def test_call_is_not_repeated(failure: ProviderError, received: bool) -> None:
    assert policy().pause_s(failure, 1000.0, received=received) is None


@pytest.mark.parametrize(("retry_after", "repeated"), [(50.0, True), (50.1, False)])
def test_no_call_starts_after_the_timeout(retry_after: float, repeated: bool) -> None:
    pause_s = policy(60.0).pause_s(error(retry_after=retry_after), 1010.0, received=False)
    assert (pause_s is not None) is repeated


def test_timeout_of_zero_permits_no_retry() -> None:
    assert policy(0.0).pause_s(error(), 1000.0, received=False) is None
