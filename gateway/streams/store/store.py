"""The store: commands and scripts on one server, a primary behind sentinels, or a cluster.

`memory://` is emulated in this process, `embedded://` starts a Valkey server; all other addresses are the operator's
servers. Redis 6.2 and Valkey 7.2 suffice, for a cluster Redis 7.0.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import redis.asyncio as aioredis
from redis.exceptions import (
    AuthenticationError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)

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
from gateway.streams.store.sentinel import Sentinels, SentinelServer
from gateway.streams.store.server import Server, connection_pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from gateway.streams.store.address import Address
    from gateway.streams.store.pipeline import Argument
    from gateway.streams.store.subscription import OnAcknowledged, OnMessage, Subscription

SCRIPTS: Final = (
    *("submit", "claim", "append", "end", "renew", "release", "requeue", "consumers", "reserve", "unreserve"),
    *("candidates", "take", "leave", "overdue", "compare", "heartbeat", "queue", "read_history"),
)

NO_SHEBANG: Final = "unexpected symbol near '#'"
"""In the error of a server that does not know the flags of a script."""

SUBMISSION_S: Final = 86_400.0
"""How long an idempotency key is kept: the protocol promises a day, whatever the retention of logs."""

INSTRUCTIONS_MARGIN_S: Final = 3600.0
"""Renewals refresh log and instructions at almost the same time; an end refreshes only the log."""

DETAILS_MARGIN_S: Final = 86_400.0
"""Longer than an answer waits and is generated: renewals do not refresh details."""

MAX_LONG_ENDS: Final = 4
"""Answers that a process ends at once whose text it reads first, because each holds the text."""

FIRST_RETRY_PAUSE_S: Final = 0.05
MAX_RETRY_PAUSE_S: Final = 0.25
"""Seconds between two tries. All calls of a process share one attempt to connect, so a short pause costs little."""

LATE_S: Final = 1.0
"""Seconds: a deadline noticed later than this one shows a blocked event loop, and says nothing about the store."""

Servers: TypeAlias = Server | Cluster


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Retention in seconds: of a log after its last change or end, of a conversation, of an idempotency key."""

    log: float = 86_400.0
    conversation: float = 30 * 86_400.0
    submission: float = SUBMISSION_S

    @property
    def instructions(self) -> float:
        """Of instructions after their last use: longer than the requests that refer to them, which may be retried."""
        return max(self.log, self.conversation) + INSTRUCTIONS_MARGIN_S

    @property
    def details(self) -> float:
        """Of claims and metadata after a submit that refers to them: an answer may end, and then be kept, later."""
        return max(self.log, self.conversation) + DETAILS_MARGIN_S


