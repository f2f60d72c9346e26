"""The pipeline: calls share round trips; cancelling or failing one call does not affect the others."""

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
from gateway.streams.store.server import Server
from gateway.streams.store.store import open_store
from tests.gateway.streams.steps import Conversation, fold, text
from tests.stores import ONE_SERVER, RealServer, store_of_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.streams.store.store import Store


class Watched(Pipeline):
    """A pipeline that records the calls per round trip and can delay replies."""

    def __init__(self, store: Store, timeout_s: float = 5.0) -> None:
        assert isinstance(store.servers, Server)
        super().__init__(store.client.connection_pool, timeout_s, store.servers._pipeline._open_connection)
        self.round_trips: list[int] = []
        self._delayed: list[Any] | None = None

    def _flush(self) -> None:
        idle = not self._in_flight
        super()._flush()
        if idle and self._in_flight:
            self.round_trips.append(len(self._in_flight))

    def replied(self, reply: Any) -> None:
        if self._delayed is None:
            super().replied(reply)
        else:
            self._delayed.append(reply)

    def delay_replies(self) -> None:
        self._delayed = []

    def resume(self) -> None:
        assert self._delayed is not None
        delayed, self._delayed = self._delayed, None
        for reply in delayed:
            self.replied(reply)

    async def until_in_flight(self) -> None:
        async with asyncio.timeout(10):
            while not self._in_flight:
                await asyncio.sleep(0)


# A pipeline belongs to one server.
stores = pytest.fixture(params=ONE_SERVER, name="stores")(store_of_kind)


@pytest.fixture
async def watched(store: Store) -> AsyncIterator[Watched]:
    watched = Watched(store)
    yield watched
    await watched.close()


