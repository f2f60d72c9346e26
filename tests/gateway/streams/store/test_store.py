"""The store: what a caller is told when it is away, full, frozen, somewhere else, or no store at all."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.streams import history_log, jobs, response_log
from gateway.streams.response_log import Ended
from gateway.streams.store.errors import StoreError, StoreFullError, StoreUnavailableError
from gateway.streams.store.store import SCRIPTS, Store, open_store
from tests.gateway.streams.steps import STOPPED, Talk, fold, nothing_changes
from tests.stores import RealServer, Stores, binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.stores import ServerProgram


class Impatient(Store):
    """A store whose callers give up soon."""

    async def retry(self, command: Callable[[], Awaitable[Any]], timeout_s: float = 0.2) -> Any:
        return await super().retry(command, 0.2)


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    """A server of this test's own, to hurt."""
    with RealServer(request.param) as started:
        yield started


@pytest.fixture
async def away(server: RealServer) -> AsyncIterator[Store]:
    """A store on that server."""
    store = await open_store(server.url)
    yield store
    await store.close()


async def test_every_script_is_there_again_after_the_server_forgot_it(store: Store) -> None:
    talk = Talk(store)
    await talk.prepare()

    async def forget() -> None:
        for client in store.servers.clients:
            await client.script_flush()
            assert await client.script_exists(*store._digests.values()) == [False] * len(SCRIPTS)

    await forget()
    accepted = await talk.ask()
    await forget()
    writer = await talk.begin()
    await forget()
    await writer.write("a")
    await forget()
    assert await jobs.renew(store, writer.job, "w1") == "held"
    await forget()
    await jobs.release(store, writer.job, "w1")
    await forget()
    await jobs.requeue_lost(store, talk.partition, 1.0)
    await forget()
    assert isinstance(await writer.end(), Ended)
    assert await talk.settled_text(accepted.response) == "a"


async def test_a_subscription_at_a_frozen_server_is_left_at_once(server: RealServer) -> None:
    """However much of what was asked for there has not been read."""
    store = await open_store(server.url)
    subscription = await store.subscribe(lambda *_: None, lambda _: None)
    with server.frozen():
        subscription.subscribe(*(b"%0100d" % number for number in range(100_000)))
        began = time.monotonic()
        await store.close()
        assert time.monotonic() - began < 1.0
        assert subscription.closed.done()


async def test_a_frozen_server_is_unavailable_after_the_callers_patience_and_not_later(
    server: RealServer, away: Store
) -> None:
    talk = Talk(away)
    first = await talk.ask()
    with server.frozen():
        for timeout_s in (0.2, 0.6):
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                await response_log.end(away, talk.name, first.response, STOPPED, timeout_s=timeout_s)
            assert timeout_s / 2 < time.monotonic() - began < timeout_s + 0.5
    # What was sent to the frozen server may have been done after all: to ask again is safe, and tells.
    ended = await talk.stop(first.response)
    assert isinstance(ended, Ended)
    assert (await talk.settled(first.response)).reason == "stopped"
    assert len(await response_log.read(away, first.response)) == 2


async def test_a_server_that_is_gone_is_unavailable_and_comes_back_with_its_data(
    server: RealServer, away: Store
) -> None:
    talk = Talk(away)
    accepted = await talk.ask(key="k1")
    server.kill()
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        await away.retry(lambda: away.client.get("x"), timeout_s=0.4)
    assert time.monotonic() - began < 1.0
    server.start()
    assert (await talk.ask(key="k1")).response == accepted.response


async def test_a_call_outlasts_a_crash_of_the_server_within_its_patience(server: RealServer, away: Store) -> None:
    talk = Talk(away)
    await talk.prepare()
    writer_of = await talk.ask()
    writer = await talk.begin()
    await writer.write("Be")
    server.kill()
    call = asyncio.create_task(writer.write("cause"))
    await asyncio.sleep(0)
    await asyncio.to_thread(server.start)
    assert await call
    await writer.end()
    assert await talk.settled_text(writer_of.response) == "Because"


async def test_a_paused_server_is_waited_for(server: RealServer, away: Store) -> None:
    server.pause(0.3)
    began = time.monotonic()
    await Talk(away).ask()
    assert time.monotonic() - began > 0.2


