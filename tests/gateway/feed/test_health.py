"""Subscription health and outage hysteresis."""

from __future__ import annotations

from gateway.feed.health import (
    MAX_STARVED_INTERVALS,
    RECOVERED_WITHIN_S,
    Outage,
    Recovery,
    StoreHealth,
    SubscriptionHealth,
)


def interval(health: SubscriptionHealth, *, messages: int = 0, compared: int = 0, differing: int = 0) -> bool:
    health.messages, health.compared, health.differing = messages, compared, differing
    return health.end_interval()


def test_starved_subscription_is_replaced_after_several_intervals() -> None:
    health = SubscriptionHealth()
    results = [interval(health, compared=2, differing=1) for _ in range(MAX_STARVED_INTERVALS)]
    assert results == [False] * (MAX_STARVED_INTERVALS - 1) + [True]


def test_interval_resets_its_counts() -> None:
    health = SubscriptionHealth()
    interval(health, messages=3, compared=2, differing=1)
    assert (health.messages, health.compared, health.differing) == (0, 0, 0)


def test_message_ends_starvation() -> None:
    health = SubscriptionHealth()
    for _ in range(5):
        for _ in range(MAX_STARVED_INTERVALS - 1):
            assert not interval(health, differing=1)
        assert health.starved
        # The difference may be an entry that was read before its message arrived.
        assert not interval(health, messages=1, differing=1)
        assert not health.starved


def test_comparison_without_difference_ends_starvation() -> None:
    health = SubscriptionHealth()
    interval(health, differing=1)
    interval(health, compared=4)
    assert not health.starved


def test_interval_without_comparison_changes_nothing() -> None:
    """During an outage of the store nothing is compared, which says nothing about the subscription."""
    health = SubscriptionHealth()
    interval(health, differing=1)
    interval(health)
    assert health.starved
    assert not interval(SubscriptionHealth())


def test_reset_forgets_starved_intervals() -> None:
    health = SubscriptionHealth()
    for _ in range(MAX_STARVED_INTERVALS):
        interval(health, differing=1)
    health.reset()
    assert not health.starved
    assert not interval(health, differing=1)


def test_outage_and_recovery_are_returned_once() -> None:
    health = StoreHealth()
    assert health.delayed(3, now=10.0) == Outage()
    assert health.delayed(3, now=12.0) is None
    assert health.is_unavailable(3)
    assert health.completed(3, took_s=0.1, now=14.5) == Recovery(after_s=4.5)
    assert health.completed(3, took_s=0.1, now=15.0) is None
    assert not health.is_unavailable(3)


def test_late_reply_does_not_end_outage() -> None:
    health = StoreHealth()
    health.delayed(3, now=10.0)
    assert health.completed(3, took_s=RECOVERED_WITHIN_S, now=14.0) is None
    assert health.is_unavailable(3)


def test_partitions_fail_independently() -> None:
    health = StoreHealth()
    health.delayed(3, now=10.0)
    assert not health.is_unavailable(4)
    assert health.completed(4, took_s=0.1, now=11.0) is None
    assert health.delayed(4, now=12.0) == Outage()
    assert health.completed(3, took_s=0.1, now=13.0) == Recovery(after_s=3.0)
    assert health.is_unavailable(4)
