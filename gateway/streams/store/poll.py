"""A question to several servers at once, of which those that are slow are not waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

ANSWER_WITHIN: Final = 3.0
"""Seconds. Only where too few answer is it as long as this."""

Answer = TypeVar("Answer")


class Poll:
    """The questions that one asker has under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def answers(self, questions: Iterable[Coroutine[Any, Any, Answer]], enough: int) -> list[Answer]:
        """The first `enough` answers, or fewer where not so many come in time; failures are none."""
        tasks = [asyncio.create_task(_in_time(question)) for question in questions]
        for task in tasks:
            self._tasks.add(task)
            task.add_done_callback(self._done)
        found: list[Answer] = []
        try:
            for next_one in asyncio.as_completed(tasks):
                try:
                    found.append(await next_one)
                except (RedisError, OSError, TimeoutError):
                    continue
                if len(found) >= enough:
                    break
            return found
        finally:
            for task in tasks:
                # Not waited for: under redis-py and up to Python 3.11 a cancellation may be swallowed.
                task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _in_time(question: Coroutine[Any, Any, Answer]) -> Answer:
    async with asyncio.timeout(ANSWER_WITHIN):
        return await question
