"""One server: its connections, and the round trips that calls share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.streams.store.connection import expectable
from gateway.streams.store.pipeline import Argument, Pipeline
from gateway.streams.store.subscription import PLAIN, Vocabulary, open_subscription

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from gateway.streams.store.subscription import OnAcknowledged, OnMessage, Subscription

CONNECT_TIMEOUT: Final = 3.0
COMMAND_TIMEOUT: Final = 5.0
"""Seconds. Longer than any command of ours takes on a healthy server, shorter than a person waits."""

MAX_CONNECTIONS: Final = 48


def pool(options: Mapping[str, Any], **more: Any) -> aioredis.BlockingConnectionPool:
    """The connections to one server, none of them opened yet; `options` and `more` are redis-py's."""
    connections = aioredis.BlockingConnectionPool(
        **{
            # Whoever finds them all in use waits: a gateway that reads a thousand logs, a worker with hundreds of jobs,
            # must not open a connection for each.
            "max_connections": MAX_CONNECTIONS,
            "timeout": COMMAND_TIMEOUT,
            # The defaults of redis-py 8 (ten silent retries) would hide a lost tail and double the wait of an outage.
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": COMMAND_TIMEOUT,
            # Not CLIENT SETINFO, which Redis 7.0 does not know and so can not be permitted there.
            "driver_info": None,
            **options,
            **more,
        }
    )
    expectable(connections)
    return connections


class Server:
    """One server, or whichever server its connections find."""

    publish: Final = "PUBLISH"

    def __init__(self, client: aioredis.Redis) -> None:
        self.client = client
        self._pipeline = Pipeline(client.connection_pool, COMMAND_TIMEOUT)
        self._subscriptions: set[Subscription] = set()

    @property
    def clients(self) -> list[aioredis.Redis]:
        """A client of every primary: this one."""
        return [self.client]

    async def check(self) -> None:
        """Return if the server answers; raises RedisError, OSError."""
        await self.client.ping()

    def send_command(self, key: str, *words: Argument) -> Awaitable[Any]:
        """Send one command, which concerns `key`; see Pipeline.call."""
        return self._pipeline.call(*words)

    def connected_for_s(self, key: str) -> float:
        """For how many seconds the connection to who has `key` has been open; 0 where there is none."""
        return self._pipeline.age

    async def subscribe(
        self,
        on_message: OnMessage,
        on_acknowledged: OnAcknowledged,
        vocabulary: Vocabulary = PLAIN,
        moved: OnAcknowledged | None = None,
    ) -> Subscription:
        """Open a subscription; see `subscription.subscribe`."""
        subscription = await open_subscription(self.client, on_message, on_acknowledged, vocabulary, moved)
        self._subscriptions.add(subscription)
        subscription.closed.add_done_callback(lambda _: self._subscriptions.discard(subscription))
        return subscription

    async def reconnect(self) -> None:
        """Open every connection anew: the server that they lead to is not the right one any more."""
        self._pipeline.drop(RedisConnectionError("another server is the primary now"))
        await self.client.connection_pool.disconnect()
        for subscription in list(self._subscriptions):
            await subscription.close()

    async def close(self) -> None:
        """Close every connection; what is under way is cancelled."""
        await self._pipeline.close()
        for subscription in list(self._subscriptions):
            await subscription.close()
        await self.client.aclose()
