"""Looks at the store, this machine and the keys, and says what an operator should do."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from gateway.operations import proxy_probe
from gateway.operations.finding import Finding
from gateway.streams import log_entries
from gateway.streams.store import address
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import Store, open_store

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.settings import GatewaySettings

OLDEST: Final = {"redis": (6, 2), "valkey": (7, 2)}
SLOW: Final = 0.005
"""Seconds of a round trip from which on first tokens are noticeably late."""

REACHED_WITHIN: Final = 2.0
FEW_FILES: Final = 16_384
PROBE: Final = "tw:{p00}:doctor"


async def examine(settings: GatewaySettings, url: str | None = None, token: str | None = None) -> list[Finding]:
    """Look at everything that these settings use, and at the gateway at `url`; see `proxy_probe.examine`."""
    found: list[Finding] = []
    try:
        store = await open_store(settings.store, settings.lifetimes)
    except (StoreError, ValueError) as error:
        found.append(Finding("FAIL", "store", str(error)))
    else:
        try:
            found += await _store(store, settings)
        finally:
            await store.close()
    found.append(_files(settings))
    found += _keys(settings)
    found.append(_access(settings))
    if url is not None:
        found += await proxy_probe.examine(url, settings, token)
    return found


async def _store(store: Store, settings: GatewaySettings) -> list[Finding]:
    if settings.store.startswith("memory:"):
        found = [await _latency(store), *await _scripts(store)]
        text = "in this process: nothing is kept over a restart; embedded:// keeps it, redis:// serves several machines"
        return [Finding("WARN", "persistence", text), *found]
    found = await _places(settings.store)
    servers = store.servers.clients
    for client in servers:
        of = f" of {_name(client)}" if len(servers) > 1 else ""
        found += await _server(client, of)
    if any(finding.subject == "role" for finding in found):
        # Whatever else there were to say would be of another server in the end.
        return found
    return [*found, await _latency(store), *await _scripts(store)]


async def _places(url: str) -> list[Finding]:
    """Those of several nodes that do not answer."""
    found = []
    for place in address.parse(url).places:
        try:
            async with asyncio.timeout(REACHED_WITHIN):
                _, writer = await asyncio.open_connection(place.host, place.port)
            writer.close()
        except (TimeoutError, OSError) as error:
            text = f"{place} does not answer ({type(error).__name__}): start it, or take it out of TOKENWIRE_STORE"
            found.append(Finding("WARN", "node", text))
    return found


def _name(client: Redis) -> str:
    where = client.connection_pool.connection_kwargs
    return f"{where.get('host')}:{where.get('port')}"


async def _server(client: Redis, of: str) -> list[Finding]:
    """What one server is and how it is set up; `of` is which one, where there are several."""
    try:
        information: dict[str, Any] = await client.info()
    except RedisError as error:
        return [Finding("WARN", f"version{of}", f"INFO is not permitted ({type(error).__name__})")]
    if information.get("role") not in (None, "master"):
        return [Finding("FAIL", "role", "this server is a replica and takes no writes: use the primary's address")]
    found = [await _clock(client, of), _version(information, of), _persistence(information, of)]
    policy = str(information.get("maxmemory_policy", "noeviction"))
    if int(information.get("maxmemory", 0)) and policy != "noeviction":
        text = f"{policy} deletes running answers when memory is short: set maxmemory-policy noeviction"
        found.append(Finding("FAIL", f"eviction{of}", text))
    else:
        found.append(Finding("ok", f"eviction{of}", f"nothing is evicted ({policy})"))
    return found


def _version(information: dict[str, Any], of: str) -> Finding:
    server = "valkey" if "valkey_version" in information else "redis"
    version = str(information.get(f"{server}_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest = OLDEST[server]
    if numbers < oldest:
        return Finding("FAIL", f"version{of}", f"{server} {version} is too old: use {oldest[0]}.{oldest[1]} or newer")
    return Finding("ok", f"version{of}", f"{server} {version}")


def _persistence(information: dict[str, Any], of: str) -> Finding:
    if int(information.get("aof_enabled", 0)):
        return Finding("ok", f"persistence{of}", "append-only file")
    return Finding("WARN", f"persistence{of}", "no append-only file: a crash loses what came last; set appendonly yes")


async def _clock(client: Redis, of: str) -> Finding:
    begun = time.time()
    seconds, microseconds = await client.time()
    took = time.time() - begun
    return proxy_probe.apart(f"store's clock{of}", seconds + microseconds / 1e6 - begun - took / 2, took)


async def _latency(store: Store) -> Finding:
    trips = []
    for _ in range(20):
        begun = time.perf_counter()
        await store.client.ping()
        trips.append(time.perf_counter() - begun)
    median = sorted(trips)[len(trips) // 2]
    text = f"{median * 1000:.2f} ms a round trip"
    if median > SLOW:
        return Finding("WARN", "latency", f"{text}: put the store nearer to gateways and workers")
    return Finding("ok", "latency", text)


async def _scripts(store: Store) -> list[Finding]:
    """Run an append and a subscription for real, on a key of our own."""
    found = []
    client = store.client
    try:
        await client.delete(PROBE)
        await client.xadd(PROBE, {log_entries.FIELD: b"Q{}"}, id="1-1")
        reply = await store.call(
            "append", [PROBE], "1-1", "1-2", PROBE, "head", "doctor", log_entries.TEXT + b"doctor", timeout_s=1.0
        )
        entries: Any = await client.xrange(PROBE)
        if reply == b"ok" and [entry for entry, _ in entries] == [b"1-1", b"1-2"]:
            found.append(Finding("ok", "scripts", "scripts and streams work"))
        else:
            found.append(Finding("FAIL", "scripts", "a script did not do what it should: is this a real Redis?"))
    except (StoreError, RedisError) as error:
        found.append(Finding("FAIL", "scripts", f"scripts or streams are not permitted ({error})"))
    finally:
        try:
            await client.delete(PROBE)
        except RedisError:
            # It expires with the store's own clean-up, and is a few bytes.
            pass
    publish = store.servers.publish
    listens = publish.replace("PUBLISH", "SUBSCRIBE")
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    acknowledged = asyncio.Event()
    try:
        async with asyncio.timeout(2.0):
            subscription = await store.subscribe(lambda _, data: heard.put_nowait(data), lambda _: acknowledged.set())
            try:
                subscription.subscribe(PROBE.encode())
                await acknowledged.wait()
                await store.publish(PROBE, b"doctor")
                found.append(Finding("ok", "publish", f"arrives ({len(await heard.get())} bytes)"))
            finally:
                await subscription.close()
    except (TimeoutError, RedisError, OSError):
        found.append(
            Finding("FAIL", "publish", f"a subscription heard nothing: permit {listens} and {publish} on tw:*")
        )
    return found


def _files(settings: GatewaySettings) -> Finding:
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return Finding("WARN", "files", "the limit of open files is not known on this system")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if settings.sockets is not None and 0 <= soft < settings.sockets:
        text = (
            f"{soft} open files are fewer than TOKENWIRE_SOCKETS={settings.sockets}: ulimit -n {2 * settings.sockets}"
        )
        return Finding("FAIL", "files", text)
    if 0 <= soft < FEW_FILES:
        return Finding("WARN", "files", f"{soft} open files allow about {soft - 100} clients: ulimit -n 65536")
    return Finding("ok", "files", f"{soft} open files")


def _keys(settings: GatewaySettings) -> list[Finding]:
    found = []
    needed = {"openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL"), "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")}
    for alias, target in sorted(settings.targets().items()):
        names = needed.get(target.partition("/")[0], ())
        if names and not any(os.environ.get(name) for name in names):
            found.append(Finding("FAIL", f"model {alias}", f"{target} needs {names[0]}, which a worker does not find"))
        else:
            found.append(Finding("ok", f"model {alias}", target))
    return found


def _access(settings: GatewaySettings) -> Finding:
    if settings.key is not None:
        return Finding("ok", "access", "tokens are required")
    if settings.loopback:
        return Finding("ok", "access", f"everybody on this machine ({settings.host})")
    return Finding("WARN", "access", f"everybody who can reach {settings.host}: set TOKENWIRE_JWT_KEY")
