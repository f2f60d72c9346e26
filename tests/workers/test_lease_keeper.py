"""The lease keeper: leases are renewed while the event loop is blocked, and the block is reported."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis

from gateway.streams import keys
from gateway.streams.store.store import open_store
from tests.gateway.streams.steps import Conversation
from tests.stores import RealServer
from workers import lease_keeper
from workers.lease_keeper import Block, Held, LeaseKeeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from gateway.streams.queued_jobs import Job
    from gateway.streams.store.store import Store

LEASE_S = 0.3


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with RealServer() as server:
        yield server


class Watched:
    """A job that a worker holds, and what the keeper reports."""

    def __init__(self, store: Store, url: str, job: Job) -> None:
        self.client = redis.Redis.from_url(url)
        self.job = job
        self.conversation = Conversation(store, job.conversation)
        self.lost: list[tuple[Job, str]] = []
        self.blocks: list[Block] = []
        self.reported = asyncio.Event()

    def on_block(self, block: Block) -> None:
        self.blocks.append(block)
        self.reported.set()

    def pending(self) -> Any:
        """Return the job's owner and idle time, without the event loop."""
        stream = keys.jobs(self.conversation.partition)
        (found,) = self.client.xpending_range(stream, keys.GROUP, self.job.id, self.job.id, 1)
        return found

    def age(self, idle_ms: int = 60_000, consumer: str = "w1") -> None:
        stream = keys.jobs(self.conversation.partition)
        self.client.xclaim(stream, keys.GROUP, consumer, 0, [self.job.id], idle=idle_ms, justid=True)


def block_until(condition: Callable[[], bool]) -> None:
    """Block the event loop, as a generator does that never awaits; the condition is examined in another thread."""
    deadline = time.monotonic() + 20
    met: list[bool] = []

    def examine() -> None:
        while not (met or time.monotonic() > deadline):
            met.extend([True] if condition() else [])

    examining = threading.Thread(target=examine)
    examining.start()
    while not met and time.monotonic() < deadline:
        time.sleep(0.005)
    examining.join()
    assert met


@asynccontextmanager
async def watched(server: RealServer) -> AsyncIterator[Watched]:
    store = await open_store(server.url)
    conversation = Conversation(store)
    await store.client.flushall()
    await conversation.prepare()
    await conversation.ask()
    job = await conversation.take("w1")
    found = Watched(store, server.url, job)
    keeper = LeaseKeeper(
        open_store=partial(open_store, server.url),
        consumer="w1",
        lease_s=LEASE_S,
        held=lambda: [Held(job, None)],
        on_lost=lambda job, result: found.lost.append((job, result)),
        on_block=found.on_block,
    )
    keeper.start()
    yield found
    await keeper.stop()
    await keeper.stop()
    assert not keeper._thread.is_alive()
    found.client.close()
    await store.close()


async def test_lease_is_renewed_again_and_again_while_the_loop_is_blocked(server: RealServer) -> None:
    async with watched(server) as it:
        for _ in range(3):
            it.age()
            block_until(lambda: it.pending()["time_since_delivered"] < 60_000)
        async with asyncio.timeout(20):
            await it.reported.wait()
        assert it.blocks[0].where.startswith("test_lease_keeper.py:")
        assert it.blocks[0].seconds > 0
        assert it.lost == []


async def test_block_names_the_task_that_runs(server: RealServer) -> None:
    async with watched(server) as it:

        async def generate() -> None:
            it.age()
            block_until(lambda: it.pending()["time_since_delivered"] < 60_000)

        await asyncio.create_task(generate(), name="r00")
        async with asyncio.timeout(20):
            await it.reported.wait()
        assert it.blocks[0].task == "r00"


@pytest.mark.live
async def test_job_that_another_worker_took_is_reported_after_the_block(server: RealServer) -> None:
    async with watched(server) as it:
        it.age(consumer="w2")
        time_lost = time.monotonic()
        # Three leases: the keeper has asked for the job at least once.
        block_until(lambda: time.monotonic() - time_lost > 3 * LEASE_S)
        async with asyncio.timeout(20):
            await it.reported.wait()
        assert (it.job, "lost") in it.lost
        assert it.pending()["consumer"] == b"w2"


@pytest.mark.live
async def test_loop_blocked_for_very_long_loses_its_leases(server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_keeper, "MAX_BLOCKED_S", 0.0)
    async with watched(server) as it:
        it.age()
        begun = time.monotonic()
        block_until(lambda: time.monotonic() - begun > 3 * LEASE_S)
        assert it.pending()["time_since_delivered"] >= 60_000
        async with asyncio.timeout(20):
            await it.reported.wait()


async def test_running_loop_is_not_reported(server: RealServer) -> None:
    async with watched(server) as it:
        for _ in range(20):
            await asyncio.sleep(LEASE_S / 20)
        assert it.blocks == []