async def test_dropped_connections_are_no_ones_concern(server: RealServer, away: Store) -> None:
    talk = Talk(away)
    await talk.prepare()
    accepted = await talk.ask()
    writer = await talk.begin()
    for piece in "Because":
        server.drop_connections()
        assert await writer.write(piece)
    await writer.end()
    assert await talk.settled_text(accepted.response) == "Because"


async def test_a_full_store_refuses_to_accept_and_still_reads(server: RealServer, away: Store) -> None:
    talk = Talk(away)
    await talk.prepare()
    accepted = await talk.ask()
    writer = await talk.begin()
    server.command("CONFIG", "SET", "maxmemory", 1)
    async with nothing_changes(away):
        with pytest.raises(StoreFullError, match="maxmemory"):
            await talk.ask()
        with pytest.raises(StoreFullError):
            await writer.write("a")
        with pytest.raises(StoreFullError):
            await talk.stop(accepted.response)
        assert len(await response_log.read(away, accepted.response)) == 2
        # What a worker holds stays its own, because that needs no memory.
        assert await jobs.renew(away, writer.job, "w1") == "held"
    server.command("CONFIG", "SET", "maxmemory", 0)
    assert await writer.flush()
    await writer.end()
    assert await talk.settled_text(accepted.response) == "a"


@pytest.mark.parametrize("why", ["no replicas", "a replica"])
async def test_a_server_that_may_not_write_is_unavailable_and_nothing_is_half_done(
    server: RealServer, away: Store, why: str
) -> None:
    talk = Talk(away)
    await talk.ask()
    if why == "no replicas":
        server.command("CONFIG", "SET", "min-replicas-to-write", 1)
    else:
        server.command("REPLICAOF", "127.0.0.1", 1)
    before = await history_log.read(away, talk.name)
    with pytest.raises(StoreUnavailableError):
        await Talk(Impatient(away.servers, away.lifetimes), talk.name).ask()
    assert await history_log.read(away, talk.name) == before


@pytest.mark.parametrize("make", ["valkey", "redis"])
async def test_a_tail_can_be_lost_under_a_connection_that_lives(make: ServerProgram) -> None:
    """A primary that was a replica for a moment has another's past and its own clients: so every append has its
    condition, and not the first on a connection alone.
    """
    at_once = ("--repl-diskless-sync-delay", "0")
    with RealServer(make, *at_once) as server, RealServer(make, *at_once) as other:
        store = await open_store(server.url)
        talk = Talk(store)
        await talk.prepare()
        accepted = await talk.ask()
        writer = await talk.begin()
        await writer.write("Be")
        follow(other, server)
        other.command("REPLICAOF", "NO", "ONE")
        await writer.write("cau")
        before = await response_log.read(store, accepted.response)
        known = clients(server)
        assert known
        follow(server, other)
        server.command("REPLICAOF", "NO", "ONE")
        assert await response_log.read(store, accepted.response) == before[:-1]
        assert await writer.write("se")
        assert fold(await response_log.read(store, accepted.response)) == "Because"
        assert known <= clients(server)
        await store.close()


def follow(server: RealServer, primary: RealServer) -> None:
    """ServerProgram a server another's replica, and wait until it has all that the other has."""
    server.command("REPLICAOF", "127.0.0.1", primary.port)
    deadline = time.monotonic() + 20
    while server.command("INFO", "replication")["master_link_status"] != "up":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def clients(server: RealServer) -> set[bytes]:
    """The connections over TCP that a server has."""
    found: list[bytes] = server.command("CLIENT", "LIST", "TYPE", "normal").splitlines()
    return {line.split()[0] for line in found if b" addr=127.0.0.1:" in line}


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("ERR Error running script (call to f_0): @user_script:35: @user_script: 35: -OOM command ...", StoreFullError),
        ("ERR Error running script: @user_script: 35: -READONLY You can't write ...", StoreUnavailableError),
        ("MISCONF Errors writing to the AOF file: No space left on device", StoreUnavailableError),
        ("NOREPLICAS Not enough good replicas to write.", StoreUnavailableError),
        ("BUSY Redis is busy running a script.", StoreUnavailableError),
        ("BUSYGROUP Consumer Group name already exists", ResponseError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ResponseError),
    ],
    ids=lambda value: value.split(" ")[0] if isinstance(value, str) else "",
)
async def test_what_a_server_refuses_is_told_in_our_words(said: str, becomes: type[Exception]) -> None:
    """The first two as Redis 6.2 says them, which wraps what a script meets."""
    store = await open_store("memory://")

    async def refuse() -> None:
        raise ResponseError(said)

    with pytest.raises(becomes):
        await store.retry(refuse, timeout_s=0.1)
    await store.close()


