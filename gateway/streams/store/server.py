"""One server: its connections, its pipeline and its subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.streams.store.pipeline import Argument, Pipeline
from gateway.streams.store.redis_internals import correct_connections
from gateway.streams.store.subscription import PLAIN, ChannelCommands, open_subscription

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from gateway.streams.store.pipeline import OpenConnection
    from gateway.streams.store.subscription import OnAcknowledged, OnMessage, OnRevoked, Subscription

CONNECT_TIMEOUT_S: Final = 3.0
COMMAND_TIMEOUT_S: Final = 5.0
"""Seconds. Longer than any command takes on a healthy server, shorter than a user waits."""

MAX_CONNECTIONS: Final = 48


def connection_pool(options: Mapping[str, Any], **more: Any) -> aioredis.BlockingConnectionPool:
    """Return a pool for one server without an open connection; `options` and `more` are those of redis-py."""
    connections = aioredis.BlockingConnectionPool(
        **{
            # Callers beyond the limit wait: a gateway that reads a thousand logs must not open a thousand connections.
            "max_connections": MAX_CONNECTIONS,
            "timeout": COMMAND_TIMEOUT_S,
            # The defaults of redis-py 8 (ten silent retries) would hide a lost tail and double the wait of an outage.
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": COMMAND_TIMEOUT_S,
            # No CLIENT SETINFO: Redis 7.0 does not have it, so an ACL there cannot permit it.
            "driver_info": None,
            **options,
            **more,
        }
    )
    correct_connections(connections)
    return connections


class Server:
    """One server, or the server that its connections locate."""

    publish: Final = "PUBLISH"

    def __init__(self, client: aioredis.Redis, open_connection: OpenConnection | None = None) -> None:
        """`open_connection`: see `Pipeline`."""
        self.client = client
        self._pipeline = Pipeline(client.connection_pool, COMMAND_TIMEOUT_S, open_connection)
        self._subscriptions: set[Subscription] = set()

    @property
    def clients(self) -> list[aioredis.Redis]:
        """A client of every primary: this one."""
        return [self.client]

    async def check(self) -> None:
        """Return if the server answers. Safe to cancel; raises RedisError, OSError."""
        await self.client.ping()

    def send_command(self, key: str, *words: Argument) -> Awaitable[Any]:
        """Send one command that concerns `key`; see `Pipeline.call`."""
        return self._pipeline.call(*words)

    def connected_for_s(self, key: str) -> float:
        """Return the seconds for which this process has been connected to the server of `key`; 0 without a connection.

        See `gateway.streams.liveness` for its use.
        """
        return self._pipeline.connected_s

    async def subscribe(
        self,
        on_message: OnMessage,
        on_acknowledged: OnAcknowledged,
        commands: ChannelCommands = PLAIN,
        on_revoked: OnRevoked | None = None,
    ) -> Subscription:
        """Open a subscription; see `subscription.open_subscription`. Safe to cancel."""
        subscription = await self._open_subscription(on_message, on_acknowledged, commands, on_revoked)
        self._subscriptions.add(subscription)
        subscription.closed.add_done_callback(lambda _: self._subscriptions.discard(subscription))
        return subscription

    async def _open_subscription(
        self,
        on_message: OnMessage,
        on_acknowledged: OnAcknowledged,
        commands: ChannelCommands,
        on_revoked: OnRevoked | None,
    ) -> Subscription:
        return await open_subscription(self.client, on_message, on_acknowledged, commands, on_revoked)

    async def reconnect(self) -> None:
        """Close every connection, because another server is the primary; the next calls open new ones.

        Not safe to cancel: connections to the old primary may stay open.
        """
        self._pipeline.fail_all(RedisConnectionError("another server is the primary now"))
        await self.client.connection_pool.disconnect()
        for subscription in list(self._subscriptions):
            await subscription.close()

    async def close(self) -> None:
        """Cancel all calls and close every connection. Not safe to cancel: connections may stay open."""
        await self._pipeline.close()
        for subscription in list(self._subscriptions):
            await subscription.close()
        await self.client.aclose()
