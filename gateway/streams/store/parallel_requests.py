"""Parallel requests to several servers, of which only the first replies count."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

REPLY_TIMEOUT_S: Final = 3.0
"""Seconds. Reached only if too few servers reply."""

Reply = TypeVar("Reply")


class ParallelRequests:
    """The requests of one caller that are in flight."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def first(self, requests: Iterable[Coroutine[Any, Any, Reply]], count: int) -> list[Reply]:
        """Return the first `count` replies, or fewer if others fail or exceed `REPLY_TIMEOUT_S`. Safe to cancel."""
        tasks = [asyncio.create_task(_with_timeout(request)) for request in requests]
        for task in tasks:
            self._tasks.add(task)
            task.add_done_callback(self._done)
        found: list[Reply] = []
        try:
            for next_done in asyncio.as_completed(tasks):
                try:
                    found.append(await next_done)
                except (RedisError, OSError, TimeoutError):
                    continue
                if len(found) >= count:
                    break
            return found
        finally:
            for task in tasks:
                # Not awaited: up to Python 3.11 a cancellation under redis-py may be swallowed.
                task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """Cancel all requests. Not safe to cancel: requests may stay in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _with_timeout(request: Coroutine[Any, Any, Reply]) -> Reply:
    async with asyncio.timeout(REPLY_TIMEOUT_S):
        return await request