async def test_cancelled_calls_never_hand_their_replies_to_others(stores: Stores) -> None:
    store = await stores.open()
    chance = random.Random(7)
    told: list[tuple[str, bytes]] = []

    async def ask(word: str) -> None:
        script = "return redis.call('ECHO', ARGV[1])"
        told.append((word, await store.retry(lambda: store.client.eval(script, 0, word))))

    for turn in range(40):
        tasks = [asyncio.create_task(ask(f"{turn}.{each}")) for each in range(8)]
        for task in tasks:
            if chance.random() < 0.5:
                for _ in range(chance.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert 100 < len(told) < 320, "some were cancelled"
    assert [word.encode() for word, _ in told] == [reply for _, reply in told]
    for each in range(50):
        assert await store.client.echo(f"after {each}") == f"after {each}".encode()


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("postgres://user:secret@127.0.0.1/1", "redis://"),
        ("//:secret@127.0.0.1:6379", "TOKENWIRE_STORE"),
        (":secret@127.0.0.1:6379", "TOKENWIRE_STORE"),
        ("", "TOKENWIRE_STORE"),
        ("redis://:secret@127.0.0.1:1/0", "start it"),
        ("redis://user:secret@no-such-host.invalid/0", "TOKENWIRE_STORE"),
        ("rediss://user:secret@127.0.0.1:1", "start it"),
        ("unix:///nowhere/redis.sock?password=secret", "start it"),
        ("redis://:secret/half@127.0.0.1:6379", "%XX"),
        ("redis://:secret#half@127.0.0.1:6379", "%XX"),
        ("redis://:secret@127.0.0.1:secret", "%XX"),
        ("redis://:secret@127.0.0.1:99999999", "%XX"),
        ("redis://:secret@127.0.0.1:1/0?socket_timeout=secret", "%XX"),
        ("redis://[secret", "TOKENWIRE_STORE"),
    ],
)
async def test_an_address_without_a_store_is_told_with_what_to_do_and_without_its_password(
    url: str, advice: str
) -> None:
    with pytest.raises(StoreError) as caught:
        await open_store(url)
    assert advice in str(caught.value)
    told: BaseException | None = caught.value
    while told is not None:
        assert "secret" not in str(told)
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)


async def test_a_wrong_password_is_told_without_the_password() -> None:
    with RealServer() as server:
        server.command("CONFIG", "SET", "requirepass", "right")
        address = f"127.0.0.1:{server.port}"
        with pytest.raises(StoreError, match="AuthenticationError") as caught:
            await open_store(f"redis://:secret@{address}")
        assert "secret" not in str(caught.value)
        assert address in str(caught.value)
        await (await open_store(f"redis://:right@{address}")).close()


async def test_a_real_server_keeps_its_data_over_a_crash_and_an_orderly_stop() -> None:
    with RealServer() as server:
        server.command("SET", "a", "1")
        server.stop()
        server.start()
        server.command("SET", "b", "2")
        server.restart()
        assert server.command("MGET", "a", "b") == [b"1", b"2"]


def test_there_is_always_a_valkey() -> None:
    assert binary("valkey") is not None


def test_a_closed_connection_is_said_to_be_closed_on_every_event_loop() -> None:
    """uvloop's transports raise RuntimeError where asyncio's raise ConnectionError, and a worker died of it."""
    uvloop = pytest.importorskip("uvloop")

    async def close_and_write(url: str) -> None:
        store = await open_store(url)
        pool = store.client.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        # As where the server resets it after the pool has looked at it.
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(RedisConnectionError):
            await connection.send_command("PING", check_health=False)
        await pool.release(connection)
        assert await store.client.ping()
        await store.close()

    with RealServer() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(close_and_write(server.url))
