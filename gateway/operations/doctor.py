"""Check the store, this machine and the keys, and report what an operator should change."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from gateway.operations import proxy_probe
from gateway.operations.finding import Finding
from gateway.streams import log_entries
from gateway.streams.credentials import key_of, proxy_problem
from gateway.streams.store import address
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import Store, open_store
from gateway.streams.targets import REMOTE

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.settings import GatewaySettings
    from gateway.streams.targets import Target

MIN_VERSIONS: Final = {"redis": (6, 2), "valkey": (7, 2)}
SLOW_ROUND_TRIP_S: Final = 0.005
"""From this round trip on, users notice that first tokens are late."""

CONNECT_WITHIN_S: Final = 2.0
MIN_FILES: Final = 16_384
PROBE_KEY: Final = "tw:{p00}:doctor"


async def examine(settings: GatewaySettings, url: str | None = None, token: str | None = None) -> list[Finding]:
    """Return the findings for everything that these settings use, and for the gateway at `url`.

    `token` opens a conversation there; see `proxy_probe.examine`. Safe to cancel.
    """
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
        text = "memory:// keeps nothing over a restart; embedded:// does, and redis:// serves several machines"
        return [Finding("WARN", "persistence", text), *found]
    found = await _nodes(settings.store)
    servers = store.servers.clients
    for client in servers:
        of = f" of {_name(client)}" if len(servers) > 1 else ""
        found += await _server(client, of)
    if any(finding.subject == "role" for finding in found):
        # The other checks would describe the wrong server.
        return found
    return [*found, await _latency(store), *await _scripts(store)]


async def _nodes(url: str) -> list[Finding]:
    """Return a finding for each configured node that does not answer."""
    found = []
    for node in address.parse(url).endpoints:
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                _, writer = await asyncio.open_connection(node.host, node.port)
            writer.close()
        except (TimeoutError, OSError) as error:
            text = f"{node} does not answer ({type(error).__name__}): start it, or remove it from TOKENWIRE_STORE"
            found.append(Finding("WARN", "node", text))
    return found


def _name(client: Redis) -> str:
    where = client.connection_pool.connection_kwargs
    return f"{where.get('host')}:{where.get('port')}"


async def _server(client: Redis, of: str) -> list[Finding]:
    """Return the findings for one server; `of` names it where there are several."""
    try:
        information: dict[str, Any] = await client.info()
    except RedisError as error:
        return [Finding("WARN", f"version{of}", f"INFO is not permitted ({type(error).__name__})")]
    if information.get("role") not in (None, "master"):
        return [Finding("FAIL", "role", "this server is a replica and takes no writes: use the primary's address")]
    found = [await _clock(client, of), _version(information, of), _persistence(information, of)]
    policy = str(information.get("maxmemory_policy", "noeviction"))
    if int(information.get("maxmemory", 0)) and policy != "noeviction":
        text = f"{policy} evicts open responses when memory is short: set maxmemory-policy noeviction"
        found.append(Finding("FAIL", f"eviction{of}", text))
    else:
        found.append(Finding("ok", f"eviction{of}", f"nothing is evicted ({policy})"))
    return found


def _version(information: dict[str, Any], of: str) -> Finding:
    server = "valkey" if "valkey_version" in information else "redis"
    version = str(information.get(f"{server}_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    minimum = MIN_VERSIONS[server]
    if numbers < minimum:
        return Finding("FAIL", f"version{of}", f"{server} {version} is too old: use {minimum[0]}.{minimum[1]} or newer")
    return Finding("ok", f"version{of}", f"{server} {version}")


def _persistence(information: dict[str, Any], of: str) -> Finding:
    if int(information.get("aof_enabled", 0)):
        return Finding("ok", f"persistence{of}", "append-only file")
    return Finding("WARN", f"persistence{of}", "no append-only file: a crash loses the last writes; set appendonly yes")


async def _clock(client: Redis, of: str) -> Finding:
    begun = time.time()
    seconds, microseconds = await client.time()
    took = time.time() - begun
    return proxy_probe.clock_finding(f"store's clock{of}", seconds + microseconds / 1e6 - begun - took / 2, took)


async def _latency(store: Store) -> Finding:
    trips = []
    for _ in range(20):
        begun = time.perf_counter()
        await store.client.ping()
        trips.append(time.perf_counter() - begun)
    median = sorted(trips)[len(trips) // 2]
    text = f"{median * 1000:.2f} ms a round trip"
    if median > SLOW_ROUND_TRIP_S:
        return Finding("WARN", "latency", f"{text}: move the store closer to gateways and workers")
    return Finding("ok", "latency", text)


async def _scripts(store: Store) -> list[Finding]:
    """Run a real append and a real subscription on a key of the doctor."""
    found = []
    client = store.client
    try:
        await client.delete(PROBE_KEY)
        await client.xadd(PROBE_KEY, {log_entries.FIELD: b"Q{}"}, id="1-1")
        reply = await store.call(
            "append",
            [PROBE_KEY],
            "1-1",
            "1-2",
            PROBE_KEY,
            "head",
            "doctor",
            log_entries.TEXT + b"doctor",
            timeout_s=1.0,
        )
        entries: Any = await client.xrange(PROBE_KEY)
        if reply == b"ok" and [entry for entry, _ in entries] == [b"1-1", b"1-2"]:
            found.append(Finding("ok", "scripts", "scripts and streams work"))
        else:
            found.append(Finding("FAIL", "scripts", "a script returned a wrong result: is this a real Redis?"))
    except (StoreError, RedisError) as error:
        found.append(Finding("FAIL", "scripts", f"scripts or streams are not permitted ({error})"))
    finally:
        try:
            await client.delete(PROBE_KEY)
        except RedisError:
            # The key holds a few bytes; the next run deletes it.
            pass
    publish = store.servers.publish
    subscribe = publish.replace("PUBLISH", "SUBSCRIBE")
    received: asyncio.Queue[bytes] = asyncio.Queue()
    acknowledged = asyncio.Event()
    try:
        async with asyncio.timeout(2.0):
            subscription = await store.subscribe(
                lambda _, data: received.put_nowait(data), lambda _: acknowledged.set()
            )
            try:
                subscription.subscribe(PROBE_KEY.encode())
                await acknowledged.wait()
                await store.publish(PROBE_KEY, b"doctor")
                found.append(Finding("ok", "publish", f"arrives ({len(await received.get())} bytes)"))
            finally:
                await subscription.close()
    except (TimeoutError, RedisError, OSError):
        found.append(
            Finding("FAIL", "publish", f"a subscription received nothing: permit {subscribe} and {publish} on tw:*")
        )
    return found


def _files(settings: GatewaySettings) -> Finding:
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return Finding("WARN", "files", "this system does not report its limit of open files")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if settings.sockets is not None and 0 <= soft < settings.sockets:
        text = (
            f"{soft} open files are fewer than TOKENWIRE_SOCKETS={settings.sockets}: ulimit -n {2 * settings.sockets}"
        )
        return Finding("FAIL", "files", text)
    if 0 <= soft < MIN_FILES:
        return Finding("WARN", "files", f"{soft} open files allow about {soft - 100} clients: ulimit -n 65536")
    return Finding("ok", "files", f"{soft} open files")


def _keys(settings: GatewaySettings) -> list[Finding]:
    """Check the keys of all targets, and the proxy variables, without a call."""
    found = []
    remote = False
    for alias, targets in sorted(settings.model_targets().items()):
        problem = next(filter(None, map(_key_problem, targets)), None)
        remote = remote or any(target.provider in REMOTE for target in targets)
        text = ", ".join(target.name for target in targets)
        found.append(Finding("ok" if problem is None else "FAIL", f"model {alias}", problem or text))
    if remote and (problem := proxy_problem()) is not None:
        found.append(Finding("FAIL", "proxy", problem))
    return found


def _key_problem(target: Target) -> str | None:
    if target.provider not in REMOTE:
        return None
    prefix = target.provider.upper()
    try:
        if target.key is not None:
            key_of(target.key)
        elif target.base_url is None and not any(
            os.environ.get(f"{prefix}_{name}") for name in ("API_KEY", "BASE_URL")
        ):
            return f"{target.name} needs {prefix}_API_KEY, which is not set for a worker"
    except ValueError as error:
        return f"{target.name}: {error}"
    return None


def _access(settings: GatewaySettings) -> Finding:
    if settings.key is not None:
        return Finding("ok", "access", "tokens are required")
    if settings.loopback:
        return Finding("ok", "access", f"every program on this machine ({settings.host})")
    return Finding("WARN", "access", f"every client that can reach {settings.host}: set TOKENWIRE_JWT_KEY")
