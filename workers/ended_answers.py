"""Answers that ended lately: an end that a failover of the store lost is written again, not generated again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from gateway.streams import jobs, keys
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Container

    from gateway.streams.queued_jobs import Job
    from gateway.streams.store.store import Store
    from workers.generation import Generation

KEPT_S: Final = 30.0
"""Longer than a failover takes."""

MAX_ENDED: Final = 300
"""Answers that are kept, with their texts."""


@dataclass(slots=True)
class _Ended:
    job: Job
    generation: Generation
    ended_at: float


class EndedAnswers:
    """The answers that one worker ended lately."""

    def __init__(self, store: Store, consumer: str) -> None:
        """`consumer`: the worker that held their jobs."""
        self._store = store
        self._consumer = consumer
        self._ended: dict[str, _Ended] = {}
        self.restoring: set[asyncio.Task[None]] = set()
        """The tasks that write ends again; the worker cancels them when it leaves."""

    def add(self, job: Job, generation: Generation) -> None:
        """Keep an answer whose end this worker decided."""
        self._ended[job.response] = _Ended(job, generation, asyncio.get_running_loop().time())
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]

    def look(self, running: Container[str]) -> None:
        """Write again the ends that a server may have lost: only one to which the worker had to connect again.

        `running`: the responses that this worker generates, also later.
        """
        now = asyncio.get_running_loop().time()
        # A store that answers slowly would otherwise get one task more for each answer and look.
        restoring = {task.get_name() for task in self.restoring}
        for response, ended in list(self._ended.items()):
            if now - ended.ended_at > KEPT_S:
                del self._ended[response]
            elif (
                response not in restoring
                and self._store.connected_for_s(keys.log(response)) < now - ended.ended_at
                and response not in running
            ):
                task = asyncio.create_task(self._restore(ended, running), name=response)
                self.restoring.add(task)
                task.add_done_callback(self.restoring.discard)

    async def _restore(self, ended: _Ended, running: Container[str]) -> None:
        try:
            renewal = await jobs.renew(self._store, ended.job, self._consumer)
        except (StoreError, RedisError, OSError):
            # The next look tries again.
            return
        response = ended.job.response
        if renewal == "held" and response not in running and self._ended.pop(response, None) is not None:
            # The end deletes the job: the store has lost both.
            await ended.generation.end_again()
