"""The store: errors when it is unavailable, full, frozen, moved, or not a store."""

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
from gateway.streams.store import redis_internals
from gateway.streams.store import store as store_module
from gateway.streams.store.errors import StoreError, StoreFullError, StoreUnavailableError
from gateway.streams.store.store import SCRIPTS, Store, open_store
from tests.gateway.streams.steps import STOPPED, Conversation, fold, nothing_changes
from tests.stores import RealServer, Stores, binary, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.stores import ServerProgram


HANG_S = 30.0
"""Seconds after which a call hangs, on a busy machine too."""


class ImpatientStore(Store):
    """A store with a short timeout for every call."""

    async def retry(self, command: Callable[[], Awaitable[Any]], timeout_s: float = 0.2) -> Any:
        return await super().retry(command, 0.2)


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    """A server that only this test uses."""
    with RealServer(request.param) as started:
        yield started


@pytest.fixture
async def server_store(server: RealServer) -> AsyncIterator[Store]:
    """A store on that server."""
    store = await open_store(server.url)
    yield store
    await store.close()


async def test_flushed_scripts_are_loaded_again(store: Store) -> None:
    conversation = Conversation(store)
    await conversation.prepare()

    async def flush_scripts() -> None:
        for client in store.servers.clients:
            await client.script_flush()
            assert await client.script_exists(*store._digests.values()) == [False] * len(SCRIPTS)

    await flush_scripts()
    accepted = await conversation.ask()
    await flush_scripts()
    writer = await conversation.begin()
    await flush_scripts()
    await writer.write("a")
    await flush_scripts()
    assert await jobs.renew(store, writer.job, "w1") == "held"
    await flush_scripts()
    await jobs.release(store, writer.job, "w1")
    await flush_scripts()
    await jobs.requeue_lost(store, conversation.partition, 1.0)
    await flush_scripts()
    assert isinstance(await writer.end(), Ended)
    assert await conversation.settled_text(accepted.response) == "a"


async def test_subscription_to_a_frozen_server_closes_immediately(server: RealServer) -> None:
    """Even with unread requests in the buffers."""
    store = await open_store(server.url)
    subscription = await store.subscribe(lambda *_: None, lambda _: None)
    with server.frozen():
        subscription.subscribe(*(b"%0100d" % number for number in range(100_000)))
        # Detects a hang: a close that waits for the unread requests ends only when the server resumes.
        async with asyncio.timeout(HANG_S):
            await store.close()
        assert subscription.closed.done()


@pytest.mark.live
async def test_frozen_server_is_unavailable_after_the_timeout(server: RealServer, server_store: Store) -> None:
    conversation = Conversation(server_store)
    first = await conversation.ask()
    with server.frozen():
        # Not the default timeout: a call with more time, begun earlier, still waits.
        patient = asyncio.create_task(
            response_log.end(server_store, conversation.name, first.response, STOPPED, timeout_s=HANG_S)
        )
        await asyncio.sleep(0)
        for timeout_s in (0.2, 0.6):
            started_at = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                await response_log.end(server_store, conversation.name, first.response, STOPPED, timeout_s=timeout_s)
            assert timeout_s / 2 < time.monotonic() - started_at
        assert not patient.done()
    assert isinstance(await patient, Ended)
    # The frozen server may execute the calls later: repeating them is safe and returns the outcome.
    ended = await conversation.stop(first.response)
    assert isinstance(ended, Ended)
    assert (await conversation.settled(first.response)).reason == "stopped"
    assert len(await response_log.read(server_store, first.response)) == 2


@pytest.mark.live
async def test_killed_server_is_unavailable_until_it_restarts(server: RealServer, server_store: Store) -> None:
    conversation = Conversation(server_store)
    accepted = await conversation.ask(key="k1")
    server.kill()
    patient = asyncio.create_task(server_store.retry(lambda: server_store.client.get("x"), timeout_s=HANG_S))
    with pytest.raises(StoreUnavailableError):
        await server_store.retry(lambda: server_store.client.get("x"), timeout_s=0.4)
    assert not patient.done()
    await asyncio.to_thread(server.start)
    assert await patient is None
    assert (await conversation.ask(key="k1")).response == accepted.response


async def test_call_succeeds_if_the_server_restarts_in_time(server: RealServer, server_store: Store) -> None:
    conversation = Conversation(server_store)
    await conversation.prepare()
    writer_of = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Be")
    server.kill()
    call = asyncio.create_task(writer.write("cause"))
    await asyncio.sleep(0)
    await asyncio.to_thread(server.start)
    assert await call
    await writer.end()
    assert await conversation.settled_text(writer_of.response) == "Because"


async def test_paused_server_is_awaited(server: RealServer, server_store: Store) -> None:
    server.pause(0.3)
    started_at = time.monotonic()
    await Conversation(server_store).ask()
    assert time.monotonic() - started_at > 0.2


