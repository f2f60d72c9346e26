"""The shared tick: waiting tasks are woken in groups, and the interval follows the load."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from workers import ticks
from workers.batch import MAX_INTERVAL_S, BatchingInterval
from workers.ticks import MAX_WAKEUPS, SharedTick

if TYPE_CHECKING:
    import pytest

LONG_S = 60.0
"""An interval that does not end during a test."""


def waiting(shared: SharedTick, count: int) -> list[asyncio.Future[None]]:
    return [shared.next() for _ in range(count)]


async def test_all_waiting_tasks_wake_at_the_next_tick() -> None:
    shared = SharedTick(BatchingInterval(0.02))
    number = shared.number
    started_at = time.monotonic()
    await asyncio.gather(*waiting(shared, 5))
    assert time.monotonic() - started_at >= 0.015
    assert shared.number == number + 1
    await shared.next()
    assert shared.number == number + 2


async def test_late_task_waits_for_the_same_tick() -> None:
    shared = SharedTick(BatchingInterval(LONG_S))
    number = shared.number
    (first,) = waiting(shared, 1)
    await asyncio.sleep(0.01)
    (late,) = waiting(shared, 1)
    assert not first.done()
    shared._start()
    await asyncio.gather(first, late)
    assert shared.number == number + 1


async def test_cancelled_task_does_not_delay_others() -> None:
    shared = SharedTick(BatchingInterval(0.02))
    first, second, third = waiting(shared, 3)
    await asyncio.sleep(0)
    first.cancel()
    third.cancel()
    await second
    assert first.cancelled()
    assert third.cancelled()
    await shared.next()


async def test_tasks_are_woken_in_limited_groups() -> None:
    """Appends of the first group are in flight while the next one is woken."""
    interval = BatchingInterval(LONG_S)
    shared = SharedTick(interval)
    tasks = waiting(shared, 2 * MAX_WAKEUPS + 1)
    await asyncio.sleep(0)
    shared._start()
    counts = [sum(task.done() for task in tasks)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        counts.append(sum(task.done() for task in tasks))
    assert {MAX_WAKEUPS, 2 * MAX_WAKEUPS, 2 * MAX_WAKEUPS + 1} <= set(counts)


async def test_interval_of_zero_is_one_loop_iteration() -> None:
    shared = SharedTick(BatchingInterval(0.0))
    for _ in range(3):
        number = shared.number
        await shared.next()
        assert shared.number > number


async def test_load_widens_the_interval_and_idleness_narrows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "ADAPT_INTERVAL_S", 0.02)
    interval = BatchingInterval(0.001)
    shared = SharedTick(interval, lambda: time.monotonic() * busy)
    async with asyncio.timeout(30):
        busy = 0.9
        while interval.seconds < MAX_INTERVAL_S:
            await shared.next()
        busy = 0.1
        while interval.seconds > 0.001:
            await shared.next()


async def test_interval_is_minimal_after_a_silence() -> None:
    interval = BatchingInterval(0.001)
    shared = SharedTick(interval)
    await shared.next()
    for _ in range(100):
        interval.adapt(2.0)
    assert interval.seconds == MAX_INTERVAL_S
    shared._adapted_at -= LONG_S
    await shared.next()
    assert interval.seconds == 0.001


async def test_interval_is_adapted_periodically(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    class Recorded(BatchingInterval):
        def adapt(self, cpu_share: float) -> None:
            shares.append(cpu_share)

    monkeypatch.setattr(ticks, "ADAPT_INTERVAL_S", 0.05)
    shared = SharedTick(Recorded(0.001))
    await shared.next()
    started_at = time.monotonic()
    # CPU time before the first tick does not count.
    assert all(0 <= share <= 1 for share in shares)
    shares.clear()
    while len(shares) < 3:
        await shared.next()
    assert time.monotonic() - started_at >= 0.1
