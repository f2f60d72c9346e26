"""The loader: a log that cannot be read concerns its own viewers, and no other log."""

from __future__ import annotations

import asyncio
import math
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from gateway.feed.health import StoreHealth
from gateway.feed.loader import LOG_COUNT, MAX_COUNT, Loader, LogUnreadableError, MemoryFullError
from gateway.history_replica import ORIGIN
from gateway.hub import Hub
from gateway.response_replica import ResponseReplica
from gateway.room import HISTORY, Position
from gateway.streams import history_log, keys, log_entries, response_log
from gateway.streams.history_log import Accepted, Submission
from gateway.streams.log_entries import NONCES, End, HistoryId, LogId, Start, UserMessage
from gateway.streams.store.errors import StoreUnavailableError
from gateway.streams.store.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.frame_batch import FrameBatch
    from gateway.replica import Outcome
    from gateway.room import Log, Room, Write


async def submit(store: Store, conversation: str, key: str = "k") -> str:
    """Submit a message and return its response."""
    accepted = await history_log.submit(
        store, Submission(conversation=conversation, key=key, model="default", text="Hi")
    )
    assert isinstance(accepted, Accepted)
    return accepted.response


def loader_of(store: Store, hub: Hub, max_bytes: float = math.inf) -> Loader:
    return Loader(store, hub, StoreHealth(), lambda: None, max_bytes)


async def load(loader: Loader, room: Room, log: Log) -> None:
    room.to_load.add(log)
    await loader.load(room)


class Viewer:
    """A viewer that records its frames."""

    direct_write: Write | None = None

    def __init__(self) -> None:
        self.frames: list[str] = []

    def send(self, batch: FrameBatch) -> None:
        self.frames += [frame.type for frame in batch]


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

    async def read(*_: object, **__: object) -> tuple[list[object], bool]:
        nonlocal reads
        reads += 1
        reading.set()
        await may_read.wait()
        return [], True

    monkeypatch.setattr(history_log, "read_piece", read)
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


async def test_long_logs_are_read_in_pieces_and_applied_whole() -> None:
    """A viewer that has more than the first piece must not be reset while the rest is read."""
    store, hub = await open_store("memory://"), Hub()
    loader, room = loader_of(store, hub), hub.open("c1")
    response = await submit(store, "c1")
    start = LogId(NONCES, 2)
    values = [log_entries.encode(log_entries.START, Start("default"))]
    values += [log_entries.TEXT + b"x" * 100 for _ in range(2 * LOG_COUNT + 7)]
    for index, value in enumerate(values):
        entry = LogId(start.attempt, start.seq + index)
        await store.client.xadd(keys.log(response), {log_entries.FIELD: value}, id=str(entry))
    last = LogId(start.attempt, len(values) + 1)
    await load(loader, room, HISTORY)
    assert room.responses[response].tail == last
    hub.subscribe(room, viewer := Viewer(), Position(room.history.tail, ((response, last),)))
    # The replica is built anew, and from a tail in its middle.
    del room.responses[response]
    await load(loader, room, response)
    hub.flush()
    assert (viewer.frames, room.responses[response].tail) == ([], last)
    replica = ResponseReplica(response)
    replica.extend(None, (await response_log.read(store, response))[:3])
    room.responses[response] = replica
    await load(loader, room, response)
    assert replica.tail == last
    for seq in range(3, 3 * MAX_COUNT):
        value = log_entries.encode(log_entries.MESSAGE, UserMessage(f"m{seq}", "Hi"))
        await store.client.xadd(keys.history("c1"), {log_entries.FIELD: value}, id=f"{seq}-1")
    await load(loader, room, HISTORY)
    assert room.history.tail == HistoryId(3 * MAX_COUNT - 1, 1)
    await store.close()


