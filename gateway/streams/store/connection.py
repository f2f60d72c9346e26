"""redis-py's connections, with what uvloop's transports say of a closed one made an error that everybody expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool


def expectable(pool: ConnectionPool) -> None:
    """Let the connections of a pool, none of which is open yet, raise ConnectionError where they are found closed.

    One that the server resets while it is taken out of the pool is written to all the same. asyncio's own transports
    take the bytes and raise ConnectionError later; uvloop's raise RuntimeError, which redis-py passes on.
    """
    kind: type[AbstractConnection] = pool.connection_class

    class Expectable(kind):  # type: ignore[misc, valid-type]
        async def send_packed_command(self, *arguments: Any, **options: Any) -> None:
            try:
                await super().send_packed_command(*arguments, **options)
            except RuntimeError as error:
                raise RedisConnectionError("the connection was closed") from error

    pool.connection_class = Expectable
