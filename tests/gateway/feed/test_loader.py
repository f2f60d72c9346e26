"""The loader: a log that cannot be read concerns its own viewers, and no other log."""

from __future__ import annotations

import asyncio

import pytest

from gateway.feed.health import StoreHealth
from gateway.feed.loader import Loader, LogUnreadableError
from gateway.hub import Hub
from gateway.room import HISTORY
from gateway.streams import history_log, keys
from gateway.streams.history_log import Accepted, Submission
from gateway.streams.store.errors import StoreUnavailableError
from gateway.streams.store.store import Store, open_store


async def submit(store: Store, conversation: str, key: str = "k") -> str:
    """Submit a message and return its response."""
    accepted = await history_log.submit(
        store, Submission(conversation=conversation, key=key, model="default", text="Hi")
    )
    assert isinstance(accepted, Accepted)
    return accepted.response


def loader_of(store: Store, hub: Hub) -> Loader:
    return Loader(store, hub, StoreHealth(), lambda: None)


async def test_unreadable_response_log_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    store, hub = await open_store("memory://"), Hub()
    loader, room = loader_of(store, hub), hub.open("c1")
    response = await submit(store, "c1")
    broken = [keys.response_id("c1", f"{number:016d}") for number in range(3)]
    for name in broken:
        await store.client.set(keys.log(name), "no stream")
    room.to_load |= {HISTORY, *broken, "rzz0000000000000000"}
    await loader.load(room)
    assert room.responses.keys() == {response}
    assert room.unreadable == {*broken, "rzz0000000000000000"}
    assert not room.to_load
    assert [record.message for record in caplog.records] == ["log_apply_failed"] * 4
    await store.close()


async def test_unreadable_history_is_a_typed_error_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    store, hub = await open_store("memory://"), Hub()
    loader, room, other = loader_of(store, hub), hub.open("c1"), hub.open("c2")
    response = await submit(store, "c2")
    await store.client.set(keys.history("c1"), "no stream")
    for _ in range(3):
        room.to_load.add(HISTORY)
        with pytest.raises(LogUnreadableError):
            await loader.load(room)
    assert [record.message for record in caplog.records] == ["log_apply_failed"]
    assert not room.to_load
    other.to_load.add(HISTORY)
    await loader.load(other)
    assert other.history.open_responses() == [response]
    await store.client.delete(keys.history("c1"))
    room.to_load.add(HISTORY)
    await loader.load(room)
    assert not room.unreadable
    await store.close()


async def test_failing_store_leaves_the_log_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    store, hub = await open_store("memory://"), Hub()
    loader, room = loader_of(store, hub), hub.open("c1")

    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailableError

    monkeypatch.setattr(store, "retry", fail)
    room.to_load.add(HISTORY)
    with pytest.raises(StoreUnavailableError):
        await loader.load(room)
    assert (room.to_load, room.unreadable) == ({HISTORY}, set())
    await store.close()


async def test_room_has_one_background_load_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store, hub = await open_store("memory://"), Hub()
    loader, room = loader_of(store, hub), hub.open("c1")
    response = await submit(store, "c1")
    room.loaded = True
    reading, may_read, reads = asyncio.Event(), asyncio.Event(), 0

    async def read(*_: object, **__: object) -> list[object]:
        nonlocal reads
        reads += 1
        reading.set()
        await may_read.wait()
        return []

    monkeypatch.setattr(history_log, "read", read)
    async with asyncio.timeout(60):
        for _ in range(100):
            room.to_load.add(HISTORY)
            loader.load_soon(room)
        await reading.wait()
        running = len(asyncio.all_tasks())
        for _ in range(100):
            room.to_load.add(response)
            loader.load_soon(room)
        assert len(asyncio.all_tasks()) == running
        may_read.set()
        while room.to_load or loader.is_loading(room):
            await asyncio.sleep(0)
    assert reads == 1
    assert room.responses.keys() == {response}
    await store.close()
