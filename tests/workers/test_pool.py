"""The pool: outages are logged once, and draining releases the remaining jobs."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gateway.streams import deadlines, jobs, keys, log_entries, response_log
from gateway.streams.store.errors import StoreFullError
from gateway.streams.store.store import open_store
from tests.gateway.streams.steps import Conversation, fold, lose_tail
from tests.stores import RealServer
from tests.workers.test_generation import OPTIONS
from workers.options import GenerationOptions
from workers.pool import Pool
from workers.providers import Finish, Served, Text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from gateway.streams.queued_jobs import Candidate
    from gateway.streams.store.store import Store
    from workers.providers import Event, Request


@asynccontextmanager
async def running_pool(store: Store, concurrency: int = 10) -> AsyncIterator[Pool]:
    options = GenerationOptions(**OPTIONS, batching_interval_s=0.001)
    pool = Pool(store, {"default": "demo"}, options, concurrency=concurrency, demo_rate=100.0)
    running = asyncio.create_task(pool.run())
    yield pool
    await pool.shut_down(0.0)
    await running


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.mark.live
async def test_outage_is_logged_once_at_its_start_and_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="workers.pool")

    def logged(event: str) -> int:
        return sum(record.getMessage() == event for record in caplog.records)

    async def lost() -> bool:
        return logged("store_unavailable") == logged("control_subscription_lost") == 1

    async def restored() -> bool:
        return logged("store_recovered") == logged("control_subscription_recovered") == 1

    with RealServer() as server:
        store = await open_store(server.url)
        async with running_pool(store):
            conversation = Conversation(store)
            accepted = await conversation.ask("/long 1")

            async def answered() -> bool:
                return len(await response_log.read(store, accepted.response)) > 3

            await until(answered)
            server.kill()
            await until(lost)
            # Several failed attempts to acquire jobs and to subscribe.
            await asyncio.sleep(1.0)
            await asyncio.to_thread(server.start)
            await until(restored)
            assert await lost()
            (available,) = [record for record in caplog.records if record.getMessage() == "store_recovered"]
            assert vars(available)["after_s"] >= 1.0
        await store.close()


async def test_shut_down_releases_the_remaining_jobs(store: Store) -> None:
    conversation = Conversation(store)
    async with running_pool(store) as pool:
        accepted = await conversation.ask("/silent")

        async def claimed() -> bool:
            return len(await response_log.read(store, accepted.response)) == 2

        await until(claimed)
        assert await conversation.pending() == {(await conversation.jobs())[accepted.response]: pool.name}
    # No lease to wait for: the job was released.
    job = await conversation.take("w2", lease=3600.0)
    assert job.response == accepted.response


async def test_failed_search_for_lost_jobs_does_not_stop_take_overs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full store refuses the lock of the search, but still accepts renewals: silence remains evidence."""
    caplog.set_level(logging.WARNING, logger="workers.pool")

    async def full(*_: object) -> list[tuple[str, str]]:
        raise StoreFullError("the store is full")

    monkeypatch.setattr(jobs, "requeue_lost", full)
    monkeypatch.setattr(deadlines, "REQUEUE_INTERVAL_S", 0.01)
    store = await open_store("memory://")
    async with running_pool(store):

        async def failed_twice() -> bool:
            return sum(record.getMessage() == "requeue_failed" for record in caplog.records) >= 2

        await until(failed_twice)
    assert {record.getMessage() for record in caplog.records} == {"requeue_failed"}
    await store.close()


@pytest.mark.live
async def test_worker_survives_what_another_program_writes() -> None:
    store = await open_store("memory://")
    conversation = Conversation(store)
    async with running_pool(store) as pool:
        await conversation.redis.xadd(keys.jobs(conversation.partition), {"foo": b"\xff"})
        await conversation.redis.hset(keys.open_responses(conversation.partition), b"\xff", b"\xff")
        for message in (b"end \xff", b"", b"\xff", b"job" * 1000):
            await store.publish(keys.control(conversation.partition), message)
        await jobs.requeue_lost(store, conversation.partition, 0.001)
        accepted = await conversation.ask("Hi")

        async def answered() -> bool:
            return any(value[:1] == log_entries.END for _, value in await response_log.read(store, accepted.response))

        await until(answered)
        assert await conversation.redis.xlen(keys.jobs(conversation.partition)) == 0
        assert pool.models == ["default"]
    await store.close()


async def test_task_of_the_pool_starts_again_after_an_exception(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR, logger="workers.pool")
    failures = [RuntimeError("secret"), ValueError("secret")]

    async def failing(*arguments: Any) -> list[Candidate]:
        if failures:
            raise failures.pop()
        return await candidates(*arguments)

    candidates = jobs.candidates
    monkeypatch.setattr(jobs, "candidates", failing)
    store = await open_store("memory://")
    async with running_pool(store):
        accepted = await Conversation(store).ask("Hi")

        async def answered() -> bool:
            return len(await response_log.read(store, accepted.response)) > 3

        await until(answered)
    assert [vars(record)["error"] for record in caplog.records] == ["ValueError", "RuntimeError"]
    assert "secret" not in caplog.text
    await store.close()


