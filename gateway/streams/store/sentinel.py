"""The primary behind Redis Sentinels: asked for at every connection, and looked after while there are some.

redis-py sets connections up. What it has for sentinels goes on with the address that it knows while it tries again
(redis/redis-py#3874) and believes the first sentinel that answers, so which server is the primary is decided here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio as aioredis
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway.streams.store.errors import NoPrimaryError
from gateway.streams.store.poll import ANSWER_WITHIN, Poll
from gateway.streams.store.server import Server, pool
from gateway.streams.store.topology import Claim, Endpoint, newest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.5
"""Seconds until a primary that still answers, but has been replaced, is left."""

_OF_SENTINELS: Final = {"sentinel_username": "username", "sentinel_password": "password"}
_OF_CONNECTIONS: Final = ("connection_class", "ssl_")


class Sentinels:
    """The sentinels of one service."""

    def __init__(self, places: Sequence[Endpoint], service: str, options: Mapping[str, Any]) -> None:
        """`options`: redis-py's for the servers; of them TLS is the sentinels' too, user and password are not."""
        own = {name: value for name, value in options.items() if name.startswith(_OF_CONNECTIONS)}
        own |= {ours: options[name] for name, ours in _OF_SENTINELS.items() if name in options}
        self._service = service
        self._clients = [
            aioredis.Redis.from_pool(
                pool(
                    own,
                    host=place.host,
                    port=place.port,
                    socket_timeout=ANSWER_WITHIN,
                    socket_connect_timeout=ANSWER_WITHIN,
                )
            )
            for place in places
        ]
        self._poll = Poll()
        self._asking: asyncio.Task[Endpoint] | None = None

    async def primary(self) -> Endpoint:
        """Where the primary is, as the sentinels say now; raises NoPrimaryError where none of them knows."""
        if self._asking is None:
            # Many connections that are opened at once share the question.
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    def _asked(self, task: asyncio.Task[Endpoint]) -> None:
        self._asking = None
        if not task.cancelled():
            # Those who waited have it, too; but they may all be gone.
            task.exception()

    async def _ask(self) -> Endpoint:
        # A vote is known to most of them; whoever is slow or cut off is not waited for.
        told = await self._poll.answers(map(self._ask_one, self._clients), len(self._clients) // 2 + 1)
        place = newest([claim for claim in told if claim is not None])
        if place is None:
            raise NoPrimaryError(f"the sentinels know no service {self._service}" if told else "no sentinel answers")
        return place

    async def _ask_one(self, client: aioredis.Redis) -> Claim | None:
        try:
            state: Any = await client.sentinel_master(self._service)
        except aioredis.ResponseError:
            # "No such master with that name"
            return None
        return Claim(int(state["config-epoch"]), Endpoint(str(state["ip"]), int(state["port"])))

    async def close(self) -> None:
        """Close the connections to the sentinels."""
        await self._poll.close()
        for client in self._clients:
            await client.aclose()


class _PrimaryConnection(Connection):
    """A connection to whichever server is the primary when it is opened."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.primary()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        # It may have been demoted since, or think so.
        await self.send_command("ROLE", check_health=False)
        role = await self.read_response()
        if role[0] not in (b"master", "master"):
            raise RedisConnectionError(f"{self.host}:{self.port} is no primary")


class _SecurePrimaryConnection(_PrimaryConnection, SSLConnection):
    """The same over TLS."""


class Primary(Server):
    """The server that the sentinels call the primary, followed when that becomes another one."""

    def __init__(self, sentinels: Sentinels, options: Mapping[str, Any]) -> None:
        """`options`: redis-py's, for the server."""
        own = {name: value for name, value in options.items() if name not in _OF_SENTINELS}
        secure = own.pop("connection_class", Connection) is SSLConnection
        kind = _SecurePrimaryConnection if secure else _PrimaryConnection
        super().__init__(aioredis.Redis.from_pool(pool(own, connection_class=kind, sentinels=sentinels)))
        self._sentinels = sentinels
        self._looking = asyncio.create_task(self._look())

    async def check(self) -> None:
        """As Server.check; raises NoPrimaryError too."""
        await self._sentinels.primary()
        await super().check()

    async def _look(self) -> None:
        current: Endpoint | None = None
        while True:
            try:
                place = await self._sentinels.primary()
                if current is not None and place != current:
                    logger.warning("the store's primary is %s now", place)
                    await self.reconnect()
                current = place
            except (RedisError, OSError):
                # Connections that live serve without a sentinel.
                pass
            await asyncio.sleep(LOOK_EVERY)

    async def close(self) -> None:
        """As Server.close."""
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await super().close()
        await self._sentinels.close()
