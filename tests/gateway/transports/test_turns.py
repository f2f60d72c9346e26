"""Turns of requests: a bounded number starts in each iteration of the event loop, in order, and none is lost."""

from __future__ import annotations

import asyncio

from gateway.transports.turns import MAX_STARTS, Turns


async def test_few_requests_start_in_one_iteration_in_order() -> None:
    turns, started, iteration = Turns(), list[tuple[int, int]](), 0

    async def request(number: int) -> None:
        turn = turns.take()
        if turn is not None:
            await turn
        started.append((iteration, number))

    tasks = [asyncio.create_task(request(number)) for number in range(10 * MAX_STARTS)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        iteration += 1
    assert [number for _, number in started] == list(range(10 * MAX_STARTS))
    at_once = [sum(when == each for when, _ in started) for each in range(iteration + 1)]
    assert max(at_once) <= MAX_STARTS
    assert sum(count > 0 for count in at_once) >= 10


async def test_request_that_is_cancelled_leaves_its_turn_to_the_next() -> None:
    turns = Turns()
    for _ in range(MAX_STARTS):
        assert turns.take() is None
    waiting = [turns.take() for _ in range(2 * MAX_STARTS)]
    for turn in waiting[:MAX_STARTS]:
        assert turn is not None
        turn.cancel()
    last = waiting[-1]
    assert last is not None
    async with asyncio.timeout(10):
        await last


async def test_turns_are_free_again_after_an_iteration() -> None:
    turns = Turns()
    for _ in range(3):
        for _ in range(MAX_STARTS):
            assert turns.take() is None
        # The callback that was scheduled by the first of them.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