async def test_dropped_connections_do_not_affect_callers(server: RealServer, server_store: Store) -> None:
    conversation = Conversation(server_store)
    await conversation.prepare()
    accepted = await conversation.ask()
    writer = await conversation.begin()
    for piece in "Because":
        server.drop_connections()
        assert await writer.write(piece)
    await writer.end()
    assert await conversation.settled_text(accepted.response) == "Because"


async def test_full_store_rejects_writes_and_still_reads(server: RealServer, server_store: Store) -> None:
    conversation = Conversation(server_store)
    await conversation.prepare()
    accepted = await conversation.ask()
    writer = await conversation.begin()
    server.command("CONFIG", "SET", "maxmemory", 1)
    async with nothing_changes(server_store):
        with pytest.raises(StoreFullError, match="maxmemory"):
            await conversation.ask()
        with pytest.raises(StoreFullError):
            await writer.write("a")
        assert len(await response_log.read(server_store, accepted.response)) == 2
        # A renewal needs no memory, so workers keep their jobs.
        assert await jobs.renew(server_store, writer.job, "w1") == "held"
    server.command("CONFIG", "SET", "maxmemory", 0)
    assert await writer.flush()
    await writer.end()
    assert await conversation.settled_text(accepted.response) == "a"


async def test_full_store_takes_every_end_and_stop_and_queues_the_next_response(
    server: RealServer, server_store: Store
) -> None:
    conversation = Conversation(server_store)
    await conversation.prepare()
    accepted = [await conversation.ask() for _ in range(3)]
    writer = await conversation.begin()
    await writer.write("Be")
    server.command("CONFIG", "SET", "maxmemory", 1)
    assert isinstance(await writer.end(), Ended)
    assert await conversation.settled_text(accepted[0].response) == "Be"
    assert isinstance(await conversation.stop(accepted[1].response), Ended)
    job = await conversation.take()
    assert job.response == accepted[2].response
    await jobs.release(server_store, job, "w1")
    with pytest.raises(StoreFullError):
        await conversation.begin("w2")
    server.command("CONFIG", "SET", "maxmemory", 0)


async def test_script_loses_its_flags_at_a_server_that_knows_none() -> None:
    store = await open_store("memory://")
    # The emulated server remembers a script that it cannot compile.
    for one in (store, Store(store.servers, store.lifetimes)):
        assert one._sources["end"].startswith(b"#!lua")
        conversation = Conversation(one)
        accepted = [await conversation.ask() for _ in range(5)]
        # At the same time: each call fails and removes the flags.
        ended = await asyncio.gather(*(conversation.stop(each.response) for each in accepted))
        assert all(isinstance(each, Ended) for each in ended)
        assert one._sources["end"].startswith(b"-- End a response")
        assert isinstance(await conversation.stop((await conversation.ask()).response), Ended)
    await store.close()


@pytest.mark.parametrize("why", ["no replicas", "a replica"])
async def test_read_only_server_is_unavailable_and_unchanged(server: RealServer, server_store: Store, why: str) -> None:
    conversation = Conversation(server_store)
    await conversation.ask()
    if why == "no replicas":
        server.command("CONFIG", "SET", "min-replicas-to-write", 1)
    else:
        server.command("REPLICAOF", "127.0.0.1", 1)
    before = await history_log.read(server_store, conversation.name)
    with pytest.raises(StoreUnavailableError):
        await Conversation(ImpatientStore(server_store.servers, server_store.lifetimes), conversation.name).ask()
    assert await history_log.read(server_store, conversation.name) == before


@pytest.mark.live
@pytest.mark.parametrize("make", ["valkey", "redis"])
async def test_tail_may_be_lost_without_a_reconnect(make: ServerProgram) -> None:
    """A primary that was briefly a replica has the data of another server and keeps its clients. So every append is
    conditional, not only the first one on a connection.
    """
    at_once = ("--repl-diskless-sync-delay", "0")
    with RealServer(make, *at_once) as server, RealServer(make, *at_once) as other:
        store = await open_store(server.url)
        conversation = Conversation(store)
        await conversation.prepare()
        accepted = await conversation.ask()
        writer = await conversation.begin()
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
    """Make a server a replica of another one, and wait until it is synchronized."""
    server.command("REPLICAOF", "127.0.0.1", primary.port)
    deadline = time.monotonic() + 20
    while server.command("INFO", "replication")["master_link_status"] != "up":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def clients(server: RealServer) -> set[bytes]:
    """Return the TCP connections of a server."""
    found: list[bytes] = server.command("CLIENT", "LIST", "TYPE", "normal").splitlines()
    return {line.split()[0] for line in found if b" addr=127.0.0.1:" in line}


