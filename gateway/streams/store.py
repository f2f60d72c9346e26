"""The store: a connection to Redis, wherever it runs, and the scripts on it.

`memory://` is a Redis in this process, `embedded://` a real Valkey server that is started for you; everything else is
an address of yours. Commands of Redis 6.2 and Valkey 7.2 suffice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from gateway.streams import metrics
from gateway.streams.connection import expectable
from gateway.streams.pipeline import Argument, Pipeline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio.client import PubSub

log = logging.getLogger(__name__)

SCRIPTS: Final = ("submit", "claim", "append", "end", "renew", "release", "requeue", "compare", "show", "queue")
SCHEMES: Final = ("memory", "embedded", "redis", "rediss", "unix")

CONNECT_TIMEOUT: Final = 3.0
COMMAND_TIMEOUT: Final = 5.0
"""Seconds. Longer than any command of ours takes on a healthy server, shorter than a person waits."""

MOST_CONNECTIONS: Final = 48

_TRANSIENT: Final = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    OSError,
)
_TRANSIENT_CODES: Final = re.compile(r"(?:^|-)(?:READONLY|NOREPLICAS|MISCONF|MASTERDOWN|TRYAGAIN|BUSY) ")
"""For errors without a class in redis-py, and those that Redis 6.2 wraps in a script: `ERR ...: 1: -READONLY ...`."""


class StoreError(Exception):
    """The store can not be used as it is; the message says what to do."""


class StoreUnavailableError(StoreError):
    """The store did not answer in time; the same call may succeed later and is safe to repeat."""


class StoreFullError(StoreError):
    """The store refuses writes because it is out of memory; reads still work."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long the store keeps things, in seconds: a log after its last change or end, a conversation, a submit key."""

    log: float = 86_400.0
    conversation: float = 30 * 86_400.0
    submission: float = 86_400.0


class Store:
    """One process's use of the store: every command and script goes through here, with retries decided on purpose.

    Every script of ours may be repeated without a second effect, so a call whose reply was lost is sent again until
    `patience` seconds are over. Scripts share round trips; a store of several nodes would have a pipeline for each.
    """

    def __init__(
        self, client: aioredis.Redis, lifetimes: Lifetimes, release: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.client = client
        self.lifetimes = lifetimes
        self._release = release
        self._pipeline = Pipeline(client.connection_pool, COMMAND_TIMEOUT)
        self._sources = {name: _source(name) for name in SCRIPTS}
        self._digests = {
            name: hashlib.sha1(source, usedforsecurity=False).hexdigest() for name, source in self._sources.items()
        }

    async def call(self, script: str, keys: list[str], *arguments: Argument, patience: float = 10.0) -> Any:
        """Run a script; raise StoreUnavailableError after `patience` seconds without an answer, StoreFullError."""
        count = len(keys)
        words: list[Argument] = [*keys, "PUBLISH", *arguments]

        async def once() -> Any:
            try:
                return await self._pipeline.call("EVALSHA", self._digests[script], count, *words)
            except NoScriptError:
                return await self._pipeline.call("EVAL", self._sources[script], count, *words)

        return await self.repeat(once, patience)

    async def repeat(self, command: Callable[[], Awaitable[Any]], patience: float = 10.0) -> Any:
        """Await `command()` again while the store can not be reached, for `patience` seconds."""
        deadline = asyncio.get_running_loop().time() + patience
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
                if _is_full(error):
                    metrics.STORE_FULL.inc()
                    raise StoreFullError("the store is out of memory: raise maxmemory or shorten retention") from error
                if not _is_transient(error):
                    raise
                metrics.STORE_UNAVAILABLE.inc()
                if asyncio.get_running_loop().time() + pause > deadline:
                    raise StoreUnavailableError(f"the store does not answer ({type(error).__name__})") from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    def subscriber(self) -> PubSub:
        """A subscription on a connection of its own, which ends with an error when that connection does."""
        return self.client.pubsub()

    async def close(self) -> None:
        """Close every connection, and stop the embedded server if this process was the last to use it."""
        await self._pipeline.close()
        await self.client.aclose()
        if self._release is not None:
            await self._release()


def _is_full(error: Exception) -> bool:
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "-OOM " in str(error))


def _is_transient(error: Exception) -> bool:
    return isinstance(error, _TRANSIENT) or _TRANSIENT_CODES.search(str(error)) is not None


def _source(name: str) -> bytes:
    return (resources.files("gateway.streams.scripts") / f"{name}.lua").read_bytes()


def milliseconds(seconds: float) -> int:
    """Seconds as the whole milliseconds that Redis wants."""
    return int(seconds * 1000)


async def open_store(url: str, lifetimes: Lifetimes | None = None) -> Store:
    """Connect to the store at `url` and check that it answers; raises StoreError with what to do."""
    lifetimes = lifetimes or Lifetimes()
    try:
        parts = urlsplit(url)
    except ValueError:
        # Its text would quote the address, and with it a password.
        raise StoreError("the store's address can not be read: see TOKENWIRE_STORE") from None
    scheme = parts.scheme
    release: Callable[[], Awaitable[None]] | None = None
    if scheme == "memory":
        from fakeredis import FakeAsyncRedis  # noqa: PLC0415 - the emulator loads only where it is used

        return Store(FakeAsyncRedis(), lifetimes)
    if scheme == "embedded":
        from gateway.streams import embedded  # noqa: PLC0415 - as above

        server = await asyncio.to_thread(embedded.attach, url.partition(":")[2].removeprefix("//"))
        url, release = server.url, server.detach
    elif scheme not in SCHEMES:
        known = " ".join(f"{name}://" for name in SCHEMES)
        what = f"the store {scheme}:// is" if scheme else "the store's address has no scheme, or one that is"
        raise StoreError(f"{what} not known: set TOKENWIRE_STORE to one of {known}")
    try:
        pool = aioredis.BlockingConnectionPool.from_url(
            url,
            # Whoever finds them all in use waits: a gateway that reads a thousand logs, a worker with hundreds of jobs,
            # must not open a connection for each.
            max_connections=MOST_CONNECTIONS,
            timeout=COMMAND_TIMEOUT,
            # The defaults of redis-py 8 (ten silent retries) would hide a lost tail and double the wait of an outage.
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=COMMAND_TIMEOUT,
            # redis-py's connection over a Unix socket refuses the word.
            **({} if scheme in ("unix", "embedded") else {"socket_keepalive": True}),
        )
        expectable(pool)
        client: aioredis.Redis = aioredis.Redis.from_pool(pool)
        address = f"{scheme}://{parts.hostname or parts.path}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        # As above: a password that holds a slash is read as a port.
        raise StoreError(
            f"the address of the store {scheme}:// can not be read: "
            "write special characters of a password as %XX, and the port and the database as numbers"
        ) from None
    store = Store(client, lifetimes, release)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        await store.close()
        raise StoreError(
            f"no store answers at {address} ({type(error).__name__}): start it, or set TOKENWIRE_STORE"
        ) from error
    return store
