"""Models that workers serve: refused only where it is known that no worker serves them."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from gateway import served_models
from gateway.served_models import ServedModels
from gateway.streams import presence
from gateway.streams.store.errors import StoreUnavailableError
from gateway.streams.store.store import open_store
from tests.gateway.streams.test_presence import WORKER


@pytest.fixture(autouse=True)
def _without_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_models, "GRACE_S", 0.0)


async def test_model_of_a_live_worker_is_served_and_another_is_not() -> None:
    store = await open_store("memory://")
    await presence.report(store, replace(WORKER, models=("default", "gpu")))
    served = ServedModels(store)
    assert [await served.serves(model) for model in ("gpu", "default", "other")] == [True, True, False]
    await store.close()


async def test_without_a_worker_every_model_may_be_served() -> None:
    store = await open_store("memory://")
    assert await ServedModels(store).serves("gpu")
    await store.close()


async def test_model_whose_workers_restart_stays_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_models, "MIN_INTERVAL_S", 0.0)
    store = await open_store("memory://")
    gpu = replace(WORKER, name="w2", models=("gpu",))
    await presence.report(store, WORKER)
    await presence.report(store, gpu)
    served = ServedModels(store)
    assert await served.serves("gpu")
    await presence.remove(store, gpu)
    assert await served.serves("gpu")
    monkeypatch.setattr(served_models, "SEEN_S", 0.0)
    assert not await served.serves("gpu")
    await store.close()


async def test_records_are_read_once_in_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store("memory://")
    await presence.report(store, WORKER)
    served, reads = ServedModels(store), 0
    read = presence.live_processes

    async def counted(*arguments: object) -> object:
        nonlocal reads
        reads += 1
        return await read(store)

    monkeypatch.setattr(presence, "live_processes", counted)
    monkeypatch.setattr(served_models, "MIN_INTERVAL_S", 60.0)
    assert [await served.serves(f"m{number}") for number in range(20)] == [False] * 20
    assert reads == 1
    await store.close()


async def test_unavailable_store_refuses_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store("memory://")

    async def unavailable(_: object) -> object:
        raise StoreUnavailableError("away")

    monkeypatch.setattr(presence, "live_processes", unavailable)
    assert await ServedModels(store).serves("gpu")
    await store.close()


async def test_model_of_a_worker_that_starts_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_models, "GRACE_S", 20.0)
    monkeypatch.setattr(served_models, "MIN_INTERVAL_S", 0.005)
    store = await open_store("memory://")
    await presence.report(store, WORKER)
    asked = asyncio.create_task(ServedModels(store).serves("gpu"))
    await asyncio.sleep(0)
    await presence.report(store, replace(WORKER, name="w2", models=("gpu",)))
    assert await asked
    await store.close()