@pytest.mark.parametrize(
    ("reply", "expected"),
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
async def test_server_errors_map_to_store_errors(reply: str, expected: type[Exception]) -> None:
    """The first two in the form of Redis 6.2, which wraps errors of a script."""
    store = await open_store("memory://")

    async def refuse() -> None:
        raise ResponseError(reply)

    with pytest.raises(expected):
        await store.retry(refuse, timeout_s=0.1)
    await store.close()


async def test_call_is_tried_again_after_its_deadline_passed_in_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store("memory://")
    monkeypatch.setattr(store_module, "LATE_S", 0.05)
    tries = 0

    async def answer_after_the_first(times: int) -> str:
        nonlocal tries
        tries += 1
        if tries <= times:
            # The event loop is blocked beyond the deadline, and the reply is not read.
            asyncio.get_running_loop().call_soon(time.sleep, 0.2)
            await asyncio.Event().wait()
        return "reply"

    assert await store.retry(lambda: answer_after_the_first(1), timeout_s=0.1) == "reply"
    tries = 0
    with pytest.raises(StoreUnavailableError):
        await store.retry(lambda: answer_after_the_first(10), timeout_s=0.1)
    await store.close()


async def test_replies_of_cancelled_calls_reach_no_other_call(stores: Stores) -> None:
    store = await stores.open()
    rng = random.Random(7)
    replies: list[tuple[str, bytes]] = []

    async def ask(word: str) -> None:
        script = "return redis.call('ECHO', ARGV[1])"
        replies.append((word, await store.retry(lambda: store.client.eval(script, 0, word))))

    for group in range(40):
        tasks = [asyncio.create_task(ask(f"{group}.{each}")) for each in range(8)]
        for task in tasks:
            if rng.random() < 0.5:
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert 100 < len(replies) < 320, "some were cancelled"
    assert [word.encode() for word, _ in replies] == [reply for _, reply in replies]
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
async def test_unusable_address_is_reported_without_its_password(url: str, advice: str) -> None:
    with pytest.raises(StoreError) as caught:
        await open_store(url)
    assert advice in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


async def start_error(url: str) -> str:
    with pytest.raises(StoreError) as caught:
        await open_store(url)
    assert "secret" not in str(caught.value)
    return str(caught.value)


async def test_start_errors_have_different_remedies() -> None:
    with RealServer() as server:
        server.command("CONFIG", "SET", "requirepass", "right")
        address = f"127.0.0.1:{server.port}"
        wrong = await start_error(f"redis://:secret@{address}")
        assert wrong.startswith(f"the store at redis://{address} rejects the user or the password: correct them")
        missing = await start_error(f"redis://{address}")
        assert missing.startswith(f"the store at redis://{address} requires a password: add it")
        unknown_user = await start_error(f"redis://unknown:secret@{address}")
        assert unknown_user == wrong
        database = await start_error(f"redis://:right@{address}/99")
        assert database.startswith(f"the store at redis://{address} has no database 99: use 0 to 15")
        await (await open_store(f"redis://:right@{address}/0")).close()
        server.kill()
        down = await start_error(f"redis://:secret@{address}")
        assert down.startswith(f"no store answers at redis://{address} (ConnectionError): start it")


async def test_denied_command_is_reported_at_start() -> None:
    with RealServer() as server:
        server.command("ACL", "SETUSER", "limited", "on", ">secret", "+hello", "+auth", "+client")
        denied = await start_error(f"redis://limited:secret@127.0.0.1:{server.port}")
        assert "denies its user a command" in denied


async def test_wrong_password_of_a_cluster_is_reported() -> None:
    with RealServer("valkey", "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        server.command("CONFIG", "SET", "requirepass", "right")
        wrong = await start_error(f"cluster://:secret@127.0.0.1:{server.port}")
        assert "rejects the user or the password" in wrong


async def test_store_reports_its_location(tmp_path: Path) -> None:
    store = await open_store(f"embedded://{tmp_path}")
    assert (store.location, store.data_folder) == (f"embedded://{tmp_path}", tmp_path)
    await store.close()
    with RealServer() as server:
        store = await open_store(f"redis://default:secret@127.0.0.1:{server.port}/2")
        assert (store.location, store.data_folder) == (f"redis://127.0.0.1:{server.port}", None)
        await store.close()


async def test_real_server_keeps_its_data_when_killed_or_stopped() -> None:
    with RealServer() as server:
        server.command("SET", "a", "1")
        server.stop()
        server.start()
        server.command("SET", "b", "2")
        server.restart()
        assert server.command("MGET", "a", "b") == [b"1", b"2"]


def test_valkey_is_installed() -> None:
    assert binary("valkey") is not None


def test_closed_connection_raises_connection_error_on_uvloop() -> None:
    """uvloop's transports raise RuntimeError where asyncio's raise ConnectionError. A worker ended because of it."""
    uvloop = pytest.importorskip("uvloop")

    async def close_and_write(url: str) -> None:
        store = await open_store(url)
        pool = store.client.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        # As if the server resets the connection after the pool has checked it.
        redis_internals.transport_of(connection).abort()
        await asyncio.sleep(0)
        with pytest.raises(RedisConnectionError):
            await connection.send_command("PING", check_health=False)
        await pool.release(connection)
        assert await store.client.ping()
        await store.close()

    with RealServer() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(close_and_write(server.url))
