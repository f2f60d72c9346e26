"""One worker process: a pool on a store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from workers.lease_keeper import StoreAddress
from workers.options import GenerationOptions
from workers.pool import Pool

if TYPE_CHECKING:
    from gateway.streams.store.store import Store
    from workers.settings import WorkerSettings


def create_pool(settings: WorkerSettings, store: Store) -> Pool:
    """Return a pool with the providers of these settings; raises ValueError for a target that cannot be served."""
    options = GenerationOptions(
        lease_s=settings.lease,
        max_attempts=settings.attempts,
        recovery=settings.recovery,
        batching_interval_s=settings.window,
        store_patience_s=settings.store_patience,
        provider_patience_s=settings.patience,
        max_calls=settings.calls,
        max_call_tokens=settings.call_tokens,
        first_token_timeout_s=settings.first_timeout,
        idle_timeout_s=settings.idle_timeout,
        answer_timeout_s=settings.answer_timeout,
        max_answer_bytes=settings.longest,
        max_prompt_characters=settings.context,
        timeouts=settings.timeouts(),
    )
    targets = settings.model_targets()
    return Pool(
        store,
        targets,
        options,
        concurrency=settings.concurrency,
        demo_rate=settings.demo_rate,
        # No other process can take jobs of a store in memory over.
        shared_store=None if store.location.startswith("memory:") else StoreAddress(settings.store, settings.lifetimes),
    )


async def drain_pool(pool: Pool, drain_s: float, stop_now: asyncio.Event) -> None:
    """Shut a pool down within `drain_s` seconds; at once where `stop_now` is set. Jobs that remain go to other workers.

    Not safe to cancel: jobs that are not handed over are taken over only after their leases.
    """
    draining = asyncio.create_task(pool.shut_down(drain_s))
    stopping = asyncio.create_task(stop_now.wait())
    await asyncio.wait([draining, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if draining.done():
        await draining
        return
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    await pool.shut_down(0.0)
