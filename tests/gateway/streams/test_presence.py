"""Presence: heartbeats, live processes and queue counts, on every kind of store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.streams import keys, metrics, presence
from gateway.streams.records import Gateway, Queue, Watched, Worker, Working
from gateway.streams.unreadable import TALLY
from tests.gateway.streams.steps import Conversation

if TYPE_CHECKING:
    import pytest

    from gateway.streams.store.store import Store

GATEWAY = Gateway(
    name="g1",
    age=10.0,
    cpu=0.1,
    memory=1 << 20,
    connections=3,
    viewers=5,
    behind=1,
    open_logs=1,
    received=40.0,
    delivered=200.0,
    responses=(
        Watched(
            response="r00aaaaaaaaaaaaaaaa", conversation="c1", state="running", attempt=1, viewers=5, behind=1, lag=7
        ),
    ),
)
WORKER = Worker(
    name="w1",
    age=20.0,
    cpu=0.2,
    memory=1 << 21,
    running=1,
    concurrency=300,
    models=("default",),
    responses=(
        Working(
            response="r00aaaaaaaaaaaaaaaa",
            conversation="c1",
            model="default",
            attempt=1,
            age=2.5,
            entries=9,
            size=80,
            rate=40.0,
        ),
    ),
)


async def test_reported_process_is_live_until_removed(store: Store) -> None:
    assert await presence.live_processes(store) == []
    await presence.report(store, WORKER)
    await presence.report(store, GATEWAY)
    assert await presence.live_processes(store) == [GATEWAY, WORKER]
    assert await presence.counts(store) == {"gateway": 1, "worker": 1}
    await presence.remove(store, GATEWAY)
    assert await presence.live_processes(store) == [WORKER]
    assert await presence.counts(store) == {"gateway": 0, "worker": 1}


async def test_process_without_heartbeats_expires(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "RECORD_TTL_S", 0.05)
    await presence.report(store, WORKER)
    async with asyncio.timeout(5.0):
        while await presence.counts(store) != {"gateway": 0, "worker": 0}:
            await asyncio.sleep(0.01)
    assert await presence.live_processes(store) == []
    assert not await store.client.exists(keys.presence())


async def test_heartbeats_survive_errors_and_end_with_a_removal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "HEARTBEAT_INTERVAL_S", 0.01)
    tries = 0

    def record() -> Worker:
        nonlocal tries
        tries += 1
        if tries % 2:
            raise KeyError("a bug")
        return WORKER

    async def observe() -> None:
        raise ZeroDivisionError

    heartbeats = asyncio.create_task(presence.heartbeat_loop(store, record, observe))
    async with asyncio.timeout(10.0):
        while tries < 6 or not await presence.live_processes(store):
            await asyncio.sleep(0.005)
    tries = 1
    heartbeats.cancel()
    await asyncio.gather(heartbeats, return_exceptions=True)
    assert await presence.live_processes(store) == []


async def test_records_of_newer_releases_are_skipped(store: Store) -> None:
    await presence.report(store, WORKER)
    await store.client.sadd(keys.presence(), "gateway:new")
    await store.client.set(keys.heartbeat("gateway:new"), b'{"kind":"oracle"}')
    assert await presence.live_processes(store) == [WORKER]


async def test_queue_counts_waiting_running_and_behind(store: Store) -> None:
    assert await presence.queue(store) == Queue()
    conversation = other = Conversation(store)
    while other.partition == conversation.partition:
        other = Conversation(store)
    await conversation.prepare()
    first = await conversation.ask()
    await conversation.ask()
    await other.ask()
    waiting = await presence.queue(store)
    assert (waiting.waiting, waiting.running, waiting.behind) == (2, 0, 1)
    assert 0 <= waiting.lag < 5
    await conversation.take("w1")
    while (running := await presence.queue(store)).lag < 0.005:
        await asyncio.sleep(0.001)
    assert (running.waiting, running.running, running.behind) == (1, 1, 1)
    await conversation.stop(first.response)
    ended = await presence.queue(store)
    assert (ended.waiting, ended.running, ended.behind) == (2, 0, 0)


async def test_counting_forgets_processes_without_a_heartbeat(store: Store) -> None:
    names = [f"worker:w{number}" for number in range(3)] + ["gateway:g"]
    await store.client.sadd(keys.presence(), *names)
    await store.client.set(keys.heartbeat("worker:w1"), b"{}")
    assert await presence.counts(store) == {"gateway": 0, "worker": 1}
    assert await store.client.smembers(keys.presence()) == {b"worker:w1"}


async def test_skipped_entries_are_counted_at_once_and_logged_rarely(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "HEARTBEAT_INTERVAL_S", 0.001)
    TALLY.take()
    for _ in range(3):
        TALLY.add("r1")
    before = metrics.SKIPPED._value.get()
    beating = asyncio.create_task(presence.heartbeat_loop(store, lambda: WORKER))
    async with asyncio.timeout(10):
        while not any(record.getMessage() == "entries_skipped" for record in caplog.records):
            await asyncio.sleep(0.001)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    assert metrics.SKIPPED._value.get() - before == 3
    (event,) = [vars(record) for record in caplog.records if record.getMessage() == "entries_skipped"]
    assert (event["log"], event["entries"]) == ("r1", 3)
