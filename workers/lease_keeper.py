"""The lease keeper: renews a worker's leases while its event loop is blocked, and reports what blocked it.

A generator that computes, or calls something synchronous, blocks the event loop, and with it the renewals of every
answer of the worker. Without the keeper other workers would take all of them over and call their providers again.

It runs in a thread with an own event loop and an own connection to the store, which is opened at the first block. It
needs the GIL from time to time: a C extension that holds it for longer than a lease still loses the leases.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from redis.exceptions import RedisError

from gateway.streams import jobs
from gateway.streams.liveness import renewal_interval_s
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.streams.jobs import Renewal
    from gateway.streams.queued_jobs import Job
    from gateway.streams.store.store import Store

logger = logging.getLogger(__name__)

CHECKS_PER_LEASE: Final = 10
MAX_BLOCKED_S: Final = 120.0
"""Seconds for which the leases of a blocked worker are renewed; then other workers take its answers over."""


class Held(NamedTuple):
    """A job that the worker holds, and the id of the stored instructions that it needs."""

    job: Job
    instructions_id: str | None


class Block(NamedTuple):
    """A time in which the event loop did not run."""

    seconds: float
    task: str
    """Name of the task that blocked it: of an answer, its response; '' if no task ran."""
    where: str
    """File, line and function at which it was seen."""


class LeaseKeeper:
    """Watches one event loop from a thread."""

    def __init__(
        self,
        *,
        open_store: Callable[[], Awaitable[Store]],
        consumer: str,
        lease_s: float,
        held: Callable[[], list[Held]],
        on_lost: Callable[[Job, Renewal], None],
        on_block: Callable[[Block], None],
    ) -> None:
        """`held` is called in the thread of the keeper, `on_lost` and `on_block` in the watched loop.

        `on_lost` gets each renewal whose result was not `held`.
        """
        self._open_store = open_store
        self._consumer = consumer
        self._lease_s = lease_s
        self._held = held
        self._on_lost = on_lost
        self._on_block = on_block
        self._watched: asyncio.AbstractEventLoop | None = None
        self._watched_thread = 0
        self._own: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._store: Store | None = None

    def start(self) -> None:
        """Watch the running event loop from now on."""
        self._watched = asyncio.get_running_loop()
        self._watched_thread = threading.get_ident()
        self._thread.start()

    async def stop(self) -> None:
        """End the thread. Not safe to cancel: its connection may stay open until the process ends."""
        if not self._thread.is_alive():
            return
        await asyncio.to_thread(self._started.wait)
        assert self._own is not None
        assert self._stopped is not None
        with suppress(RuntimeError):
            # It has ended in this moment.
            self._own.call_soon_threadsafe(self._stopped.set)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with suppress(RuntimeError):
            # The watched loop was closed.
            asyncio.run(self._watch())

    async def _watch(self) -> None:
        self._own, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        interval_s = self._lease_s / CHECKS_PER_LEASE
        try:
            while not await _is_set_within(self._stopped, interval_s):
                sent_at = time.monotonic()
                answered = self._ask()
                if not await _is_set_within(answered, interval_s):
                    await self._bridge(answered, sent_at)
        finally:
            if self._store is not None:
                await self._store.close()

    def _ask(self) -> asyncio.Event:
        """Return an event that is set once the watched loop runs."""
        assert self._watched is not None
        assert self._own is not None
        answered = asyncio.Event()
        own = self._own

        def answer() -> None:
            with suppress(RuntimeError):
                # This thread has ended.
                own.call_soon_threadsafe(answered.set)

        self._watched.call_soon_threadsafe(answer)
        return answered

    async def _bridge(self, answered: asyncio.Event, blocked_at: float) -> None:
        """Renew all leases until the watched loop runs again, then report the block."""
        task, where = self._seen()
        while not answered.is_set():
            if time.monotonic() - blocked_at < MAX_BLOCKED_S:
                await self._renew()
            await _is_set_within(answered, renewal_interval_s(self._lease_s))
        assert self._watched is not None
        self._watched.call_soon_threadsafe(self._on_block, Block(time.monotonic() - blocked_at, task, where))

    async def _renew(self) -> None:
        try:
            if self._store is None:
                self._store = await self._open_store()
            store = self._store
            held = self._held()
            results = await asyncio.gather(
                *(jobs.renew(store, each.job, self._consumer, each.instructions_id) for each in held),
                return_exceptions=True,
            )
        except (StoreError, RedisError, OSError) as error:
            logger.warning("lease_renewal_failed", extra={"error": type(error).__name__})
            return
        assert self._watched is not None
        for each, result in zip(held, results, strict=True):
            if isinstance(result, str) and result != "held":
                self._watched.call_soon_threadsafe(self._on_lost, each.job, result)

    def _seen(self) -> tuple[str, str]:
        """Return the task that runs in the watched loop, and the place at which its thread is."""
        task = asyncio.current_task(self._watched)
        frame = sys._current_frames().get(self._watched_thread)
        where = ""
        if frame is not None:
            code = frame.f_code
            where = f"{Path(code.co_filename).name}:{frame.f_lineno}:{code.co_name}"
        return task.get_name() if task is not None else "", where


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
