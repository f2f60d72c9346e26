"""The store: wherever Redis runs, and the scripts on it.

`memory://` is a Redis in this process, `embedded://` a real Valkey server that is started for you; everything else is
an address of yours: one server, the primary behind sentinels, or a cluster. Commands of Redis 6.2 and Valkey 7.2
suffice, in a cluster those of Redis 7.0.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import redis.asyncio as aioredis
from redis.exceptions import MovedError, NoScriptError, RedisError

from gateway.streams import metrics
from gateway.streams.store import address
from gateway.streams.store.cluster import Cluster
from gateway.streams.store.errors import (
    NoPrimaryError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    is_full,
    is_transient,
)
from gateway.streams.store.sentinel import Primary, Sentinels
from gateway.streams.store.server import Server, pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.streams.store.address import Address
    from gateway.streams.store.pipeline import Argument
    from gateway.streams.store.subscription import OnAcknowledged, OnMessage, Subscription

log = logging.getLogger(__name__)

SCRIPTS: Final = ("submit", "claim", "append", "end", "renew", "release", "requeue", "compare", "heartbeat", "queue")

MAX_PAUSE: Final = 0.25
"""Seconds between two tries. All calls of a process share one attempt to connect, so few do not help the store."""

Servers: TypeAlias = Server | Cluster


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long the store keeps things, in seconds: a log after its last change or end, a conversation, a submit key."""

    log: float = 86_400.0
    conversation: float = 30 * 86_400.0
    submission: float = 86_400.0


class Store:
    """One process's use of the store: every command and script goes through here, with retries decided on purpose.

    Every script of ours may be repeated without a second effect, so a call whose reply was lost is sent again until
    `timeout_s` seconds are over. Scripts share round trips.
    """

    def __init__(
        self, servers: Servers, lifetimes: Lifetimes, release: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.servers = servers
        self.client = servers.client
        """redis-py's commands, for what is no script; each goes to who has its key."""
        self.lifetimes = lifetimes
        self._release = release
        self._sources = {name: _source(name) for name in SCRIPTS}
        self._digests = {
            name: hashlib.sha1(source, usedforsecurity=False).hexdigest() for name, source in self._sources.items()
        }

    async def call(self, script: str, keys: list[str], *arguments: Argument, timeout_s: float = 10.0) -> Any:
        """Run a script; raise StoreUnavailableError after `timeout_s` seconds without an answer, StoreFullError."""
        count = len(keys)
        words: list[Argument] = [*keys, self.servers.publish, *arguments]

        async def once() -> Any:
            try:
                return await self.servers.send_command(keys[0], "EVALSHA", self._digests[script], count, *words)
            except NoScriptError:
                return await self.servers.send_command(keys[0], "EVAL", self._sources[script], count, *words)

        return await self.retry(once, timeout_s)

    def send_command(self, key: str, *words: Argument) -> Awaitable[Any]:
        """One command, sent once, with what else is asked in this turn of the loop; raises RedisError, OSError."""
        return self.servers.send_command(key, *words)

    def connected_for_s(self, key: str) -> float:
        """For how many seconds this process has been connected to the server that has `key` now."""
        return self.servers.connected_for_s(key)

    def publish(self, channel: str, data: bytes) -> Awaitable[Any]:
        """Publish as the scripts do; raises RedisError, OSError."""
        return self.servers.send_command(channel, self.servers.publish, channel, data)

    async def subscribe(self, on_message: OnMessage, on_acknowledged: OnAcknowledged) -> Subscription:
        """Open a subscription: `heard` is called with channel and data of each message, `acknowledged` with a channel.

        Raises RedisError, OSError.
        """
        return await self.servers.subscribe(on_message, on_acknowledged)

    async def retry(self, command: Callable[[], Awaitable[Any]], timeout_s: float = 10.0) -> Any:
        """Await `command()` again while the store can not be reached, for `timeout_s` seconds."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        pause = 0.05
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    reply = await command()
                if task.cancelling() > cancelled:
                    # redis-py writes under asyncio.wait_for, which up to Python 3.11 may swallow a cancellation: the
                    # task would live on, and with it all that it holds.
                    raise asyncio.CancelledError
                return reply
            except (RedisError, OSError) as error:
                if is_full(error):
                    metrics.STORE_FULL.inc()
                    raise StoreFullError("the store is out of memory: raise maxmemory or shorten retention") from error
                if isinstance(error, MovedError):
                    raise StoreError("the store is a cluster: set TOKENWIRE_STORE to cluster://HOST,HOST") from error
                if not is_transient(error):
                    raise
                metrics.STORE_UNAVAILABLE.inc()
                if asyncio.get_running_loop().time() + pause > deadline:
                    raise StoreUnavailableError(f"the store does not answer ({type(error).__name__})") from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE)

    async def close(self) -> None:
        """Close every connection, and stop the embedded server if this process was the last to use it."""
        await self.servers.close()
        if self._release is not None:
            await self._release()


def _source(name: str) -> bytes:
    return (resources.files("gateway.streams.scripts") / f"{name}.lua").read_bytes()


def milliseconds(seconds: float) -> int:
    """Seconds as the whole milliseconds that Redis wants."""
    return int(seconds * 1000)


async def open_store(url: str, lifetimes: Lifetimes | None = None) -> Store:
    """Connect to the store at `url` and check that it answers; raises StoreError with what to do."""
    where = address.parse(url)
    lifetimes = lifetimes or Lifetimes()
    release: Callable[[], Awaitable[None]] | None = None
    if where.scheme == "memory":
        from fakeredis import FakeAsyncRedis  # noqa: PLC0415 - the emulator loads only where it is used

        return Store(Server(FakeAsyncRedis()), lifetimes)
    if where.scheme == "embedded":
        from gateway.streams.store import embedded  # noqa: PLC0415 - as above

        server = await asyncio.to_thread(embedded.attach, where.path)
        where, release = address.parse(server.url), server.detach
    servers = _servers(where)
    store = Store(servers, lifetimes, release)
    try:
        await servers.check()
    except (RedisError, OSError, TypeError) as error:
        await store.close()
        if isinstance(error, TypeError):
            # Said by redis-py of an option that its connections do not have.
            raise StoreError(f"the address of the store {where.shown} has options that are not known") from None
        # Of others the name alone: a text might quote the address, and with it a password.
        why = str(error) if isinstance(error, NoPrimaryError) else type(error).__name__
        raise StoreError(f"no store answers at {where.shown} ({why}): start it, or set TOKENWIRE_STORE") from error
    return store


def _servers(where: Address) -> Servers:
    options = where.options or {}
    if where.scheme.startswith("cluster"):
        return Cluster(where.places, options)
    if where.scheme.startswith("sentinel"):
        return Primary(Sentinels(where.places, where.service, options), options)
    return Server(aioredis.Redis.from_pool(pool(options)))
