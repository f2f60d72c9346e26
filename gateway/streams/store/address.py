"""The store's address: what TOKENWIRE_STORE says, taken apart."""

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
_PORTS: Final = {"sentinel": 26_379, "sentinels": 26_379, "cluster": 6_379, "clusters": 6_379}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the store is; `shown` is what may be told of it, without a user or password.

    `places` are those of the sentinels, or of the cluster's nodes that are asked first; `service` is the primary's name
    with the sentinels. `options` are redis-py's for a connection. A folder is in `path`.
    """

    scheme: str
    shown: str
    path: str = ""
    places: tuple[Endpoint, ...] = ()
    service: str = ""
    options: dict[str, Any] | None = None


def parse(url: str) -> Address:
    """Take an address apart; raises StoreError with what to do, and without quoting it, for it may hold a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        # Its text would quote the address.
        raise StoreError("the store's address can not be read: see TOKENWIRE_STORE") from None
    scheme = parts.scheme
    if scheme not in SCHEMES:
        known = " ".join(f"{name}://" for name in SCHEMES)
        what = f"the store {scheme}:// is" if scheme else "the store's address has no scheme, or one that is"
        raise StoreError(f"{what} not known: set TOKENWIRE_STORE to one of {known}")
    if scheme in ("memory", "embedded"):
        return Address(scheme, url, path=url.partition(":")[2].removeprefix("//"))
    try:
        if scheme in _PORTS:
            return _of_several(parts)
        shown = f"{scheme}://{parts.hostname or parts.path}{f':{parts.port}' if parts.port else ''}"
        return Address(scheme, shown, options=dict(parse_url(url)))
    except ValueError:
        # As above: a password that holds a slash is read as a port.
        raise StoreError(
            f"the address of the store {scheme}:// can not be read: "
            "write special characters of a password as %XX, and the port and the database as numbers"
        ) from None


def _of_several(parts: SplitResult) -> Address:
    scheme = parts.scheme
    user, at, hosts = parts.netloc.rpartition("@")
    places = tuple(_place(host, _PORTS[scheme]) for host in hosts.split(","))
    service, _, database = parts.path.removeprefix("/").partition("/")
    if scheme.startswith("cluster"):
        if service not in ("", "0"):
            raise StoreError("a cluster has no databases: leave away what follows the hosts of cluster://")
        service = ""
    elif not service:
        raise StoreError("which service of the sentinels? TOKENWIRE_STORE=sentinel://HOST,HOST,HOST/SERVICE")
    secure = "s" if scheme.endswith("s") else ""
    options = parse_url(f"redis{secure}://{user}{at}localhost/{int(database or 0)}?{parts.query}")
    shown = f"{scheme}://{','.join(map(str, places))}{f'/{unquote(service)}' if service else ''}"
    return Address(scheme, shown, places=places, service=unquote(service), options=dict(options))


def _place(host: str, port: int) -> Endpoint:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("no host")
    return Endpoint(parts.hostname, parts.port or port)
