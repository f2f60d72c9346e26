"""tokenwire worker"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

import click

from gateway.cli.metrics_port import open_metrics_port
from gateway.cli.options import (
    describe_store,
    require_provider,
    require_shared_store,
    run_to_end,
    with_settings,
)
from gateway.cli.processes import Parts
from gateway.process.collector import settle_collector
from gateway.process.signals import Signals
from gateway.process.supervisor import orphaned
from gateway.streams.store.store import Store, open_store
from workers.main import create_pool, drain_pool
from workers.settings import WorkerSettings


@click.command()
@with_settings(WorkerSettings)
def worker(settings: WorkerSettings) -> None:
    """Run a worker: it takes jobs from the store and appends what providers answer. Any number may share a store."""
    require_shared_store(settings)
    run_to_end(work(settings))


async def work(settings: WorkerSettings, *, has_parent: bool = False) -> None:
    """Generate responses until a signal, a failure or the end of the parent process; raises StoreError, ClickException.

    Not safe to cancel: jobs that are not handed over are taken over only after their leases.
    """
    store = await open_store(settings.store, settings.lifetimes)
    try:
        require_provider(settings)
        pool = create_pool(settings, store)
        settle_collector()
        signals = Signals()
        async with open_metrics_port(settings, partial(_ready, store)), asyncio.TaskGroup() as group:
            parts = Parts(group)
            parts.start("worker", pool.run())
            parts.watch("signals", signals.leave.wait())
            if has_parent:
                parts.watch("parent", orphaned())
            targets = "; ".join(pool.targets)
            click.echo(f"Tokenwire worker {pool.name} on the store {describe_store(settings.store)}; models {targets}")
            sys.stdout.flush()
            try:
                await parts.stopped.wait()
            finally:
                await drain_pool(pool, settings.drain, signals.now)
                parts.cancel_watches()
    finally:
        await store.close()
    parts.raise_failure()


async def _ready(store: Store) -> Any:
    from gateway.operations.metrics_server import readiness

    return await readiness(store)
