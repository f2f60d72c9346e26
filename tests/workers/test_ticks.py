"""Beats: those who wait for one go on together, few at a time, and the window follows the load."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from workers import ticks
from workers.batch import WIDEST, Window
from workers.ticks import AT_ONCE, SharedTick

if TYPE_CHECKING:
    import pytest

LONG = 60.0
"""Seconds; a window that no test sees the end of."""


def waiting(all_beats: SharedTick, count: int) -> list[asyncio.Future[None]]:
    return [all_beats.next() for _ in range(count)]


async def test_those_who_wait_go_on_with_the_next_beat() -> None:
    shared = SharedTick(Window(0.02))
    number = shared.number
    began = time.monotonic()
    await asyncio.gather(*waiting(shared, 5))
    assert time.monotonic() - began >= 0.015
    assert shared.number == number + 1
    await shared.next()
    assert shared.number == number + 2


async def test_who_comes_late_in_a_beat_waits_for_the_same_next_one() -> None:
    shared = SharedTick(Window(0.2))
    (first,) = waiting(shared, 1)
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await shared.next()
    assert time.monotonic() - began < 0.15
    assert first.done()


async def test_who_gives_up_holds_nobody_else_up() -> None:
    shared = SharedTick(Window(0.02))
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
    window = Window(LONG)
    shared = SharedTick(window)
    tasks = waiting(shared, 2 * AT_ONCE + 1)
    await asyncio.sleep(0)
    shared._begin()
    counts = [sum(task.done() for task in tasks)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        counts.append(sum(task.done() for task in tasks))
    assert {AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 1} <= set(counts)


async def test_a_window_of_no_time_is_a_turn_of_the_loop() -> None:
    shared = SharedTick(Window(0.0))
    for _ in range(3):
        number = shared.number
        await shared.next()
        assert shared.number > number


async def test_a_busy_worker_gathers_more_and_an_idle_one_less() -> None:
    window = Window(0.001)
    shared = SharedTick(window, lambda: time.monotonic() * busy)
    async with asyncio.timeout(30):
        busy = 0.9
        while window.seconds < WIDEST:
            await shared.next()
        busy = 0.1
        while window.seconds > 0.001:
            await shared.next()


async def test_after_a_silence_the_window_is_as_narrow_as_without_load() -> None:
    window = Window(0.001)
    shared = SharedTick(window)
    await shared.next()
    for _ in range(100):
        window.observe(2.0)
    assert window.seconds == WIDEST
    shared._observed_at -= LONG
    await shared.next()
    assert window.seconds == 0.001


async def test_the_load_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Seen(Window):
        def observe(self, busy: float) -> None:
            seen.append(busy)

    monkeypatch.setattr(ticks, "OBSERVED_EVERY", 0.05)
    shared = SharedTick(Seen(0.001))
    await shared.next()
    began = time.monotonic()
    # What the process did before its first beat is no load.
    assert all(0 <= busy <= 1 for busy in seen)
    seen.clear()
    while len(seen) < 3:
        await shared.next()
    assert time.monotonic() - began >= 0.1