class Store:
    """The store as one process uses it. All commands and scripts go through here and share its retry rules.

    Every script is idempotent, so a call whose reply is lost is sent again until its timeout.
    """

    def __init__(
        self,
        servers: Servers,
        lifetimes: Lifetimes,
        release: Callable[[], Awaitable[None]] | None = None,
        *,
        location: str = "",
        data_folder: Path | None = None,
    ) -> None:
        """`release` is awaited after closing. `location` and `data_folder`: see the attributes."""
        self.servers = servers
        self.client = servers.client
        """redis-py's client for single commands; each is routed to the server of its key."""
        self.lifetimes = lifetimes
        self.location = location
        """The address without user and password, for operators."""
        self.data_folder = data_folder
        """Where `embedded://` keeps its data; None for every other store."""
        self.long_ends = asyncio.Semaphore(MAX_LONG_ENDS)
        """Held while an answer is ended whose text this process reads first; see `response_log.end`."""
        self._release = release
        self._sources = {name: _source(name) for name in SCRIPTS}
        self._digests = {name: _digest(source) for name, source in self._sources.items()}

    async def call(self, script: str, keys: list[str], *arguments: Argument, timeout_s: float = 10.0) -> Any:
        """Run a script and return its reply.

        Safe to cancel: scripts are atomic and idempotent; a cancelled call may still take effect. Raises
        StoreUnavailableError after `timeout_s` seconds without a reply, StoreFullError.
        """
        count = len(keys)
        words: list[Argument] = [*keys, self.servers.publish, *arguments]

        async def evaluate() -> Any:
            try:
                return await self.servers.send_command(keys[0], "EVALSHA", self._digests[script], count, *words)
            except NoScriptError:
                return await self.servers.send_command(keys[0], "EVAL", self._sources[script], count, *words)

        async def run() -> Any:
            try:
                return await evaluate()
            except ResponseError as error:
                if NO_SHEBANG not in str(error):
                    raise
            self._remove_shebang(script)
            return await evaluate()

        return await self.retry(run, timeout_s)

    def _remove_shebang(self, script: str) -> None:
        """Use a script without its flags: a server before Redis 7.0 knows none, and a full one refuses the script."""
        if self._sources[script].startswith(b"#!"):
            # Otherwise another call has removed it.
            _, _, self._sources[script] = self._sources[script].partition(b"\n")
        self._digests[script] = _digest(self._sources[script])

    async def memory_share(self) -> float:
        """Return the used share of the memory that the fullest server may use; 0 if that is not known.

        Safe to cancel; raises RedisError, OSError.
        """
        shares = []
        for client in self.servers.clients:
            memory = await client.info("memory")
            if limit := memory.get("maxmemory"):
                shares.append(memory["used_memory"] / limit)
        return max(shares, default=0.0)

    def send_command(self, key: str, *words: Argument) -> Awaitable[Any]:
        """Send one command without retries; it shares the round trip of calls made at the same time.

        Safe to cancel, as `Pipeline.call`; raises RedisError, OSError.
        """
        return self.servers.send_command(key, *words)

    def connected_for_s(self, key: str) -> float:
        """Return the seconds for which this process has been connected to the current server of `key`."""
        return self.servers.connected_for_s(key)

    def publish(self, channel: str, data: bytes) -> Awaitable[Any]:
        """Publish a message as the scripts do. Safe to cancel; raises RedisError, OSError."""
        return self.servers.send_command(channel, self.servers.publish, channel, data)

    async def subscribe(self, on_message: OnMessage, on_acknowledged: OnAcknowledged) -> Subscription:
        """Open a subscription. `on_message` is called with channel and data, `on_acknowledged` with a channel.

        Safe to cancel; raises RedisError, OSError.
        """
        return await self.servers.subscribe(on_message, on_acknowledged)

    async def retry(self, command: Callable[[], Awaitable[Any]], timeout_s: float = 10.0) -> Any:
        """Await `command()` until it succeeds, while the store is unavailable.

        Safe to cancel if `command` is. Raises StoreUnavailableError after `timeout_s` seconds, StoreFullError, and
        StoreError if the server belongs to a cluster; other errors of `command` are passed on. If the event loop was
        blocked at the deadline, there is a second one: a reply may have arrived meanwhile.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        pause_s = FIRST_RETRY_PAUSE_S
        may_be_late = True
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await command()
            except (RedisError, OSError) as error:
                if is_full(error):
                    metrics.STORE_FULL.inc()
                    raise StoreFullError("the store is out of memory: raise maxmemory or shorten retention") from error
                if isinstance(error, MovedError):
                    raise StoreError("the store is a cluster: set TOKENWIRE_STORE to cluster://HOST,HOST") from error
                if not is_transient(error):
                    raise
                metrics.STORE_UNAVAILABLE.inc()
                now = asyncio.get_running_loop().time()
                if may_be_late and now - deadline > LATE_S:
                    may_be_late, deadline = False, now + timeout_s
                if now + pause_s > deadline:
                    raise StoreUnavailableError(f"the store does not answer ({type(error).__name__})") from error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_RETRY_PAUSE_S)

    async def close(self) -> None:
        """Close every connection; stop the embedded server if no other process uses it. Not safe to cancel."""
        await self.servers.close()
        if self._release is not None:
            await self._release()


def _source(name: str) -> bytes:
    return (resources.files("gateway.streams.scripts") / f"{name}.lua").read_bytes()


def _digest(source: bytes) -> str:
    return hashlib.sha1(source, usedforsecurity=False).hexdigest()


def milliseconds(seconds: float) -> int:
    """Return seconds as whole milliseconds, the unit of Redis."""
    return int(seconds * 1000)


async def open_store(url: str, lifetimes: Lifetimes | None = None) -> Store:
    """Connect to the store at `url` and check that it answers.

    Not safe to cancel: an embedded server may stay. Raises StoreError, which says what to do and never contains a
    password.
    """
    where = address.parse(url)
    lifetimes = lifetimes or Lifetimes()
    location = where.shown
    release: Callable[[], Awaitable[None]] | None = None
    data_folder: Path | None = None
    if where.scheme == "memory":
        # fakeredis is loaded only if it is used.
        from gateway.streams.store.memory_store import MemoryServer  # noqa: PLC0415

        return Store(MemoryServer(), lifetimes, location=location)
    if where.scheme == "embedded":
        from gateway.streams.store import embedded  # noqa: PLC0415 - fcntl does not exist on every platform

        server = await asyncio.to_thread(embedded.attach, where.path)
        where, release, data_folder = address.parse(server.url), server.detach, server.folder
    servers = _servers(where)
    store = Store(servers, lifetimes, release, location=location, data_folder=data_folder)
    try:
        await servers.check()
    except (RedisError, OSError, TypeError) as error:
        await store.close()
        # Without the cause where its text might contain the address, and with it a password.
        raise _start_error(where, error) from (None if isinstance(error, TypeError) else error)
    return store


def _start_error(where: Address, error: Exception) -> StoreError:
    options = where.options or {}
    at = where.shown
    if isinstance(error, TypeError):
        # redis-py raises it for an option that its connections do not have.
        return StoreError(f"the address {at} has unknown options: remove what follows ? in TOKENWIRE_STORE")
    if isinstance(error, AuthenticationError):
        if options.get("password"):
            return StoreError(f"the store at {at} rejects the user or the password: correct them in TOKENWIRE_STORE")
        return StoreError(f"the store at {at} requires a password: add it, TOKENWIRE_STORE=redis://:PASSWORD@HOST")
    if isinstance(error, NoPermissionError):
        return StoreError(f"the store at {at} denies its user a command: see deploy/redis for the permissions")
    if "DB index" in str(error) or "SELECT is not allowed" in str(error):
        database = options.get("db", 0)
        return StoreError(f"the store at {at} has no database {database}: use 0 to 15, or raise `databases` there")
    reason = str(error) if isinstance(error, NoPrimaryError) else type(error).__name__
    return StoreError(f"no store answers at {at} ({reason}): start it, or correct TOKENWIRE_STORE")


def _servers(where: Address) -> Servers:
    options = where.options or {}
    if where.scheme.startswith("cluster"):
        return Cluster(where.endpoints, options)
    if where.scheme.startswith("sentinel"):
        return SentinelServer(Sentinels(where.endpoints, where.service, options), options)
    return Server(aioredis.Redis.from_pool(connection_pool(options)))
