"""Growth collects young objects at once; everything is collected ever more rarely while that frees nothing."""

from __future__ import annotations

from typing import Final

from gateway.process.collection_policy import (
    EXCESS_SHARE,
    GROWTH_BYTES,
    GROWTH_SHARE,
    MAX_PAUSE_S,
    MIN_PAUSE_S,
    PAUSE_PER_SECOND,
    CollectionPolicy,
    Due,
)

BASE: Final = 1_000 << 20
ALLOWED: Final = round(BASE * (1 + GROWTH_SHARE)) + GROWTH_BYTES
MIB: Final = 1 << 20


def test_growth_counts_from_the_least_memory_since_the_last_collection() -> None:
    policy = CollectionPolicy(BASE, 0.0)
    assert policy.due(ALLOWED, 1.0) is Due.NOTHING
    assert policy.due(ALLOWED + MIB, 1.0) is Due.YOUNG
    assert policy.due(500 << 20, 1.0) is Due.NOTHING
    assert policy.due(ALLOWED, 1.0) is Due.YOUNG
    policy.collected_young(ALLOWED)
    assert policy.due(ALLOWED + GROWTH_BYTES, 1.0) is Due.NOTHING


def test_memory_above_the_least_is_collected_after_the_pause() -> None:
    policy = CollectionPolicy(BASE, 0.0)
    above = round(BASE * (1 + EXCESS_SHARE)) + MIB
    assert policy.due(above, MIN_PAUSE_S - 1) is Due.NOTHING
    assert policy.due(above, MIN_PAUSE_S) is Due.EVERYTHING
    assert policy.due(BASE, MIN_PAUSE_S) is Due.NOTHING


def test_a_collection_that_freed_nothing_makes_the_next_rarer() -> None:
    policy = CollectionPolicy(BASE, 0.0)
    above, now, pauses = BASE + 50 * MIB, 0.0, []
    for _ in range(8):
        begun = now
        while policy.due(above, now) is not Due.EVERYTHING:
            now += 1
        pauses.append(now - begun)
        policy.collected_everything(above, above, 0.01, now)
    assert pauses[:2] == [MIN_PAUSE_S, 2 * MIN_PAUSE_S]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_S


def test_a_productive_collection_brings_the_next_soon() -> None:
    policy = CollectionPolicy(BASE, 0.0)
    for _ in range(3):
        policy.collected_everything(2 * BASE, 2 * BASE, 0.01, 0.0)
    policy.collected_everything(2 * BASE, BASE + 50 * MIB, 0.01, 0.0)
    assert policy.due(BASE + 50 * MIB, MIN_PAUSE_S) is Due.EVERYTHING


def test_a_long_collection_brings_the_next_late() -> None:
    policy = CollectionPolicy(BASE, 0.0)
    policy.collected_everything(2 * BASE, BASE + 50 * MIB, 0.2, 0.0)
    assert policy.due(BASE + 50 * MIB, 0.2 * PAUSE_PER_SECOND - 1) is Due.NOTHING
    assert policy.due(BASE + 50 * MIB, 0.2 * PAUSE_PER_SECOND) is Due.EVERYTHING