async def loop_iterations(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_concurrent_calls_share_one_round_trip(watched: Watched) -> None:
    texts = [f"word {number}" for number in range(50)]
    assert await asyncio.gather(*(watched.call("ECHO", word) for word in texts)) == [word.encode() for word in texts]
    assert watched.round_trips == [50]


async def test_single_call_is_sent_immediately(watched: Watched) -> None:
    for number in range(3):
        assert await watched.call("ECHO", number) == b"%d" % number
    assert watched.round_trips == [1, 1, 1]


async def test_calls_during_a_round_trip_share_the_next_one(watched: Watched) -> None:
    watched.delay_replies()
    first = watched.call("ECHO", "first")
    await watched.until_in_flight()
    rest = [watched.call("ECHO", number) for number in range(9)]
    await loop_iterations(5)
    watched.resume()
    assert await first == b"first"
    assert await asyncio.gather(*rest) == [b"%d" % number for number in range(9)]
    assert watched.round_trips == [1, 9]


async def test_under_load_round_trips_keep_their_interval(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MIN_INTERVAL_S", 0.5)
    watched.delay_replies()
    calls = [watched.call("ECHO", 0)]
    await watched.until_in_flight()
    calls.append(watched.call("ECHO", 1))
    await loop_iterations(5)
    watched.resume()
    await calls[0]
    calls.append(watched.call("ECHO", 2))
    assert await asyncio.gather(*calls) == [b"0", b"1", b"2"]
    assert watched.round_trips == [1, 2]


async def test_sequential_calls_are_not_delayed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MIN_INTERVAL_S", 3600.0)
    assert [await watched.call("ECHO", number) for number in range(3)] == [b"0", b"1", b"2"]


async def test_full_round_trip_is_sent_without_delay(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MIN_INTERVAL_S", 3600.0)
    monkeypatch.setattr(pipeline, "MAX_CALLS", 4)
    assert await asyncio.gather(*(watched.call("ECHO", number) for number in range(8))) == [b"%d" % n for n in range(8)]
    assert watched.round_trips == [4, 4]


async def test_each_call_gets_its_own_reply_or_error(watched: Watched) -> None:
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
    assert watched.round_trips == [6]


async def test_round_trip_is_bounded_in_calls_and_bytes(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_CALLS", 4)
    monkeypatch.setattr(pipeline, "MAX_BYTES", 1000)
    await asyncio.gather(*(watched.call("ECHO", number) for number in range(10)))
    assert watched.round_trips == [4, 4, 2]
    watched.round_trips.clear()
    # The call that exceeds the limit is included: otherwise a larger one would never be sent.
    await asyncio.gather(*(watched.call("ECHO", "x" * size) for size in (600, 600, 5000, 10)))
    assert watched.round_trips == [2, 1, 1]


async def test_call_cancelled_before_sending_is_not_sent(watched: Watched) -> None:
    watched.delay_replies()
    first = watched.call("INCR", "count")
    await watched.until_in_flight()
    second, third = (watched.call("INCRBY", "count", amount) for amount in (10, 100))
    await loop_iterations(2)
    second.cancel()
    await asyncio.wait((second,))
    watched.resume()
    assert (await first, await third) == (1, 101)
    assert await watched.call("GET", "count") == b"101"


async def test_call_cancelled_in_flight_does_not_affect_others(watched: Watched) -> None:
    watched.delay_replies()
    calls = [watched.call("ECHO", number) for number in range(5)]
    await watched.until_in_flight()
    calls[1].cancel()
    calls[3].cancel()
    watched.resume()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert replies[::2] == [b"0", b"2", b"4"]
    assert all(isinstance(reply, asyncio.CancelledError) for reply in replies[1::2])
    assert await watched.call("ECHO", "after") == b"after"


async def test_closing_cancels_all_calls(watched: Watched) -> None:
    watched.delay_replies()
    under_way = watched.call("ECHO", 1)
    await watched.until_in_flight()
    waiting = watched.call("ECHO", 2)
    await asyncio.sleep(0)
    await watched.close()
    await asyncio.wait((under_way, waiting))
    assert under_way.cancelled()
    assert waiting.cancelled()


async def test_lost_server_fails_all_calls_then_reconnects() -> None:
    with RealServer() as server:
        store = await open_store(server.url)
        watched = Watched(store)
        server.kill()
        replies = await asyncio.gather(*(watched.call("ECHO", n) for n in range(5)), return_exceptions=True)
        assert all(isinstance(reply, RedisConnectionError) for reply in replies)
        server.start()
        assert await watched.call("ECHO", "again") == b"again"
        await store.close()


async def test_frozen_server_times_out_and_late_replies_are_dropped() -> None:
    with RealServer() as server:
        store = await open_store(server.url)
        watched = Watched(store, 0.3)
        assert await watched.call("ECHO", "before") == b"before"
        with server.frozen():
            started_at = time.monotonic()
            # Detects a hang: without the timeout, the calls wait until the server resumes.
            async with asyncio.timeout(30):
                replies = await asyncio.gather(*(watched.call("ECHO", n) for n in range(3)), return_exceptions=True)
            assert [type(reply) for reply in replies] == [TimeoutError] * 3
            assert time.monotonic() - started_at > 0.2
        assert await asyncio.gather(*(watched.call("ECHO", n) for n in range(3, 6))) == [b"3", b"4", b"5"]
        await store.close()


@pytest.mark.live
@pytest.mark.parametrize("make", ["valkey", "redis"])
async def test_appends_under_faults_take_effect_exactly_once(make: Any) -> None:
    """Connections are closed, scripts flushed, and other calls cancelled in every state."""
    rng = random.Random(20261122)
    with RealServer(make) as server:
        store = await open_store(server.url)
        await jobs.prepare(store)
        conversations = [Conversation(store) for _ in range(12)]
        writers = []
        for conversation in conversations:
            await conversation.ask()
            writers.append(await conversation.begin())
        pieces = [[f"{number}.{each} " for each in range(60)] for number in range(len(conversations))]

        async def write(number: int) -> None:
            for piece in pieces[number]:
                assert await writers[number].write(piece)
                await loop_iterations(rng.randrange(4))

        async def cancel_append() -> None:
            # An append with wrong ids: it changes nothing, in whichever state it is cancelled.
            writer = rng.choice(writers)
            wrong = LogId(writer.start.attempt, writer.start.seq + 10_000)
            call = asyncio.create_task(
                response_log.append(store, writer.job.conversation, writer.job.response, wrong, wrong, text("!"), 10.0)
            )
            await loop_iterations(rng.randrange(12))
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

        async def disturb() -> None:
            while True:
                await cancel_append()
                match rng.randrange(20):
                    case 0:
                        await asyncio.to_thread(server.drop_connections)
                    case 1:
                        await asyncio.to_thread(server.command, "SCRIPT", "FLUSH")

        disturbing = asyncio.create_task(disturb())
        await asyncio.gather(*(write(number) for number in range(len(conversations))))
        assert not disturbing.done()
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
        for number, writer in enumerate(writers):
            entries = await response_log.read(store, writer.job.response)
            assert fold(entries) == "".join(pieces[number])
            assert [entry.seq for entry, _ in entries] == list(range(1, len(entries) + 1))
        await store.close()