async def test_worker_that_starts_while_the_store_is_full_works_once_there_is_room() -> None:
    with RealServer() as server:
        store = await open_store(server.url)
        server.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreFullError):
            await jobs.prepare(store)
        async with running_pool(store):
            server.command("CONFIG", "SET", "maxmemory", 0)
            accepted = await Conversation(store).ask("Hi")

            async def answered() -> bool:
                return len(await response_log.read(store, accepted.response)) > 3

            await until(answered)
        await store.close()


class Gates:
    """A provider whose calls are listed, and end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    async def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        self.begun.append(request.conversation)
        await self._gates.setdefault(request.conversation, asyncio.Event()).wait()
        self._gates.pop(request.conversation)
        yield Text("Because.")
        yield Finish("complete")

    def open(self, conversation: str) -> None:
        self._gates[conversation].set()

    async def count(self, number: int) -> None:
        async def reached() -> bool:
            return len(self.begun) >= number

        await until(reached)


def in_partition(store: Store, number: int) -> Conversation:
    while (conversation := Conversation(store)).partition != number:
        pass
    return conversation


async def test_quiet_conversation_gets_the_next_place_beside_busy_ones(store: Store) -> None:
    gates = Gates()
    busy = [in_partition(store, 0) for _ in range(4)]
    quiet = in_partition(store, keys.PARTITIONS - 1)
    async with running_pool(store, concurrency=2) as pool:
        pool._targets["default"] = [Served(gates, "m", "script")]
        for each in busy:
            await each.ask()
        await gates.count(2)
        for begun in range(3, 7):
            # Each busy conversation asks again as soon as it has its answer.
            name = gates.begun[begun - 3]
            gates.open(name)
            await gates.count(begun)
            await next(each for each in busy if each.name == name).ask()
        await quiet.ask()
        gates.open(gates.begun[4])
        await gates.count(7)
        assert gates.begun[6] == quiet.name
        for name in (*gates.begun[5:6], quiet.name):
            gates.open(name)


@pytest.mark.live
async def test_end_that_a_failover_lost_is_written_again_without_a_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="workers")
    gates = Gates()
    with RealServer() as server:
        store = await open_store(server.url)
        client: Any = store.client
        async with running_pool(store) as pool:
            pool._targets["default"] = [Served(gates, "m", "script")]
            conversation = Conversation(store)
            accepted = await conversation.ask()
            await gates.count(1)
            before = {key: await client.dump(key) for key in await client.keys("tw:{p*}:*") if b"presence" not in key}

            async def ended() -> bool:
                entries = await response_log.read(store, accepted.response)
                return entries[-1][1][:1] == log_entries.END

            gates.open(conversation.name)
            await until(ended)
            # A replica that lacks the end becomes the primary.
            for key, value in before.items():
                await client.restore(key, 0, value, replace=True)
            assert not await ended()
            server.command("CLIENT", "KILL", "TYPE", "normal")
            await until(ended)
            assert gates.begun == [conversation.name]
            assert await conversation.settled_text(accepted.response) == "Because."
            assert await conversation.jobs() == await conversation.open() == {}
        await store.close()
    assert "end_restored" in [record.getMessage() for record in caplog.records]


@pytest.mark.live
async def test_tail_that_a_silent_answer_lost_is_written_again(store: Store) -> None:
    class Silent(Gates):
        async def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
            yield Text("Bec")
            async for event in super().__call__(request):
                yield event

    gates = Silent()
    async with running_pool(store) as pool:
        pool._targets["default"] = [Served(gates, "m", "script")]
        conversation = Conversation(store)
        accepted = await conversation.ask()

        async def shown() -> bool:
            return fold(await response_log.read(store, accepted.response)) == "Bec"

        await until(shown)
        await lose_tail(store, accepted.response, 1)
        assert not await shown()
        await until(shown)
        gates.open(conversation.name)

        async def ended() -> bool:
            return accepted.response not in await conversation.open()

        await until(ended)
        assert len(gates.begun) == 1


@pytest.mark.live
async def test_worker_leaves_jobs_of_models_that_it_does_not_serve(store: Store) -> None:
    async with running_pool(store) as pool:
        other, served = Conversation(store), Conversation(store)
        left = await other.ask(model="gpu")
        accepted = await served.ask()

        async def answered() -> bool:
            return any(value[:1] == log_entries.END for _, value in await response_log.read(store, accepted.response))

        await until(answered)
        assert len(await response_log.read(store, left.response)) == 1
        pool._targets["gpu"] = pool._targets["default"]
        accepted = left
        await until(answered)
