"""The circuit breaker: failures in a row open it, one successful call closes it."""

from __future__ import annotations

import pytest

from workers.breaker import FAILURES, FIRST_PAUSE_S, JITTER, MAX_PAUSE_S, TRIAL_S, Breaker
from workers.providers import ProviderError

NOW = 1000.0
FAULT = ProviderError("provider_error", "It failed.", retryable=True)


def opened(random: float = 0.0) -> Breaker:
    breaker = Breaker(lambda: random)
    for _ in range(FAILURES):
        breaker.failed(FAULT, NOW)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(lambda: 0.0)
    assert [breaker.failed(FAULT, NOW) for _ in range(FAILURES)] == [0.0] * (FAILURES - 1) + [FIRST_PAUSE_S]
    assert breaker.blocked_s(NOW) == FIRST_PAUSE_S
    assert breaker.blocked_s(NOW + FIRST_PAUSE_S) == 0.0


def test_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(lambda: 0.0)
    for _ in range(3):
        for _ in range(FAILURES - 1):
            assert breaker.failed(FAULT, NOW) == 0.0
        assert not breaker.succeeded()


@pytest.mark.parametrize("code", ["provider_bad_request", "empty", "generator_failed"])
def test_failure_of_one_request_says_nothing_about_the_target(code: str) -> None:
    breaker = Breaker(lambda: 0.0)
    error = ProviderError(code, "It failed.", retryable=True)
    assert not any(breaker.failed(error, NOW) for _ in range(3 * FAILURES))


def test_calls_that_began_before_it_opened_do_not_count() -> None:
    breaker = opened()
    assert [breaker.failed(FAULT, NOW + 0.1) for _ in range(300)] == [0.0] * 300
    assert breaker.blocked_s(NOW) == FIRST_PAUSE_S


def test_one_call_is_tried_after_the_pause() -> None:
    breaker = opened()
    breaker.called(NOW + FIRST_PAUSE_S)
    assert breaker.blocked_s(NOW + FIRST_PAUSE_S) == TRIAL_S
    # A further one, whose pause ended at the same time, does not prolong the trial.
    breaker.called(NOW + FIRST_PAUSE_S + 1)
    assert breaker.blocked_s(NOW + FIRST_PAUSE_S) == TRIAL_S


def test_trial_that_succeeds_closes_it() -> None:
    breaker = opened()
    breaker.called(NOW + FIRST_PAUSE_S)
    assert breaker.succeeded()
    assert breaker.blocked_s(NOW + FIRST_PAUSE_S) == 0.0
    assert breaker.failed(FAULT, NOW + FIRST_PAUSE_S) == 0.0


def test_trial_that_fails_opens_it_for_longer_each_time() -> None:
    breaker, now, pauses = opened(), NOW + FIRST_PAUSE_S, []
    for _ in range(12):
        breaker.called(now)
        pauses.append(breaker.failed(FAULT, now))
        now += pauses[-1]
    assert pauses[:3] == [2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses[-1] == MAX_PAUSE_S


def test_pauses_differ_at_random() -> None:
    assert opened(1.0).blocked_s(NOW) == FIRST_PAUSE_S * (1 + JITTER)


def test_other_processes_open_it() -> None:
    breaker = Breaker(lambda: 0.0)
    breaker.opened_elsewhere(NOW + 3)
    breaker.opened_elsewhere(NOW + 2)
    assert breaker.blocked_s(NOW) == 3.0
    # It did not fail here: no trial, and the next call is made.
    breaker.called(NOW + 3)
    assert breaker.blocked_s(NOW + 3) == 0.0
