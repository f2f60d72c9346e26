"""Log events that somebody outside can cause are logged once an interval, with the number of the others."""

from __future__ import annotations

from gateway.streams.log_throttle import INTERVAL_S, MAX_KINDS, LogThrottle


def test_the_first_event_of_an_interval_is_logged_and_the_others_are_counted() -> None:
    throttle = LogThrottle()
    assert throttle.admit("expired", 0.0) == 0
    assert throttle.admit("expired", 1.0) is None
    assert throttle.admit("expired", INTERVAL_S - 0.1) is None
    assert throttle.admit("expired", INTERVAL_S) == 2
    assert throttle.admit("expired", 2 * INTERVAL_S) == 0


def test_kinds_are_independent() -> None:
    throttle = LogThrottle()
    assert throttle.admit("expired", 0.0) == 0
    assert throttle.admit("malformed", 0.0) == 0


def test_the_oldest_kind_is_forgotten_beyond_the_limit() -> None:
    throttle = LogThrottle()
    for kind in range(MAX_KINDS):
        assert throttle.admit(str(kind), 0.0) == 0
    assert throttle.admit("0", 1.0) is None
    assert throttle.admit("one more", 1.0) == 0
    assert throttle.admit("0", 1.0) == 0
    assert throttle.admit("63", 1.0) is None