async def test_pieces_of_a_long_log_are_applied_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a hostile client: 125,000 entries were applied in one step of 88 ms."""
    store, hub = await open_store("memory://"), Hub()
    loader, room = loader_of(store, hub), hub.open("c1")
    response = await submit(store, "c1")
    values = [log_entries.encode(log_entries.START, Start("default"))]
    values += [log_entries.TEXT + b"abc"] * (3 * LOG_COUNT)
    values += [log_entries.encode(log_entries.END, End("complete"))]
    for seq, value in enumerate(values, 2):
        await store.client.xadd(keys.log(response), {log_entries.FIELD: value}, id=f"{NONCES}-{seq}")
    applied: list[int] = []
    extend = ResponseReplica.extend

    def counted(replica: ResponseReplica, previous: Any, entries: Sequence[Any]) -> Outcome:
        applied.append(len(entries))
        return extend(replica, previous, entries)

    monkeypatch.setattr(ResponseReplica, "extend", counted)
    await load(loader, room, HISTORY)
    assert len(room.responses[response].text.data) == 9 * LOG_COUNT
    assert len(applied) == 4
    assert max(applied) == LOG_COUNT
    await store.close()


async def test_only_the_first_entry_of_another_conversations_log_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may name 64 of them: read whole, six such frames took 17 seconds of a gateway."""
    store, hub = await open_store("memory://"), Hub()
    other = next(name for number in count() if keys.partition_of(name := f"o{number}") == keys.partition_of("c1"))
    response = await submit(store, other)
    for seq in range(3, 100):
        await store.client.xadd(keys.log(response), {log_entries.FIELD: b"Ta"}, id=f"{NONCES}-{seq}")
    loader, room = loader_of(store, hub), hub.open("c1")
    read, entries = response_log.read, 0

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal entries
        found = await read(*arguments, **options)
        entries += len(found)
        return found

    monkeypatch.setattr(response_log, "read", counted)
    await load(loader, room, response)
    assert (entries, room.responses, room.expired) == (1, {}, {response})
    await store.close()


@pytest.mark.parametrize("log", ["history", "response"])
async def test_log_that_a_failover_changes_is_read_again(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, hub = await open_store("memory://"), Hub()
    loader, room = loader_of(store, hub), hub.open("c1")
    response = await submit(store, "c1")
    module: Any = history_log if log == "history" else response_log
    function = "read_piece" if log == "history" else "read"
    key = keys.history("c1") if log == "history" else keys.log(response)
    for seq in range(3, 3 + LOG_COUNT):
        await store.client.xadd(
            key, {log_entries.FIELD: b"?"}, id=f"{seq}-1" if log == "history" else f"{NONCES}-{seq}"
        )
    if log == "response":
        # The room knows the response.
        await load(loader, room, HISTORY)
        room.responses.clear()
    read, reads = getattr(module, function), 0

    async def read_and_lose(*arguments: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        found = await read(*arguments, **options)
        if reads == 1:
            await store.client.xtrim(key, maxlen=0, approximate=False)
        return found

    monkeypatch.setattr(module, function, read_and_lose)
    await load(loader, room, HISTORY if log == "history" else response)
    assert reads > 2
    assert log == "response" or room.history.tail == ORIGIN
    assert not room.responses
    await store.close()


async def test_ended_responses_that_clients_name_are_not_loaded_beyond_the_limit() -> None:
    store, hub = await open_store("memory://"), Hub()
    loader, room = loader_of(store, hub, 20_000), hub.open("c1")
    ended = [await submit(store, "c1", f"k{number}") for number in range(3)]
    for response in ended:
        await response_log.end(store, "c1", response, End("stopped"))
    response = await submit(store, "c1")
    await load(loader, room, HISTORY)
    assert room.responses.keys() == {response}
    # One below the limit is loaded.
    hub.held = 19_999
    await load(loader, room, ended[0])
    hub.held = 20_000
    room.to_load |= {HISTORY, *ended}
    with pytest.raises(MemoryFullError):
        await loader.load(room)
    assert not room.to_load
    assert room.responses.keys() == {response, ended[0]}
    # An open one is loaded for all viewers.
    del room.responses[response]
    await load(loader, room, response)
    assert response in room.responses
    await store.close()
