"""The address of the store: parsing of TOKENWIRE_STORE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import parse_url

from gateway.streams.store.errors import StoreError
from gateway.streams.store.topology import Endpoint

if TYPE_CHECKING:
    from urllib.parse import SplitResult

SCHEMES: Final = (
    "memory",
    "embedded",
    "redis",
    "rediss",
    "unix",
    "sentinel",
    "sentinels",
    "cluster",
    "clusters",
)
_DEFAULT_PORTS: Final = {"sentinel": 26_379, "sentinels": 26_379, "cluster": 6_379, "clusters": 6_379}


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a store. `shown` is safe to print: it has no user and no password.

    `endpoints` are the sentinels, or the cluster nodes to contact first. `service` is the name of the primary at the
    sentinels. `options` are redis-py's options of a connection. `path` is the folder of `embedded://`.
    """

    scheme: str
    shown: str
    path: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    service: str = ""
    options: dict[str, Any] | None = None


def parse(url: str) -> Address:
    """Parse an address. Raises StoreError, which never quotes the address: it may contain a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        # The text of the exception would quote the address.
        raise StoreError(
            "TOKENWIRE_STORE is not a valid address: write SCHEME://HOST:PORT, an IPv6 host in [brackets]"
        ) from None
    scheme = parts.scheme
    if scheme not in SCHEMES:
        known = " ".join(f"{name}://" for name in SCHEMES)
        problem = f"the scheme {scheme}:// is unknown" if scheme else "the address has no valid scheme"
        raise StoreError(f"{problem}: set TOKENWIRE_STORE to one of {known}")
    if scheme in ("memory", "embedded"):
        return Address(scheme, url, path=url.partition(":")[2].removeprefix("//"))
    try:
        if scheme in _DEFAULT_PORTS:
            return _with_endpoints(parts)
        shown = f"{scheme}://{parts.hostname or parts.path}{f':{parts.port}' if parts.port else ''}"
        return Address(scheme, shown, options=dict(parse_url(url)))
    except ValueError:
        # As above: a password with a slash is parsed as a port.
        raise StoreError(
            f"the {scheme}:// address in TOKENWIRE_STORE is not valid: "
            "write special characters of a password as %XX, and the port and the database as numbers"
        ) from None


def _with_endpoints(parts: SplitResult) -> Address:
    scheme = parts.scheme
    user, at, hosts = parts.netloc.rpartition("@")
    endpoints = tuple(_endpoint(host, _DEFAULT_PORTS[scheme]) for host in hosts.split(","))
    service, _, database = parts.path.removeprefix("/").partition("/")
    if scheme.startswith("cluster"):
        if service not in ("", "0"):
            raise StoreError(f"a cluster has no databases: remove /{service} from the end of TOKENWIRE_STORE")
        service = ""
    elif not service:
        raise StoreError("the service of the sentinels is missing: TOKENWIRE_STORE=sentinel://HOST,HOST,HOST/SERVICE")
    secure = "s" if scheme.endswith("s") else ""
    options = parse_url(f"redis{secure}://{user}{at}localhost/{int(database or 0)}?{parts.query}")
    shown = f"{scheme}://{','.join(map(str, endpoints))}{f'/{unquote(service)}' if service else ''}"
    return Address(scheme, shown, endpoints=endpoints, service=unquote(service), options=dict(options))


def _endpoint(host: str, default_port: int) -> Endpoint:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("no host")
    return Endpoint(parts.hostname, parts.port or default_port)
