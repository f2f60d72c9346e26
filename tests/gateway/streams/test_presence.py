"""Who is there, and what waits: on every kind of store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.streams import keys, presence
from gateway.streams.records import Gateway, Queue, Watched, Worker, Working
from tests.gateway.streams.steps import Talk

if TYPE_CHECKING:
    import pytest

    from gateway.streams.store.store import Store

GATEWAY = Gateway(
    "g1", 10.0, 0.1, 1 << 20, 3, 5, 1, 1, 40.0, 200.0, (Watched("r00aaaaaaaaaaaaaaaa", "c1", "running", 1, 5, 1, 7),)
)
WORKER = Worker(
    "w1",
    20.0,
    0.2,
    1 << 21,
    1,
    300,
    ("default",),
    (Working("r00aaaaaaaaaaaaaaaa", "c1", "default", 1, 2.5, 9, 80, 40.0),),
)


async def test_who_gives_a_sign_of_life_is_seen_until_it_leaves(store: Store) -> None:
    assert await presence.live_processes(store) == []
    await presence.report(store, WORKER)
    await presence.report(store, GATEWAY)
    assert await presence.live_processes(store) == [GATEWAY, WORKER]
    assert await presence.counts(store) == {"gateway": 1, "worker": 1}
    await presence.remove(store, GATEWAY)
    assert await presence.live_processes(store) == [WORKER]
    assert await presence.counts(store) == {"gateway": 0, "worker": 1}


async def test_who_falls_silent_is_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "FORGOTTEN_AFTER", 0.05)
    await presence.report(store, WORKER)
    async with asyncio.timeout(5.0):
        while await presence.counts(store) != {"gateway": 0, "worker": 0}:
            await asyncio.sleep(0.01)
    assert await presence.live_processes(store) == []
    assert not await store.client.exists(keys.presence())


async def test_signs_of_life_go_on_whatever_goes_wrong_and_end_with_a_leave(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "HEARTBEAT_INTERVAL_S", 0.01)
    tries = 0

    def record() -> Worker:
        nonlocal tries
        tries += 1
        if tries % 2:
            raise KeyError("a mistake of ours")
        return WORKER

    async def look() -> None:
        raise ZeroDivisionError

    showing = asyncio.create_task(presence.heartbeat_loop(store, record, look))
    async with asyncio.timeout(10.0):
        while tries < 6 or not await presence.live_processes(store):
            await asyncio.sleep(0.005)
    tries = 1
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    assert await presence.live_processes(store) == []


async def test_what_a_newer_release_says_is_passed_over(store: Store) -> None:
    await presence.report(store, WORKER)
    await store.client.sadd(keys.presence(), "gateway:new")
    await store.client.set(keys.heartbeat("gateway:new"), b'{"kind":"oracle"}')
    assert await presence.live_processes(store) == [WORKER]


async def test_the_queue_tells_what_waits_runs_and_is_behind(store: Store) -> None:
    assert await presence.queue(store) == Queue()
    talk = other = Talk(store)
    while other.partition == talk.partition:
        other = Talk(store)
    await talk.prepare()
    first = await talk.ask()
    await talk.ask()
    await other.ask()
    waiting = await presence.queue(store)
    assert (waiting.waiting, waiting.running, waiting.behind) == (2, 0, 1)
    assert 0 <= waiting.lag < 5
    await talk.take("w1")
    while (running := await presence.queue(store)).lag < 0.005:
        await asyncio.sleep(0.001)
    assert (running.waiting, running.running, running.behind) == (1, 1, 1)
    await talk.stop(first.response)
    ended = await presence.queue(store)
    assert (ended.waiting, ended.running, ended.behind) == (2, 0, 0)
