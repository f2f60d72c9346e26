"""Redis Sentinel: the primary is located at every connection and checked while connections are open.

redis-py opens the connections. Its own sentinel client retries a known address after a failover (redis/redis-py#3874)
and trusts the first sentinel that answers, so this module decides which server is the primary.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio as aioredis
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import RedisError

from gateway.streams.log_fields import error_fields
from gateway.streams.store.errors import NoPrimaryError
from gateway.streams.store.parallel_requests import REPLY_TIMEOUT_S, ParallelRequests
from gateway.streams.store.redis_internals import PrimaryConnection, SecurePrimaryConnection
from gateway.streams.store.server import Server, connection_pool
from gateway.streams.store.topology import Endpoint, PrimaryReport, latest_primary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S: Final = 0.5
"""Seconds until connections to a replaced primary that still answers are closed."""

_SENTINEL_OPTIONS: Final = {"sentinel_username": "username", "sentinel_password": "password"}
_SHARED_OPTIONS: Final = ("connection_class", "ssl_")


class Sentinels:
    """The sentinels of one service."""

    def __init__(self, endpoints: Sequence[Endpoint], service: str, options: Mapping[str, Any]) -> None:
        """`options`: redis-py's options of the servers. TLS options apply to the sentinels too, credentials do not."""
        own = {name: value for name, value in options.items() if name.startswith(_SHARED_OPTIONS)}
        own |= {target: options[name] for name, target in _SENTINEL_OPTIONS.items() if name in options}
        self._service = service
        self._clients = [
            aioredis.Redis.from_pool(
                connection_pool(
                    own,
                    host=endpoint.host,
                    port=endpoint.port,
                    socket_timeout=REPLY_TIMEOUT_S,
                    socket_connect_timeout=REPLY_TIMEOUT_S,
                )
            )
            for endpoint in endpoints
        ]
        self._requests = ParallelRequests()
        self._locating: asyncio.Task[Endpoint] | None = None

    async def primary(self) -> Endpoint:
        """Return the current primary. Safe to cancel; raises NoPrimaryError if no sentinel knows one."""
        if self._locating is None:
            # Connections that are opened at the same time share the request.
            self._locating = asyncio.create_task(self._locate())
            self._locating.add_done_callback(self._located)
        return await asyncio.shield(self._locating)

    async def check(self) -> None:
        """Return if a sentinel answers. Safe to cancel; raises the RedisError or OSError of the first one."""
        await self._clients[0].ping()

    def _located(self, task: asyncio.Task[Endpoint]) -> None:
        self._locating = None
        if not task.cancelled():
            # Retrieved here too, because all callers may have been cancelled.
            task.exception()

    async def _locate(self) -> Endpoint:
        # A majority knows every election, so slow and unreachable sentinels need not be awaited.
        majority = len(self._clients) // 2 + 1
        reports = await self._requests.first(map(self._report, self._clients), majority)
        endpoint = latest_primary([report for report in reports if report is not None])
        if endpoint is None:
            raise NoPrimaryError(f"the sentinels know no service {self._service}" if reports else "no sentinel answers")
        return endpoint

    async def _report(self, client: aioredis.Redis) -> PrimaryReport | None:
        try:
            state: Any = await client.sentinel_master(self._service)
        except aioredis.ResponseError:
            # "No such master with that name"
            return None
        return PrimaryReport(int(state["config-epoch"]), Endpoint(str(state["ip"]), int(state["port"])))

    async def close(self) -> None:
        """Close the connections to the sentinels. Not safe to cancel: connections may stay open."""
        await self._requests.close()
        for client in self._clients:
            await client.aclose()


class SentinelServer(Server):
    """The primary that the sentinels report; follows it when it changes."""

    def __init__(self, sentinels: Sentinels, options: Mapping[str, Any]) -> None:
        """`options`: redis-py's options of the servers."""
        own = {name: value for name, value in options.items() if name not in _SENTINEL_OPTIONS}
        secure = own.pop("connection_class", Connection) is SSLConnection
        kind = SecurePrimaryConnection if secure else PrimaryConnection
        pool = connection_pool(own, connection_class=kind, locate=sentinels.primary)
        super().__init__(aioredis.Redis.from_pool(pool))
        self._sentinels = sentinels
        self._checking = asyncio.create_task(self._check_primary())

    async def check(self) -> None:
        """Return if the primary answers. Safe to cancel; raises NoPrimaryError, RedisError, OSError."""
        try:
            await self._sentinels.primary()
        except NoPrimaryError as error:
            try:
                await self._sentinels.check()
            except aioredis.AuthenticationError:
                raise
            except (RedisError, OSError):
                pass
            raise error from None
        await super().check()

    async def _check_primary(self) -> None:
        current: Endpoint | None = None
        while True:
            try:
                endpoint = await self._sentinels.primary()
                if current is not None and endpoint != current:
                    logger.warning("store_primary_changed", extra={"primary": str(endpoint), "previous": str(current)})
                    await self.reconnect()
                current = endpoint
            except (RedisError, OSError):
                # Open connections work without a sentinel.
                pass
            except Exception as error:
                # Without this task the process would not follow a failover.
                logger.error("sentinel_check_failed", extra=error_fields(error))
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def close(self) -> None:
        """See `Server.close`."""
        self._checking.cancel()
        await asyncio.gather(self._checking, return_exceptions=True)
        await super().close()
        await self._sentinels.close()
