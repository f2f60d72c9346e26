"""The pipeline: calls share round trips, and what becomes of one is no concern of the others."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from gateway.streams import jobs, response_log
from gateway.streams.log_entries import LogId
from gateway.streams.store import pipeline
from gateway.streams.store.pipeline import Pipeline
from gateway.streams.store.store import open_store
from tests.gateway.streams.steps import Talk, fold, text
from tests.stores import ONE_SERVER, RealServer, store_of_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.streams.store.store import Store


class Watched(Pipeline):
    """A pipeline that knows how many calls each of its round trips carried, and whose replies can be held up."""

    def __init__(self, store: Store, timeout_s: float = 5.0) -> None:
        super().__init__(store.client.connection_pool, timeout_s)
        self.trips: list[int] = []
        self._held: list[Any] | None = None

    def _depart(self) -> None:
        idle = not self._under_way
        super()._depart()
        if idle and self._under_way:
            self.trips.append(len(self._under_way))

    def replied(self, reply: Any) -> None:
        if self._held is None:
            super().replied(reply)
        else:
            self._held.append(reply)

    def hold(self) -> None:
        self._held = []

    def let_go(self) -> None:
        assert self._held is not None
        held, self._held = self._held, None
        for reply in held:
            self.replied(reply)

    async def until_under_way(self) -> None:
        async with asyncio.timeout(10):
            while not self._under_way:
                await asyncio.sleep(0)


# A pipeline leads to one server.
stores = pytest.fixture(params=ONE_SERVER, name="stores")(store_of_kind)


@pytest.fixture
async def watched(store: Store) -> AsyncIterator[Watched]:
    watched = Watched(store)
    yield watched
    await watched.close()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_calls_of_one_moment_share_a_round_trip(watched: Watched) -> None:
    said = [f"word {number}" for number in range(50)]
    assert await asyncio.gather(*(watched.call("ECHO", word) for word in said)) == [word.encode() for word in said]
    assert watched.trips == [50]


async def test_a_call_that_comes_alone_goes_at_once_and_alone(watched: Watched) -> None:
    for number in range(3):
        assert await watched.call("ECHO", number) == b"%d" % number
    assert watched.trips == [1, 1, 1]


async def test_what_is_asked_while_a_round_trip_is_under_way_goes_with_the_next(watched: Watched) -> None:
    watched.hold()
    first = watched.call("ECHO", "first")
    await watched.until_under_way()
    rest = [watched.call("ECHO", number) for number in range(9)]
    await turns(5)
    watched.let_go()
    assert await first == b"first"
    assert await asyncio.gather(*rest) == [b"%d" % number for number in range(9)]
    assert watched.trips == [1, 9]


async def test_where_there_is_always_something_to_send_calls_gather(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "GATHER", 0.5)
    watched.hold()
    calls = [watched.call("ECHO", 0)]
    await watched.until_under_way()
    calls.append(watched.call("ECHO", 1))
    await turns(5)
    watched.let_go()
    await calls[0]
    calls.append(watched.call("ECHO", 2))
    assert await asyncio.gather(*calls) == [b"0", b"1", b"2"]
    assert watched.trips == [1, 2]


async def test_who_asks_for_one_thing_after_the_other_is_not_held_up(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "GATHER", 3600.0)
    assert [await watched.call("ECHO", number) for number in range(3)] == [b"0", b"1", b"2"]


async def test_a_trip_that_is_full_does_not_wait_for_more(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "GATHER", 3600.0)
    monkeypatch.setattr(pipeline, "MAX_CALLS", 4)
    assert await asyncio.gather(*(watched.call("ECHO", number) for number in range(8))) == [b"%d" % n for n in range(8)]
    assert watched.trips == [4, 4]


async def test_each_call_has_its_own_reply_and_its_own_error(watched: Watched) -> None:
    replies = await asyncio.gather(
        watched.call("SET", "a", "1"),
        watched.call("NO-SUCH-COMMAND"),
        watched.call("GET", "a"),
        watched.call("LPUSH", "a", "1"),
        watched.call("EVALSHA", "f" * 40, 0),
        watched.call("ECHO", b"\x00\r\n\xff"),
        return_exceptions=True,
    )
    assert [type(reply) for reply in replies[1::2]] == [ResponseError, ResponseError, bytes]
    assert (replies[2], replies[5]) == (b"1", b"\x00\r\n\xff")
    assert isinstance(replies[4], NoScriptError)
    assert watched.trips == [6]


async def test_a_round_trip_is_never_large(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_CALLS", 4)
    monkeypatch.setattr(pipeline, "MAX_BYTES", 1000)
    await asyncio.gather(*(watched.call("ECHO", number) for number in range(10)))
    assert watched.trips == [4, 4, 2]
    watched.trips.clear()
    # The one that passes the limit goes along, or one that is larger than it would never go.
    await asyncio.gather(*(watched.call("ECHO", "x" * size) for size in (600, 600, 5000, 10)))
    assert watched.trips == [2, 1, 1]


async def test_a_call_that_is_given_up_before_it_was_sent_is_not_sent(watched: Watched) -> None:
    watched.hold()
    first = watched.call("INCR", "count")
    await watched.until_under_way()
    second, third = (watched.call("INCRBY", "count", amount) for amount in (10, 100))
    await turns(2)
    second.cancel()
    await asyncio.wait((second,))
    watched.let_go()
    assert (await first, await third) == (1, 101)
    assert await watched.call("GET", "count") == b"101"


async def test_a_call_that_is_given_up_on_its_way_disturbs_no_other(watched: Watched) -> None:
    watched.hold()
    calls = [watched.call("ECHO", number) for number in range(5)]
    await watched.until_under_way()
    calls[1].cancel()
    calls[3].cancel()
    watched.let_go()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert replies[::2] == [b"0", b"2", b"4"]
    assert all(isinstance(reply, asyncio.CancelledError) for reply in replies[1::2])
    assert await watched.call("ECHO", "after") == b"after"


async def test_what_waits_when_a_pipeline_is_closed_is_cancelled(watched: Watched) -> None:
    watched.hold()
    under_way = watched.call("ECHO", 1)
    await watched.until_under_way()
    waiting = watched.call("ECHO", 2)
    await asyncio.sleep(0)
    await watched.close()
    await asyncio.wait((under_way, waiting))
    assert under_way.cancelled()
    assert waiting.cancelled()


async def test_a_server_that_is_gone_is_told_to_all_and_found_again() -> None:
    with RealServer() as server:
        store = await open_store(server.url)
        watched = Watched(store)
        server.kill()
        replies = await asyncio.gather(*(watched.call("ECHO", n) for n in range(5)), return_exceptions=True)
        assert all(isinstance(reply, RedisConnectionError) for reply in replies)
        server.start()
        assert await watched.call("ECHO", "again") == b"again"
        await store.close()


async def test_a_frozen_server_is_waited_for_so_long_and_its_late_replies_are_nobodys() -> None:
    with RealServer() as server:
        store = await open_store(server.url)
        watched = Watched(store, 0.3)
        assert await watched.call("ECHO", "before") == b"before"
        with server.frozen():
            began = time.monotonic()
            replies = await asyncio.gather(*(watched.call("ECHO", n) for n in range(3)), return_exceptions=True)
            assert [type(reply) for reply in replies] == [TimeoutError] * 3
            assert 0.2 < time.monotonic() - began < 2
        assert await asyncio.gather(*(watched.call("ECHO", n) for n in range(3, 6))) == [b"3", b"4", b"5"]
        await store.close()


@pytest.mark.parametrize("make", ["valkey", "redis"])
async def test_appends_of_many_attempts_are_made_once_each_whatever_happens_to_their_round_trips(make: Any) -> None:
    """Connections are cut, scripts forgotten, and others' calls given up in all states that they can be in."""
    chance = random.Random(20261122)
    with RealServer(make) as server:
        store = await open_store(server.url)
        await jobs.prepare(store)
        talks = [Talk(store) for _ in range(12)]
        writers = []
        for talk in talks:
            await talk.ask()
            writers.append(await talk.begin())
        pieces = [[f"{number}.{each} " for each in range(60)] for number in range(len(talks))]

        async def write(number: int) -> None:
            for piece in pieces[number]:
                assert await writers[number].write(piece)
                await turns(chance.randrange(4))

        async def give_up() -> None:
            # An append whose ids are wrong: it changes nothing, wherever it is cancelled.
            writer = chance.choice(writers)
            wrong = LogId(writer.start.attempt, writer.start.seq + 10_000)
            call = asyncio.create_task(
                response_log.append(store, writer.job.conversation, writer.job.response, wrong, wrong, text("!"), 10.0)
            )
            await turns(chance.randrange(12))
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

        async def disturb() -> None:
            while True:
                await give_up()
                match chance.randrange(20):
                    case 0:
                        await asyncio.to_thread(server.drop_connections)
                    case 1:
                        await asyncio.to_thread(server.command, "SCRIPT", "FLUSH")

        disturbing = asyncio.create_task(disturb())
        await asyncio.gather(*(write(number) for number in range(len(talks))))
        assert not disturbing.done()
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
        for number, writer in enumerate(writers):
            entries = await response_log.read(store, writer.job.response)
            assert fold(entries) == "".join(pieces[number])
            assert [entry.seq for entry, _ in entries] == list(range(1, len(entries) + 1))
        await store.close()
