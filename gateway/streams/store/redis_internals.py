"""Adapter for redis-py: every undocumented attribute of it that this package uses.

There is no fallback without them, so pyproject.toml bounds the version. tests/gateway/streams/store/test_internals.py
names each attribute: an upgrade that changes one fails there.

| attribute | use |
|---|---|
| `AbstractConnection._writer.transport` | write to a connection and read from it without redis-py |
| `AbstractConnection._parser.parse_error` | turn an error reply into the exception class of redis-py |
| `Connection._connect` | determine the address when a connection is opened |
| `AbstractConnection.on_connect_check_health` | check the role of a server after the handshake |
| `ConnectionPool.connection_class` | use an own subclass for the connections of a pool |
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio.connection import AbstractConnection, ConnectionPool

    from gateway.streams.store.topology import Endpoint


def transport_of(connection: AbstractConnection) -> asyncio.Transport:
    """Return the transport of an open connection to a real server."""
    transport: asyncio.Transport = connection._writer.transport  # type: ignore[union-attr, assignment]
    return transport


def error_parser(connection: AbstractConnection) -> Callable[[str], Exception]:
    """Return the function that turns the text of an error reply into an exception."""
    parse: Callable[[str], Exception] = connection._parser.parse_error
    return parse


def correct_connections(pool: ConnectionPool) -> None:
    """Make the connections of a pool raise ConnectionError when they are closed, and CancelledError when cancelled.

    None of them may be open yet. A server can reset a connection while it is taken out of the pool. Then asyncio's
    transports accept the bytes and raise ConnectionError later, but uvloop's raise RuntimeError, which redis-py passes
    on. And redis-py and fakeredis wait under asyncio.wait_for, which up to Python 3.11 swallows a cancellation that
    arrives together with the result: the task would continue, and the task that cancelled it would wait for ever.
    """
    base: type[AbstractConnection] = pool.connection_class

    class CorrectedConnection(base):  # type: ignore[misc, valid-type]
        async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
            """See `redis.asyncio.Connection`; raises ConnectionError where uvloop raises RuntimeError."""
            try:
                await self._cancellable(super().send_packed_command(*arguments, **options))
            except RuntimeError as error:
                raise RedisConnectionError("the connection was closed") from error

        async def read_response(self, *arguments: Any, **options: Any) -> Any:
            """See `redis.asyncio.Connection`."""
            return await self._cancellable(super().read_response(*arguments, **options))

        async def _cancellable(self, work: Awaitable[Any]) -> Any:
            task = asyncio.current_task()
            requests = task.cancelling() if task else 0
            try:
                return await work
            finally:
                if task and task.cancelling() > requests:
                    # A reply may be outstanding: the next command must not read it.
                    await self.disconnect(nowait=True)
                    raise asyncio.CancelledError

    pool.connection_class = CorrectedConnection


class PrimaryConnection(Connection):
    """A connection to the server that `locate` returns when it is opened."""

    def __init__(self, *, locate: Callable[[], Awaitable[Endpoint]], **options: Any) -> None:
        super().__init__(**options)
        self._locate = locate

    async def _connect(self) -> None:
        self.host, self.port = await self._locate()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """See `redis.asyncio.Connection`; raises ConnectionError where the server is no primary."""
        await super().on_connect_check_health(check_health)
        # The server may have been demoted after `locate` returned.
        await self.send_command("ROLE", check_health=False)
        role = await self.read_response()
        if role[0] not in (b"master", "master"):
            raise RedisConnectionError(f"{self.host}:{self.port} is not a primary")


class SecurePrimaryConnection(PrimaryConnection, SSLConnection):
    """The same over TLS."""
