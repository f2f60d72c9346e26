"""Names of web servers, and which are allowed: origins of pages (RFC 6454), `Host` headers (RFC 9110, section 7.2)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gateway.addresses import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable


CACHE_SIZE: Final = 256
"""Values of `Host` that are not parsed again."""

MAX_HOST_CHARS: Final = 270
"""A name has at most 253 characters (RFC 1035), and a port."""


def origin_allowed(origin: str | None, allowed: tuple[str, ...], own: tuple[str, ...]) -> bool:
    """Tell whether a page of `origin` may connect: it is in `allowed`, or it is served by this gateway (`own`).

    `*` allows every page. A request without an origin is not a browser's; it passes, and its token decides.
    """
    if origin is None or "*" in allowed:
        return True
    normal = normal_origin(origin)
    return normal is not None and normal in {*allowed, *own}


def normal_origin(origin: str) -> str | None:
    """Return an origin as browsers spell it: lower case, without a default port. None for anything else.

    Apps and extensions have other schemes than http, such as `capacitor://localhost`.
    """
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if not scheme or not parts.hostname or parts.path not in ("", "/"):
        return None
    if parts.query or parts.fragment or parts.username is not None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is None or port == {"http": 80, "https": 443}.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def host_name(host: str) -> str | None:
    """Return the name or address in a `Host` header, without port and brackets. None if it is not valid."""
    # Before the cache, which would keep what a client sends.
    return None if len(host) > MAX_HOST_CHARS else _host_name(host)


@lru_cache(CACHE_SIZE)
def _host_name(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.netloc.partition("]")[2].strip(":0123456789"):
        # Text between a bracketed address and the port.
        return None
    if not parts.hostname or parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname.rstrip(".")


class Hosts:
    """The names under which clients may address this gateway.

    A page whose name an attacker's DNS server points to this gateway's address ("DNS rebinding") is of the same origin
    for its browser. Only the name in `Host` shows that it is a foreign page.
    """

    def __init__(self, names: Iterable[str] | None) -> None:
        """`names`: names and addresses besides those of loopback. None allows every name: a token decides."""
        self._names = None if names is None else {name for name in map(host_name, names) if name is not None}

    def allows(self, host: str | None, address: str | None = None) -> bool:
        """Tell whether a request may have this `Host`; None for a request of HTTP/1.0 without one.

        `address`: the address of this machine at which it arrived. A name that is an address cannot be rebound.
        """
        if self._names is None or host is None:
            return True
        name = host_name(host)
        return name is not None and (name == "localhost" or is_loopback(name) or name in self._names or name == address)
