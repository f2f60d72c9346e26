"""Addresses of clients: what counts as one client, which are proxies, and for whom a proxy forwards.

A core module.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV6_PREFIX_BITS: Final = 64
"""One customer of a provider has at least this network (RFC 6177), and can use each of its addresses."""

CACHE_SIZE: Final = 1024
"""Addresses that are not parsed again: accepting a socket asks for one seven times."""

MAX_ADDRESS_CHARS: Final = 64
"""Longer text is no address: the longest is 45 characters, plus brackets, zone and port."""


MAX_FORWARDED: Final = 32
"""Addresses of one `X-Forwarded-For` that are looked at, from the right: more than any chain of proxies has."""


def parse(text: str) -> IpAddress | None:
    """Return an address; None for anything else. An IPv4 address that is mapped to IPv6 is the IPv4 address."""
    # Before the cache, which would keep what a client sends.
    return None if len(text) > MAX_ADDRESS_CHARS else _parse(text)


@lru_cache(CACHE_SIZE)
def _parse(text: str) -> IpAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def counted_as(text: str) -> str:
    """Return the name under which the connections of an address are counted: IPv6 by /64, "" for no address."""
    address = parse(text)
    return "" if address is None else _network(address)


@lru_cache(CACHE_SIZE)
def _network(address: IpAddress) -> str:
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.IPv6Network((int(address), IPV6_PREFIX_BITS), strict=False))
    return str(address)


def is_loopback(text: str) -> bool:
    """Tell whether an address is one of this machine's loopback addresses."""
    address = parse(text)
    return address is not None and address.is_loopback


class Proxies:
    """The reverse proxies whose `X-Forwarded-For` is believed."""

    def __init__(self, setting: str) -> None:
        """`setting`: addresses and networks, separated by commas; `*`: each client's own address is a proxy's.

        Each item must be valid; see `GatewaySettings.proxies`.
        """
        items = [item.strip() for item in setting.split(",") if item.strip()]
        self.every_peer = "*" in items
        self._networks = [_unmapped(ipaddress.ip_network(item)) for item in items if item != "*"]

    def trusts(self, peer: str) -> bool:
        """Tell whether a connection comes from a proxy. Its own address is then not one of a client."""
        return self.every_peer or self._lists(parse(peer))

    def _lists(self, address: IpAddress | None) -> bool:
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return the address of the client of a request: `peer` itself if that is no proxy.

        `forwarded`: the values of `X-Forwarded-For`. A proxy adds the address of its own peer on the right, and a
        client can write anything on the left. So the right-most address that is not a listed proxy's is the client.
        Text that is no address ends the search: what is left of it cannot be believed.
        """
        if not self.trusts(peer):
            return peer
        client = peer
        for item in reversed(
            [item.strip() for value in forwarded for item in value.rsplit(",", MAX_FORWARDED)[-MAX_FORWARDED:]]
        ):
            address = parse(_without_port(item))
            if address is None:
                break
            client = str(address)
            if not self._lists(address):
                break
        return client


def _unmapped(network: IpNetwork) -> IpNetwork:
    """Return the IPv4 network that an IPv6 network maps (RFC 4291, section 2.5.5.2), or the network itself."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    return network if mapped is None else ipaddress.IPv4Network((int(mapped), network.prefixlen - 96))


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, colon, _ = text.partition(":")
    return host if colon and text.count(":") == 1 else text
