"""The feed: memory that watched conversations take, and messages that are read from the store in pages."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.feed.feed import Feed
from gateway.feed.loader import MemoryFullError
from gateway.history_replica import ENTRY_BYTES, MAX_MESSAGES, MAX_SNAPSHOT_BYTES
from gateway.hub import Hub
from gateway.room import ROOM_BYTES, Position
from gateway.streams import history_log, keys, log_entries, response_log
from gateway.streams.history_log import Accepted, Submission
from gateway.streams.log_entries import End, HistoryId, UserMessage
from gateway.streams.store.store import Store, open_store
from gateway.watches import SUBJECT_SHARE, Watches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.frame_batch import FrameBatch
    from gateway.room import Write

TIMEOUT_S = 60.0


class Viewer:
    """A viewer that ignores frames."""

    direct_write: Write | None = None

    def send(self, batch: FrameBatch) -> None:
        pass


@asynccontextmanager
async def running_feed(max_bytes: int, watches: Watches | None = None) -> AsyncIterator[tuple[Store, Hub, Feed]]:
    store, hub = await open_store("memory://"), Hub()
    feed = Feed(store, hub, max_bytes, watches)
    task = asyncio.create_task(feed.run())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield store, hub, feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def ask(store: Store, conversation: str, key: str, text: str) -> str:
    submission = Submission(conversation=conversation, key=key, model="default", text=text)
    accepted = await history_log.submit(store, submission)
    assert isinstance(accepted, Accepted)
    return accepted.response


@pytest.mark.live
async def test_watch_beyond_the_memory_limit_is_refused_until_viewers_leave(caplog: pytest.LogCaptureFixture) -> None:
    async with running_feed(60_000) as (store, hub, feed):
        await ask(store, "large", "k", "x" * 30_000)
        viewer = Viewer()
        large = await feed.open("large", {})
        hub.subscribe(large, viewer, Position(large.history.tail))
        # One below the limit is served, and one room more may exceed it.
        watched = 0
        while hub.held < 60_000:
            room = await feed.open(f"small-{watched}", {})
            hub.subscribe(room, viewer, Position(room.history.tail))
            watched += 1
        assert 0 < watched <= 60_000 // ROOM_BYTES
        with pytest.raises(MemoryFullError):
            await feed.open("new", {})
        # Conversations that are held are still served.
        assert await feed.open("large", {}) is large
        unknown = keys.response_id("large", "0" * 16)
        with pytest.raises(MemoryFullError):
            await feed.open("large", {unknown: "1-1"})
        assert [record.message for record in caplog.records].count("memory_full") == 1
        hub.unsubscribe(viewer)
        while "large" in hub.rooms:
            await asyncio.sleep(0.01)
        assert (await feed.open("new", {})).loaded


class Watcher(Viewer):
    """A viewer of a subject, which ends a watch on request."""

    def __init__(self, hub: Hub, watches: Watches, subject: str) -> None:
        self.hub = hub
        self.watches = watches
        self.subject = subject
        self.ended: list[str] = []

    async def watch(self, feed: Feed, name: str) -> None:
        room = await feed.open(name, {})
        self.watches.add(self.subject, name, room.size, self)
        self.hub.subscribe(room, self, Position(room.history.tail))

    def end_watch(self, conversation: str) -> None:
        self.ended.append(conversation)
        self.watches.remove(self.subject, conversation, self)
        self.hub.unsubscribe(self, self.hub.rooms[conversation])


@pytest.mark.live
async def test_watches_that_grow_beyond_the_share_of_their_subject_end_when_memory_is_short() -> None:
    limit = 400_000
    watches = Watches(limit)
    async with running_feed(limit, watches) as (store, hub, feed):
        ann, bob = Watcher(hub, watches, "ann"), Watcher(hub, watches, "bob")
        await bob.watch(feed, "bobs")
        for number in range(16):
            await ann.watch(feed, f"c{number}")
        # They are small when they are watched, and grow.
        for number in range(16):
            await ask(store, f"c{number}", "k", "x" * 31_000)
        while hub.held > limit or not ann.ended:
            await asyncio.sleep(0.01)
        assert len(ann.ended) >= 16 - limit * SUBJECT_SHARE // 31_000 - 1
        assert bob.ended == []
        await bob.watch(feed, "another")


@pytest.mark.live
async def test_idle_rooms_are_evicted_for_new_ones() -> None:
    async with running_feed(100_000) as (store, hub, feed):
        for number in range(8):
            await ask(store, f"c{number}", "k", "x" * 30_000)
        for number in range(8):
            while f"c{number}" not in hub.rooms:
                try:
                    await feed.open(f"c{number}", {})
                except MemoryFullError:
                    await asyncio.sleep(0.01)
        assert hub.held < 150_000


async def test_pages_hold_every_message_once_with_its_answer() -> None:
    async with running_feed(1 << 20) as (store, _, feed):
        texts = [f"{number} " + "x" * (number % 7) * 9_000 for number in range(24)]
        for number, text in enumerate(texts):
            response = await ask(store, "c1", f"k{number}", text)
            await response_log.end(store, "c1", response, End("stopped"))
        room = await feed.open("c1", {})
        newest, earlier = room.history.newest()
        messages, pages = list(newest), 0
        while earlier is not None:
            page, earlier = await feed.page("c1", earlier)
            assert sum(len(bytes(message.text)) + ENTRY_BYTES for message in page[1:]) <= MAX_SNAPSHOT_BYTES
            messages[:0] = page
            pages += 1
        assert pages >= 2
        shown = [log_entries.unescape(bytes(each.text)[1:-1]) for each in messages if each.role == "user"]
        assert shown == texts
        questions = [each.id for each in messages if each.role == "user"]
        assert [each.replies_to for each in messages if each.role == "assistant"] == questions
        assert await feed.page("c1", HistoryId(1, 1)) == ([], None)
        assert await feed.page("nothing", HistoryId(9, 9)) == ([], None)


async def test_page_holds_a_bounded_number_of_messages() -> None:
    async with running_feed(1 << 20) as (store, _, feed):
        for seq in range(1, 2 * MAX_MESSAGES + 2):
            value = log_entries.encode(log_entries.MESSAGE, UserMessage(f"m{seq}", "Hi"))
            await store.client.xadd(keys.history("c1"), {log_entries.FIELD: value}, id=f"{seq}-1")
        for last, first in ((2 * MAX_MESSAGES + 1, MAX_MESSAGES + 1), (MAX_MESSAGES + 1, 1)):
            page, earlier = await feed.page("c1", HistoryId(last, 1))
            assert [message.id for message in page] == [f"m{seq}" for seq in range(first, last)]
            assert earlier == (HistoryId(first, 1) if first > 1 else None)
