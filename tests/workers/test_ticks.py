"""Beats: those who wait for one go on together, few at a time, and the interval follows the load."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from workers import ticks
from workers.batch import MAX_INTERVAL_S, BatchingInterval
from workers.ticks import MAX_WAKEUPS, SharedTick

if TYPE_CHECKING:
    import pytest

LONG = 60.0
"""Seconds; a interval that no test sees the end of."""


def waiting(all_beats: SharedTick, count: int) -> list[asyncio.Future[None]]:
    return [all_beats.next() for _ in range(count)]


async def test_those_who_wait_go_on_with_the_next_beat() -> None:
    shared = SharedTick(BatchingInterval(0.02))
    number = shared.number
    began = time.monotonic()
    await asyncio.gather(*waiting(shared, 5))
    assert time.monotonic() - began >= 0.015
    assert shared.number == number + 1
    await shared.next()
    assert shared.number == number + 2


async def test_who_comes_late_in_a_beat_waits_for_the_same_next_one() -> None:
    shared = SharedTick(BatchingInterval(0.2))
    (first,) = waiting(shared, 1)
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await shared.next()
    assert time.monotonic() - began < 0.15
    assert first.done()


async def test_who_gives_up_holds_nobody_else_up() -> None:
    shared = SharedTick(BatchingInterval(0.02))
    first, second, third = waiting(shared, 3)
    await asyncio.sleep(0)
    first.cancel()
    third.cancel()
    await second
    assert first.cancelled()
    assert third.cancelled()
    await shared.next()


async def test_few_go_on_in_one_turn_of_the_loop() -> None:
    """What the first have to append is on its way while the others read."""
    interval = BatchingInterval(LONG)
    shared = SharedTick(interval)
    tasks = waiting(shared, 2 * MAX_WAKEUPS + 1)
    await asyncio.sleep(0)
    shared._start()
    counts = [sum(task.done() for task in tasks)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        counts.append(sum(task.done() for task in tasks))
    assert {MAX_WAKEUPS, 2 * MAX_WAKEUPS, 2 * MAX_WAKEUPS + 1} <= set(counts)


async def test_a_window_of_no_time_is_a_turn_of_the_loop() -> None:
    shared = SharedTick(BatchingInterval(0.0))
    for _ in range(3):
        number = shared.number
        await shared.next()
        assert shared.number > number


async def test_a_busy_worker_gathers_more_and_an_idle_one_less() -> None:
    interval = BatchingInterval(0.001)
    shared = SharedTick(interval, lambda: time.monotonic() * busy)
    async with asyncio.timeout(30):
        busy = 0.9
        while interval.seconds < MAX_INTERVAL_S:
            await shared.next()
        busy = 0.1
        while interval.seconds > 0.001:
            await shared.next()


async def test_after_a_silence_the_window_is_as_narrow_as_without_load() -> None:
    interval = BatchingInterval(0.001)
    shared = SharedTick(interval)
    await shared.next()
    for _ in range(100):
        interval.adapt(2.0)
    assert interval.seconds == MAX_INTERVAL_S
    shared._adapted_at -= LONG
    await shared.next()
    assert interval.seconds == 0.001


async def test_the_load_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Seen(BatchingInterval):
        def adapt(self, cpu_share: float) -> None:
            seen.append(cpu_share)

    monkeypatch.setattr(ticks, "ADAPT_INTERVAL_S", 0.05)
    shared = SharedTick(Seen(0.001))
    await shared.next()
    began = time.monotonic()
    # What the process did before its first beat is no load.
    assert all(0 <= busy <= 1 for busy in seen)
    seen.clear()
    while len(seen) < 3:
        await shared.next()
    assert time.monotonic() - began >= 0.1
