"""What a gateway does for answers without a worker: its looks, and what it waits for after an outage."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from gateway.deadlines import Deadlines
from gateway.hub import Hub
from gateway.streams import deadlines, keys
from gateway.streams.store.errors import StoreUnavailableError
from gateway.streams.store.store import Store, open_store
from tests.gateway.streams.steps import Conversation

if TYPE_CHECKING:
    import pytest

    from gateway.streams.deadlines import Overdue


async def until_open(conversation: Conversation, count: int) -> None:
    async with asyncio.timeout(20):
        while len(await conversation.open()) != count:
            await asyncio.sleep(0.005)


async def test_overdue_answer_ends_and_lost_job_is_queued_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, logger="gateway.deadlines")
    monkeypatch.setattr(deadlines, "REQUEUE_INTERVAL_S", 0.01)
    store = await open_store("memory://")
    conversation = Conversation(store)
    await conversation.ask()
    await conversation.redis.delete(keys.jobs(conversation.partition))
    running = asyncio.create_task(Deadlines(store, Hub(), queue_s=0.0, lease_s=0.05).run())
    await until_open(conversation, 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [record.getMessage() for record in caplog.records] == ["response_overdue"]
    await store.close()


async def test_partitions_are_searched_for_lost_jobs_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a long test: at the same time they opened fifteen connections to the store, which stayed open."""
    monkeypatch.setattr(deadlines, "REQUEUE_INTERVAL_S", 0.0)
    running_searches, searched = 0, set()

    async def requeue(store: Store, partition: int, lease_s: float) -> None:
        nonlocal running_searches
        running_searches += 1
        assert running_searches == 1
        await asyncio.sleep(0)
        running_searches -= 1
        searched.add(partition)

    monkeypatch.setattr(deadlines, "requeue", requeue)
    store = await open_store("memory://")
    running = asyncio.create_task(Deadlines(store, Hub(), queue_s=60.0, lease_s=0.05).run())
    async with asyncio.timeout(20):
        while len(searched) < keys.PARTITIONS:
            await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.close()


async def test_outage_is_logged_once_and_delays_ends_by_a_lease(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, logger="gateway.deadlines")
    store = await open_store("memory://")
    conversation = Conversation(store)
    await conversation.ask()
    look, looks = deadlines.look, 0

    async def failing(store: Store, partition: int, *arguments: Any) -> Overdue:
        nonlocal looks
        looks += 1
        if looks <= 2 * keys.PARTITIONS:
            raise StoreUnavailableError("away")
        return await look(store, partition, *arguments)

    monkeypatch.setattr(deadlines, "look", failing)
    running = asyncio.create_task(Deadlines(store, Hub(), queue_s=0.0, lease_s=0.2).run())
    await until_open(conversation, 0)
    assert looks > 3 * keys.PARTITIONS
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    events = [record.getMessage() for record in caplog.records]
    assert events == ["deadlines_not_checked", "response_overdue"]
    await store.close()


async def test_fault_of_one_partition_is_logged_and_leaves_the_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR, logger="gateway.deadlines")
    store = await open_store("memory://")
    conversation = Conversation(store)
    await conversation.ask()
    look = deadlines.look

    async def failing(store: Store, partition: int, *arguments: Any) -> Overdue:
        if partition != conversation.partition:
            raise ValueError("secret")
        return await look(store, partition, *arguments)

    monkeypatch.setattr(deadlines, "look", failing)
    running = asyncio.create_task(Deadlines(store, Hub(), queue_s=0.0, lease_s=0.05).run())
    await until_open(conversation, 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert {record.getMessage() for record in caplog.records} == {"deadlines_failed"}
    assert "secret" not in caplog.text
    await store.close()
