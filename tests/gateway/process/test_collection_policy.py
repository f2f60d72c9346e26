"""Collections follow growth at once, and otherwise come ever more rarely while they free nothing."""

from __future__ import annotations

from typing import Final

from gateway.process.collection_policy import (
    EXCESS_SHARE,
    GROWTH_BYTES,
    GROWTH_SHARE,
    MAX_PAUSE_S,
    MIN_PAUSE_S,
    CollectionPolicy,
)

BASE: Final = 1_000 << 20
ALLOWED: Final = round(BASE * (1 + GROWTH_SHARE)) + GROWTH_BYTES
MIB: Final = 1 << 20


def test_growth_counts_from_the_least_memory_since_the_last_collection() -> None:
    policy = CollectionPolicy(BASE, 0.0)
    assert not policy.due(ALLOWED, 1.0)
    assert policy.due(ALLOWED + MIB, 1.0)
    assert not policy.due(500 << 20, 1.0)
    assert policy.due(ALLOWED, 1.0)
    policy.collected(ALLOWED, ALLOWED, 1.0)
    assert not policy.due(ALLOWED + GROWTH_BYTES, 1.0)


def test_memory_above_the_least_is_collected_after_the_pause() -> None:
    policy = CollectionPolicy(BASE, 0.0)
    above = round(BASE * (1 + EXCESS_SHARE)) + MIB
    assert not policy.due(above, MIN_PAUSE_S - 1)
    assert policy.due(above, MIN_PAUSE_S)
    assert not policy.due(BASE, MIN_PAUSE_S)


def test_a_collection_that_freed_nothing_makes_the_next_rarer() -> None:
    policy = CollectionPolicy(BASE, 0.0)
    above, now, pauses = 2 * BASE, 0.0, []
    policy.collected(above, above, now)
    for _ in range(8):
        begun = now
        while not policy.due(above, now):
            now += 1
        pauses.append(now - begun)
        policy.collected(above, above, now)
    assert pauses[0] == 2 * MIN_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_S


def test_a_productive_collection_and_growth_bring_the_next_soon() -> None:
    policy = CollectionPolicy(BASE, 0.0)
    for _ in range(3):
        policy.collected(2 * BASE, 2 * BASE, 0.0)
    policy.collected(2 * BASE, BASE + 50 * MIB, 0.0)
    assert policy.due(BASE + 50 * MIB, MIN_PAUSE_S)
    for _ in range(3):
        policy.collected(2 * BASE, 2 * BASE, 0.0)
    assert policy.due(4 * BASE, 1.0)
    policy.collected(4 * BASE, 4 * BASE, 1.0)
    assert policy.due(4 * BASE, 1.0 + 2 * MIN_PAUSE_S)
