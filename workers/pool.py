"""The pool of one worker process: acquires jobs, renews their leases, handles stops, and drains."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from gateway.streams import deadlines, jobs, keys, presence
from gateway.streams.liveness import StoreObserver, renewal_interval_s
from gateway.streams.log_fields import error_fields
from gateway.streams.records import MAX_RESPONSES, Worker
from gateway.streams.store.errors import StoreError, is_transient
from workers import metrics
from workers.batch import BatchingInterval
from workers.breakers import Breakers
from workers.ended_answers import EndedAnswers
from workers.fairness import Fairness
from workers.generation import Generation
from workers.history_reader import HistoryReader
from workers.lease_bridge import SIGNS_PER_LEASE, Hold
from workers.lease_keeper import LeaseKeeper
from workers.loop_watch import Block, LoopWatch
from workers.providers import Served, connect
from workers.ticks import SharedTick

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from gateway.streams.jobs import Renewal
    from gateway.streams.log_entries import LogId
    from gateway.streams.queued_jobs import Job
    from gateway.streams.store.store import Store
    from gateway.streams.targets import Target
    from workers.lease_bridge import Lost
    from workers.lease_keeper import StoreAddress
    from workers.options import GenerationOptions

logger = logging.getLogger(__name__)

POLL_INTERVAL_S: Final = 1.0
"""Seconds in which a job is found whose notification was lost, or whose worker died."""

RETRY_PAUSE_S: Final = POLL_INTERVAL_S / 4
CANCEL_RETRY_S: Final = 1.0
FULL_PAUSE_S: Final = 0.02
"""Seconds after which a full worker fills a place: places that become free together are filled by one search."""

MIN_CANDIDATES: Final = 32
MAX_CANDIDATES: Final = 256
"""Jobs of each partition and model among which one search chooses: more cost the store more, fewer are less fair."""


@dataclass(slots=True)
class _Running:
    job: Job
    generation: Generation
    task: asyncio.Task[None]


class Pool:
    """The responses that one worker process generates."""

    def __init__(
        self,
        store: Store,
        targets: Mapping[str, str | Sequence[Target]],
        options: GenerationOptions,
        *,
        concurrency: int,
        demo_rate: float,
        shared_store: StoreAddress | None = None,
    ) -> None:
        """`targets`: of each alias, in order of preference; raises ValueError for one that cannot be served.

        `concurrency`: maximum number of responses. `demo_rate`: tokens per second of the demo provider.
        `shared_store`: the store's address, for the lease process; None: no other process can take jobs over.
        """
        self._stats = presence.ProcessStats()
        self.name = self._stats.name
        self._store = store
        self._options = options
        self._concurrency = concurrency
        metrics.CONCURRENCY.set(concurrency)
        self._tick = SharedTick(BatchingInterval(options.batching_interval_s))
        self._breakers = Breakers(store)
        self._histories = HistoryReader(store)
        self._targets: dict[str, list[Served]] = {}
        for alias, value in targets.items():
            try:
                self._targets[alias] = [
                    connect(target, demo_rate=demo_rate, pace=self._tick.next)
                    for target in ([value] if isinstance(value, str) else value)
                ]
            except ValueError as error:
                raise ValueError(f"model {alias!r}: {error}") from error
        self._running: dict[str, _Running] = {}
        self._fairness = Fairness(concurrency)
        self._pending_partitions: set[int] = set()
        self._wake = asyncio.Event()
        self._draining = False
        self._observer = StoreObserver(options.lease_s)
        self._loops: list[asyncio.Task[None]] = []
        self._ended = EndedAnswers(store, self.name)
        self._keeper: LeaseKeeper | None = None
        if shared_store is not None:
            self._keeper = LeaseKeeper(
                store=shared_store,
                consumer=self.name,
                lease_s=options.lease_s,
                held=self._held,
                on_lost=self._lost_meanwhile,
            )
        self._watch = LoopWatch(
            options.lease_s / SIGNS_PER_LEASE,
            on_beat=self._keeper.beat if self._keeper is not None else None,
            on_block=self._report_block,
        )
        self._partitions = {keys.control(partition).encode(): partition for partition in range(keys.PARTITIONS)}
        """By control channel."""

    @property
    def models(self) -> list[str]:
        """The model aliases that this worker serves."""
        return list(self._targets)

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets of each alias, as operators see them: `alias -> provider/model @ host, ...`."""
        return tuple(
            f"{alias} -> {', '.join(served.label for served in targets)}"
            for alias, targets in sorted(self._targets.items())
        )

    async def run(self) -> None:
        """Work until `shut_down` is called. Not safe to cancel: jobs are taken over only after their leases."""
        try:
            await jobs.prepare(self._store)
        except StoreError as error:
            # Acquiring tries again. A full store refuses this even where the groups exist, and a worker that runs is
            # what ends the answers that fill it.
            self._store_failed(error)
        if self._draining:
            return
        self._watch.start()
        self._loops = [
            asyncio.create_task(loop)
            for loop in (
                _repeat("acquire", self._acquire_jobs),
                _repeat("leases", self._keep_leases),
                _repeat("control", self._subscribe_control),
                _repeat("requeue", self._requeue_lost),
                _repeat("breakers", self._breakers.watch),
                presence.heartbeat_loop(self._store, self._record),
            )
        ]
        try:
            await asyncio.gather(*self._loops)
        except asyncio.CancelledError:
            if not self._draining:
                raise

    async def shut_down(self, drain_s: float) -> None:
        """Acquire no more jobs, wait up to `drain_s` seconds for the running ones, and release the others.

        Not safe to cancel: call it again with 0, or jobs are taken over only after their leases.
        """
        self._draining = True
        self._wake.set()
        tasks = [running.task for running in self._running.values()]
        if tasks and drain_s:
            await asyncio.wait(tasks, timeout=drain_s)
        rest = list(self._running.values())
        await _cancel(running.task for running in rest)
        await _cancel(self._loops)
        await _cancel(self._ended.restoring)
        await self._watch.stop()
        if self._keeper is not None:
            await self._keeper.stop()
        for served in chain.from_iterable(self._targets.values()):
            if (close := getattr(served.provider, "aclose", None)) is not None:
                await close()
        try:
            for running in rest:
                await jobs.release(self._store, running.job, self.name)
            await jobs.leave(self._store, self.name)
        except (StoreError, RedisError, OSError) as error:
            # The leases expire anyway.
            logger.warning("jobs_not_released", extra={"jobs": len(rest), "error": type(error).__name__})

    async def _acquire_jobs(self) -> None:
        self._pending_partitions.update(range(keys.PARTITIONS))
        while not self._draining:
            free = self._concurrency - len(self._running)
            if self._pending_partitions and free > 0:
                partitions, self._pending_partitions = self._pending_partitions, set()
                await self._acquire(partitions, free)
                continue
            # A full pool keeps the partitions: those that it has not searched have the same right to the next place.
            self._wake.clear()
            try:
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                self._pending_partitions.update(range(keys.PARTITIONS))

    async def _acquire(self, partitions: set[int], limit: int) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        rule = self._observer.rule(started_at)
        try:
            window = min(max(limit, MIN_CANDIDATES), MAX_CANDIDATES)
            found = await jobs.candidates(self._store, partitions, window, rule, self._targets)
            self._observer.answered(started_at, loop.time())
            chosen = self._fairness.choose(found, limit)
            acquired = await jobs.take(self._store, self.name, chosen) if chosen else None
        except (StoreError, RedisError, OSError) as error:
            self._store_failed(error)
            await asyncio.sleep(RETRY_PAUSE_S)
            self._pending_partitions.update(range(keys.PARTITIONS))
            return
        if len(partitions) == keys.PARTITIONS:
            self._store_recovered()
        if acquired is None:
            return
        if len(acquired.jobs) < min(limit, len(found)) or len(found) >= window:
            # Another worker was faster, or more jobs wait than were listed.
            self._pending_partitions.update(partitions)
        if self._keeper is not None:
            self._keeper.hold(Hold(job.id, job.response, job.conversation) for job in acquired.jobs)
        candidates = {candidate.job.id: candidate for candidate in chosen}
        for job in acquired.jobs:
            if job.response in self._running:
                # The lease expired and this worker acquired its own job again: the attempt continues. If another
                # worker claimed the response in between, the log fences the attempt.
                continue
            generation = Generation(
                self._store, job, self.name, self._targets, self._breakers, self._options, self._tick, self._histories
            )
            self._fairness.begun(candidates[job.id], acquired.now)
            task = asyncio.create_task(generation.run(), name=job.response)
            self._running[job.response] = _Running(job, generation, task)
            metrics.RUNNING.set(len(self._running))
            task.add_done_callback(partial(self._finished, job))

    def _store_failed(self, error: BaseException) -> None:
        if self._observer.failed(asyncio.get_running_loop().time()):
            logger.warning("store_unavailable", extra={"error": type(error).__name__})

    def _store_recovered(self) -> None:
        after_s = self._observer.recovered(asyncio.get_running_loop().time())
        if after_s is not None:
            logger.info("store_recovered", extra={"after_s": round(after_s, 1)})

    def _finished(self, job: Job, task: asyncio.Task[None]) -> None:
        running = self._running.get(job.response)
        if running is None or running.task is not task:
            return
        if self._draining and task.cancelled():
            return
        was_full = len(self._running) >= self._concurrency
        del self._running[job.response]
        self._fairness.ended(job.response)
        if running.generation.decided:
            self._ended.add(job, running.generation)
        metrics.RUNNING.set(len(self._running))
        if not task.cancelled() and (error := task.exception()) is not None:
            fields = {"conversation": job.conversation, "response": job.response, **error_fields(error)}
            logger.error("attempt_failed", extra=fields)
        if was_full:
            # All partitions: a search of one alone would prefer its jobs.
            self._pending_partitions.update(range(keys.PARTITIONS))
            asyncio.get_running_loop().call_later(FULL_PAUSE_S, self._wake.set)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(renewal_interval_s(self._options.lease_s))
            self._ended.look(self._running)
            held = list(self._running.values())
            tails = [running.generation.idle_tail for running in held]
            results: list[tuple[Renewal, LogId | None] | BaseException] = await asyncio.gather(
                *(
                    jobs.renew_and_compare(self._store, running.job, self.name, running.generation.instructions_id)
                    for running in held
                ),
                return_exceptions=True,
            )
            failed = [result for result in results if isinstance(result, BaseException)]
            for error in failed:
                # A key of another type concerns one job: it says nothing about the leases of others.
                if isinstance(error, StoreError) or (isinstance(error, Exception) and is_transient(error)):
                    self._store_failed(error)
            if held and not failed and len(held) >= self._concurrency:
                # A full pool acquires nothing, so only renewals show that the store answers.
                self._store_recovered()
            for running, tail, result in zip(held, tails, results, strict=True):
                if isinstance(result, BaseException):
                    continue
                renewal, last = result
                if renewal != "held":
                    self._lease_lost(running.job)
                elif last is not None and tail is not None and tail == running.generation.idle_tail:
                    # No append was in flight meanwhile, so another last id shows that the store lost a tail.
                    running.generation.restore(last)

    def _held(self) -> list[Hold]:
        return [
            Hold(running.job.id, running.job.response, running.job.conversation, running.generation.instructions_id)
            for running in self._running.values()
        ]

    def _lost_meanwhile(self, lost: Lost) -> None:
        for running in list(self._running.values()):
            if running.job.id == lost.id:
                self._lease_lost(running.job)

    def _lease_lost(self, job: Job) -> None:
        running = self._running.get(job.response)
        if running is not None and running.job.id == job.id and not running.generation.ending:
            metrics.FENCES.labels("renewal").inc()
            running.task.cancel()

    def _report_block(self, block: Block) -> None:
        for each in self._running.values():
            each.generation.extend(block.seconds)
        running = self._running.get(block.task)
        targets = self._targets.get(running.generation.model, []) if running is not None else []
        logger.warning(
            "event_loop_blocked",
            extra={
                "seconds": round(block.seconds, 1),
                "generator": targets[0].label if targets else None,
                "response": block.task if running is not None else None,
                "where": block.where,
            },
        )

    async def _subscribe_control(self) -> None:
        lost = False
        while True:
            reason = "closed"
            try:
                subscription = await self._store.subscribe(self._on_control, self._on_subscribed)
                try:
                    subscription.subscribe(*self._partitions)
                    if lost:
                        logger.info("control_subscription_recovered")
                        lost = False
                    await subscription.closed
                finally:
                    await subscription.close()
            except (RedisError, OSError, RuntimeError) as error:
                # RuntimeError: uvloop's for a write to a connection that was lost in this moment.
                reason = type(error).__name__
            if not lost:
                logger.warning("control_subscription_lost", extra={"error": reason})
                lost = True
            await asyncio.sleep(RETRY_PAUSE_S)

    def _on_subscribed(self, channel: bytes) -> None:
        # Jobs that were published before the subscription are found by acquiring.
        self._pending_partitions.add(self._partitions[channel])
        self._wake.set()

    def _on_control(self, channel: bytes, data: bytes) -> None:
        if data == b"job":
            self._on_subscribed(channel)
            return
        running = self._running.get(data.removeprefix(b"end ").decode(errors="replace"))
        if running is not None and not running.generation.ending:
            metrics.FENCES.labels("control").inc()
            running.task.cancel()

    def _record(self) -> Worker:
        stats = self._stats
        stats.sample()
        working = [running.generation.working(stats.elapsed) for running in self._running.values()]
        return Worker(
            name=stats.name,
            age=stats.age,
            cpu=stats.cpu,
            memory=stats.memory,
            running=len(working),
            concurrency=self._concurrency,
            models=tuple(sorted(self._targets)),
            targets=self.targets,
            responses=tuple(working[:MAX_RESPONSES]),
            leaving=self._draining,
        )

    async def _requeue_lost(self) -> None:
        while True:
            await asyncio.sleep(deadlines.REQUEUE_INTERVAL_S)
            for partition in range(keys.PARTITIONS):
                try:
                    await deadlines.requeue(self._store, partition, self._options.lease_s)
                except (StoreError, RedisError, OSError) as error:
                    # No evidence against leases: a full store refuses this lock and still accepts renewals.
                    logger.warning("requeue_failed", extra={"partition": partition, "error": type(error).__name__})
                    if isinstance(error, StoreError) or is_transient(error):
                        break


async def _repeat(task: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run a task of the pool again after an exception: a fault of one job must not end the others."""
    while True:
        try:
            await work()
        except Exception as error:
            logger.error("pool_task_failed", extra={"task": task, **error_fields(error)})
            await asyncio.sleep(RETRY_PAUSE_S)
        else:
            return


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: code that they await may swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_RETRY_S)
