"""The circuit breaker: failures in a row open it, one successful call closes it."""

from __future__ import annotations

from itertools import count

import pytest

from workers.breaker import (
    FAILURES,
    FIRST_PAUSE_S,
    JITTER,
    MAX_PAUSE_S,
    MAX_USERS,
    MIN_USERS,
    RECENT_S,
    TRIAL_S,
    Breaker,
)
from workers.providers import ProviderError

NOW = 1000.0
FAULT = ProviderError("provider_error", "It failed.", retryable=True)


USERS = count()


def called(breaker: Breaker, now: float, user: str | None = None) -> None:
    breaker.called(user or f"u{next(USERS)}", now)


def failed(breaker: Breaker, error: ProviderError, now: float, user: str | None = None) -> float:
    return breaker.failed(error, user or f"u{next(USERS)}", now)


def opened(random: float = 0.0) -> Breaker:
    breaker = Breaker(lambda: random)
    for _ in range(FAILURES):
        failed(breaker, FAULT, NOW)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(lambda: 0.0)
    assert [failed(breaker, FAULT, NOW) for _ in range(FAILURES)] == [0.0] * (FAILURES - 1) + [FIRST_PAUSE_S]
    assert breaker.blocked_s(NOW) == FIRST_PAUSE_S
    assert breaker.blocked_s(NOW + FIRST_PAUSE_S) == 0.0


def test_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(lambda: 0.0)
    for _ in range(3):
        for _ in range(FAILURES - 1):
            assert failed(breaker, FAULT, NOW) == 0.0
        assert not breaker.succeeded()


@pytest.mark.parametrize("code", ["provider_bad_request", "empty", "generator_failed"])
def test_failure_of_one_request_says_nothing_about_the_target(code: str) -> None:
    breaker = Breaker(lambda: 0.0)
    error = ProviderError(code, "It failed.", retryable=True)
    assert not any(failed(breaker, error, NOW) for _ in range(3 * FAILURES))


def test_calls_that_began_before_it_opened_do_not_count() -> None:
    breaker = opened()
    assert [failed(breaker, FAULT, NOW + 0.1) for _ in range(300)] == [0.0] * 300
    assert breaker.blocked_s(NOW) == FIRST_PAUSE_S


def test_one_call_is_tried_after_the_pause() -> None:
    breaker = opened()
    called(breaker, NOW + FIRST_PAUSE_S)
    assert breaker.blocked_s(NOW + FIRST_PAUSE_S) == TRIAL_S
    # A further one, whose pause ended at the same time, does not prolong the trial.
    called(breaker, NOW + FIRST_PAUSE_S + 1)
    assert breaker.blocked_s(NOW + FIRST_PAUSE_S) == TRIAL_S


def test_trial_that_succeeds_closes_it() -> None:
    breaker = opened()
    called(breaker, NOW + FIRST_PAUSE_S)
    assert breaker.succeeded()
    assert breaker.blocked_s(NOW + FIRST_PAUSE_S) == 0.0
    assert failed(breaker, FAULT, NOW + FIRST_PAUSE_S) == 0.0


def test_trial_that_fails_opens_it_for_longer_each_time() -> None:
    breaker, now, pauses = opened(), NOW + FIRST_PAUSE_S, []
    for _ in range(12):
        called(breaker, now)
        pauses.append(failed(breaker, FAULT, now))
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
    called(breaker, NOW + 3)
    assert breaker.blocked_s(NOW + 3) == 0.0


@pytest.mark.parametrize(("others", "lately", "opens"), [(0, True, True), (1, True, False), (1, False, True)])
def test_one_user_opens_it_only_if_no_other_asks(*, others: int, lately: bool, opens: bool) -> None:
    breaker = Breaker(lambda: 0.0)
    for number in range(others):
        breaker.called(f"other{number}", NOW - (0.0 if lately else RECENT_S + 1))
    breaker.called("one", NOW)
    assert any(breaker.failed(FAULT, "one", NOW) for _ in range(3 * FAILURES)) is opens


def test_failures_of_a_few_users_suffice_however_many_ask() -> None:
    breaker = Breaker(lambda: 0.0)
    for number in range(10 * MAX_USERS):
        breaker.called(f"u{number}", NOW)
    pauses = [breaker.failed(FAULT, f"u{number % MIN_USERS}", NOW) for number in range(FAILURES)]
    assert pauses == [0.0] * (FAILURES - 1) + [FIRST_PAUSE_S]


def test_trial_of_a_user_whose_call_failed_before_does_not_prolong_the_pause() -> None:
    breaker, now = Breaker(lambda: 0.0), NOW
    for _ in range(FAILURES):
        pause_s = breaker.failed(FAULT, "one", now)
    for _ in range(5):
        now += pause_s
        breaker.called("one", now)
        pause_s = breaker.failed(FAULT, "one", now)
        assert pause_s == FIRST_PAUSE_S
    breaker.called("other", now + pause_s)
    assert breaker.failed(FAULT, "other", now + pause_s) == 2 * FIRST_PAUSE_S
    assert breaker.succeeded()


def test_only_so_many_failing_users_are_remembered() -> None:
    breaker = Breaker(lambda: 0.0)
    for number in range(3 * MAX_USERS):
        breaker.called(f"u{number}", NOW)
        breaker.failed(FAULT, f"u{number}", NOW)
    assert len(breaker._failing) <= MAX_USERS
    assert len(breaker._asked_at) <= MAX_USERS
