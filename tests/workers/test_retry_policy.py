"""The retry policy: which target gets the next call of a response, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.providers import ProviderError
from workers.retry_policy import FIRST_PAUSE_S, JITTER, MAX_PAUSE_S, MIN_PAUSE_S, Budget, Call, RetryPolicy

NOW = 1000.0
FREE = [0.0, 0.0, 0.0]


def error(*, retryable: bool = True, retry_after: float | None = None) -> ProviderError:
    return ProviderError("provider_error", "It failed.", retryable=retryable, retry_after=retry_after)


def policy(
    targets: int = 1, seconds: float = 60.0, random: float = 0.0, calls: int = 99, tokens: int = 0
) -> RetryPolicy:
    made = RetryPolicy(targets, Budget(calls, seconds, tokens), NOW, lambda: random)
    assert made.first(NOW, FREE[:targets]) == Call(0, 0.0)
    return made


def pause_s(retries: RetryPolicy, failure: ProviderError, now: float = NOW, *, received: bool = False) -> float | None:
    """Return the pause of a policy with one target."""
    call = retries.next(failure, now, [0.0], received=received)
    return call.pause_s if call is not None else None


# One target


def test_pauses_double_up_to_a_maximum() -> None:
    retries = policy()
    pauses = [pause_s(retries, error()) for _ in range(6)]
    assert pauses == [FIRST_PAUSE_S, 2.0, 4.0, MAX_PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S]


def test_retry_after_of_the_provider_replaces_the_backoff() -> None:
    retries = policy()
    assert pause_s(retries, error(retry_after=20.0)) == 20.0
    assert pause_s(retries, error(retry_after=MIN_PAUSE_S)) == pytest.approx(MIN_PAUSE_S)
    # Each failure counts for the backoff.
    assert pause_s(retries, error()) == 4.0


def test_thousands_of_failures_with_the_shortest_pause_are_counted_without_an_overflow() -> None:
    retries = policy(calls=10_000)
    for _ in range(2000):
        assert pause_s(retries, error(retry_after=0.0)) == pytest.approx(MIN_PAUSE_S)
    assert pause_s(retries, error()) == MAX_PAUSE_S


@given(st.floats(0, 1), st.floats(0, 30))
def test_jitter_only_lengthens_a_pause(random: float, retry_after: float) -> None:
    pause = pause_s(policy(random=random), error(retry_after=retry_after))
    assert pause is not None
    asked = max(retry_after, MIN_PAUSE_S)
    assert asked - 1e-6 <= pause <= asked * (1 + JITTER) + 1e-6


def test_rejected_answers_return_spread_over_the_pause() -> None:
    """Of 300 that are told to wait for two seconds, at most 60 return within a quarter of a second."""
    pauses = [pause_s(policy(random=number / 300), error(retry_after=2.0)) for number in range(300)]
    assert max(sum(0 <= other - pause <= 0.25 for other in pauses if other) for pause in pauses if pause) <= 60


@pytest.mark.parametrize(
    ("failure", "received"),
    [(error(), True), (error(retryable=False), False), (error(retryable=False, retry_after=1.0), False)],
    ids=["after the first token", "not retryable", "not retryable despite Retry-After"],
)
def test_call_is_not_repeated(failure: ProviderError, received: bool) -> None:
    assert pause_s(policy(), failure, received=received) is None


@pytest.mark.parametrize(("retry_after", "repeated"), [(60.0, True), (60.1, False)])
def test_no_retry_starts_after_the_timeout(retry_after: float, repeated: bool) -> None:
    assert (pause_s(policy(seconds=60.0), error(retry_after=retry_after), 1010.0) is not None) is repeated


def test_timeout_of_zero_permits_no_retry() -> None:
    assert pause_s(policy(seconds=0.0), error()) is None


def test_time_counts_from_the_first_failure() -> None:
    retries = policy(seconds=60.0)
    assert retries.next(error(), NOW + 1000, FREE[:1], received=False) == Call(0, FIRST_PAUSE_S)
    assert retries.next(error(), NOW + 1061, FREE[:1], received=False) is None


def test_time_counts_again_from_a_failure_after_output() -> None:
    retries = policy(2, seconds=60.0)
    assert retries.next(error(), NOW, FREE[:2], received=True) == Call(1, 0.0)
    assert retries.next(error(), NOW + 1000, FREE[:2], received=True) == Call(0, 0.0)


def test_each_target_is_called_once_however_long_the_others_took() -> None:
    retries = policy(3, seconds=60.0)
    assert retries.next(error(), NOW, FREE, received=False) == Call(1, 0.0)
    assert retries.next(error(), NOW + 120, FREE, received=False) == Call(2, 0.0)
    assert retries.next(error(), NOW + 240, FREE, received=False) is None


def test_timeout_of_zero_permits_the_other_targets() -> None:
    retries = policy(2, seconds=0.0)
    assert retries.next(error(), NOW + 5, FREE[:2], received=False) == Call(1, 0.0)
    assert retries.next(error(), NOW + 9, FREE[:2], received=False) is None


def test_calls_are_limited() -> None:
    retries = policy(calls=3)
    assert pause_s(retries, error()) is not None
    assert pause_s(retries, error()) is not None
    assert pause_s(retries, error()) is None


@pytest.mark.parametrize(("limit", "used", "called"), [(0, 10**9, True), (100, 99, True), (100, 100, False)])
def test_tokens_of_failed_calls_are_limited(limit: int, used: int, called: bool) -> None:
    call = policy(tokens=limit).next(error(), NOW, [0.0], received=False, tokens=used)
    assert (call is not None) is called


# Several targets


@pytest.mark.parametrize("received", [False, True])
def test_next_target_is_called_at_once(*, received: bool) -> None:
    assert policy(3).next(error(), NOW, FREE, received=received) == Call(1, 0.0)


def test_targets_are_called_in_order_and_then_again_after_their_pauses() -> None:
    retries = policy(3)
    calls = [retries.next(error(), NOW, FREE, received=False) for _ in range(5)]
    assert calls == [Call(1, 0.0), Call(2, 0.0), Call(0, FIRST_PAUSE_S), Call(1, FIRST_PAUSE_S), Call(2, FIRST_PAUSE_S)]


def test_answer_goes_on_at_another_target_even_if_that_is_in_a_pause() -> None:
    retries = policy(2)
    assert retries.next(error(retry_after=5.0), NOW, FREE[:2], received=True) == Call(1, 0.0)
    assert retries.next(error(), NOW + 1, FREE[:2], received=True) == Call(0, 4.0)


def test_target_that_would_reject_the_request_again_is_not_called_again() -> None:
    retries = policy(2)
    assert retries.next(error(retryable=False), NOW, FREE[:2], received=False) == Call(1, 0.0)
    assert retries.next(error(), NOW, FREE[:2], received=False) == Call(1, FIRST_PAUSE_S)
    assert retries.retryable
    assert retries.next(error(retryable=False), NOW, FREE[:2], received=False) is None
    assert not retries.retryable


def test_target_with_an_open_breaker_is_passed_over() -> None:
    retries = RetryPolicy(3, Budget(99, 60.0, 0), NOW, lambda: 0.0)
    assert retries.first(NOW, [5.0, 0.0, 0.0]) == Call(1, 0.0)
    assert retries.next(error(), NOW, [5.0, 0.0, 5.0], received=False) == Call(1, FIRST_PAUSE_S)
    assert retries.next(error(), NOW, [5.0, 0.0, 6.0], received=True) == Call(0, 5.0)


def test_open_breakers_are_awaited_but_not_beyond_the_timeout() -> None:
    assert RetryPolicy(2, Budget(99, 60.0, 0), NOW, lambda: 0.0).first(NOW, [9.0, 4.0]) == Call(1, 4.0)
    assert RetryPolicy(2, Budget(99, 3.0, 0), NOW, lambda: 0.0).first(NOW, [9.0, 4.0]) == Call(0, 0.0)


def test_call_that_was_not_made_is_chosen_again_and_not_counted() -> None:
    retries = RetryPolicy(2, Budget(2, 60.0, 0), NOW, lambda: 0.0)
    assert retries.first(NOW, [4.0, 9.0]) == Call(0, 4.0)
    assert retries.again(NOW + 4, [7.0, 5.0]) == Call(1, 5.0)
    assert retries.again(NOW + 9, [2.0, 0.0]) == Call(1, 0.0)
    assert retries.next(error(), NOW + 9, [0.0, 0.0], received=False) == Call(0, 0.0)
    assert retries.again(NOW + 9, [99.0, 99.0]) is None
