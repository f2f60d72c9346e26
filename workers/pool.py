"""A worker: takes jobs while it has room, keeps their leases, hears of stops, and leaves in order."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from gateway.streams import jobs, keys, presence, response_log
from gateway.streams.log_entries import End, Problem
from gateway.streams.records import MAX_RESPONSES, Worker
from gateway.streams.store.errors import StoreError
from workers import metrics
from workers.batch import Window
from workers.generation import Generation, GenerationOptions
from workers.providers import Served, connect
from workers.ticks import SharedTick

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.streams.store.store import Store

logger = logging.getLogger(__name__)

POLL_EVERY: Final = 1.0
"""Seconds. A job whose wake-up was lost, or whose worker died, is found within this time."""

SWEEP_EVERY: Final = 10.0
CANCEL_AGAIN_AFTER: Final = 1.0


@dataclass(slots=True)
class _Running:
    job: jobs.Job
    generation: Generation
    task: asyncio.Task[None]


class Pool:
    """One worker process's jobs."""

    def __init__(
        self, store: Store, targets: Mapping[str, str], terms: GenerationOptions, *, concurrency: int, demo_rate: float
    ) -> None:
        """`targets`: alias to `provider/model`. Raises ValueError for one that can not be served."""
        self._pulse = presence.ProcessStats()
        self.name = self._pulse.name
        self._store = store
        self._terms = terms
        self._concurrency = concurrency
        metrics.CONCURRENCY.set(concurrency)
        self._beats = SharedTick(Window(terms.window))
        self._providers: dict[str, Served] = {}
        for alias, target in targets.items():
            try:
                self._providers[alias] = connect(target, demo_rate=demo_rate, pace=self._beats.next)
            except ValueError as error:
                raise ValueError(f"model {alias!r}: {error}") from error
        self._running: dict[str, _Running] = {}
        self._woken: set[int] = set()
        self._wake = asyncio.Event()
        self._leaving = False
        self._blind_at = float("-inf")
        """When this worker last could not reach the store, or waited long for it."""
        self._loops: list[asyncio.Task[None]] = []
        self._partitions = {keys.control(partition).encode(): partition for partition in range(keys.PARTITIONS)}
        """By their control channels."""

    @property
    def models(self) -> list[str]:
        """The aliases that this worker serves."""
        return list(self._providers)

    async def run(self) -> None:
        """Work until `shut_down` is called."""
        await jobs.prepare(self._store)
        if self._leaving:
            return
        self._loops = [
            asyncio.create_task(loop)
            for loop in (
                self._take_jobs(),
                self._keep_leases(),
                self._hear_control(),
                self._sweep(),
                presence.heartbeat_loop(self._store, self._record),
            )
        ]
        try:
            await asyncio.gather(*self._loops)
        except asyncio.CancelledError:
            if not self._leaving:
                raise

    async def shut_down(self, drain_s: float) -> None:
        """Take nothing more, let what runs finish within `drain_s` seconds, and hand the rest over."""
        self._leaving = True
        self._wake.set()
        tasks = [running.task for running in self._running.values()]
        if tasks and drain_s:
            await asyncio.wait(tasks, timeout=drain_s)
        rest = list(self._running.values())
        await _end(running.task for running in rest)
        await _end(self._loops)
        for served in self._providers.values():
            if (close := getattr(served.provider, "aclose", None)) is not None:
                await close()
        try:
            for running in rest:
                await jobs.release(self._store, running.job, self.name)
            await jobs.remove_consumer(self._store, self.name)
        except (StoreError, RedisError, OSError) as error:
            # The leases run out by themselves.
            logger.warning("jobs could not be handed over (%s)", type(error).__name__)

    async def _take_jobs(self) -> None:
        self._woken.update(range(keys.PARTITIONS))
        while not self._leaving:
            woken, self._woken = self._woken, set()
            room = self._concurrency - len(self._running)
            if woken and room > 0:
                await self._take(woken, room)
            if self._woken:
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(POLL_EVERY):
                    await self._wake.wait()
            except TimeoutError:
                self._woken.update(range(keys.PARTITIONS))

    async def _take(self, partitions: Iterable[int], room: int) -> None:
        lease = self._terms.lease
        begun = asyncio.get_running_loop().time()
        # While the store could not be reached, nobody could renew: then silence says nothing, for a lease.
        sees = begun - self._blind_at > lease
        try:
            found = await jobs.acquire(self._store, self.name, partitions, room, lease if sees else None, lease)
        except (StoreError, RedisError, OSError) as error:
            logger.warning("no jobs could be taken (%s)", type(error).__name__)
            self._blind_at = asyncio.get_running_loop().time()
            await asyncio.sleep(POLL_EVERY / 4)
            self._woken.update(range(keys.PARTITIONS))
            return
        if asyncio.get_running_loop().time() - begun > lease / 3:
            self._blind_at = asyncio.get_running_loop().time()
        for job in found:
            if job.response in self._running:
                # The lease ran out unnoticed, and this worker took over from itself: it just goes on. Should another
                # have been at it in between, the log says so.
                continue
            generation = Generation(self._store, job, self.name, self._providers, self._terms, self._beats)
            task = asyncio.create_task(generation.run(), name=job.response)
            self._running[job.response] = _Running(job, generation, task)
            metrics.RUNNING.set(len(self._running))
            task.add_done_callback(partial(self._finished, job))

    def _finished(self, job: jobs.Job, task: asyncio.Task[None]) -> None:
        running = self._running.get(job.response)
        if running is None or running.task is not task:
            return
        if self._leaving and task.cancelled():
            return
        was_full = len(self._running) >= self._concurrency
        del self._running[job.response]
        metrics.RUNNING.set(len(self._running))
        if not task.cancelled() and (error := task.exception()) is not None:
            about = {"conversation": job.conversation, "response": job.response}
            logger.error("the response was left to another worker (%s)", type(error).__name__, extra=about)
        if was_full:
            self._woken.update(range(keys.PARTITIONS))
            self._wake.set()

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._terms.lease / 3)
            held = list(self._running.values())
            results = await asyncio.gather(
                *(jobs.renew(self._store, running.job, self.name) for running in held), return_exceptions=True
            )
            for running, result in zip(held, results, strict=True):
                if isinstance(result, BaseException):
                    logger.warning("a lease could not be renewed (%s)", type(result).__name__)
                    self._blind_at = asyncio.get_running_loop().time()
                elif result != "held" and not running.generation.ending:
                    metrics.FENCES.labels("renewal").inc()
                    running.task.cancel()

    async def _hear_control(self) -> None:
        while True:
            try:
                subscription = await self._store.subscribe(self._heard, self._listens)
                try:
                    subscription.subscribe(*self._partitions)
                    await subscription.closed
                finally:
                    await subscription.close()
                logger.warning("the control channel was lost")
            except (RedisError, OSError) as error:
                logger.warning("the control channel was lost (%s)", type(error).__name__)
            await asyncio.sleep(POLL_EVERY / 4)

    def _listens(self, channel: bytes) -> None:
        # What was published before is found by looking.
        self._woken.add(self._partitions[channel])
        self._wake.set()

    def _heard(self, channel: bytes, data: bytes) -> None:
        if data == b"job":
            self._listens(channel)
            return
        running = self._running.get(data.removeprefix(b"end ").decode())
        if running is not None and not running.generation.ending:
            metrics.FENCES.labels("control").inc()
            running.task.cancel()

    def _record(self) -> Worker:
        pulse = self._pulse
        pulse.sample()
        running = [running.generation.working(pulse.elapsed) for running in self._running.values()]
        return Worker(
            pulse.name,
            pulse.age,
            pulse.cpu,
            pulse.memory,
            len(running),
            self._concurrency,
            tuple(sorted(self._providers)),
            tuple(running[:MAX_RESPONSES]),
            self._leaving,
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            for partition in range(keys.PARTITIONS):
                try:
                    await self._sweep_one(partition)
                except (StoreError, RedisError, OSError) as error:
                    logger.warning("a sweep failed (%s)", type(error).__name__)
                    break

    async def _sweep_one(self, partition: int) -> None:
        for conversation, response in await jobs.requeue_lost(self._store, partition, SWEEP_EVERY):
            problem = Problem("expired", "The message waited too long to be answered.")
            await response_log.end(self._store, conversation, response, End("failed", error=problem, retryable=True))


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: redis-py waits in ways that up to Python 3.11 may swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_AFTER)
