"""Topology: which server is the primary, which node owns a slot, and where a channel is subscribed."""

from __future__ import annotations

from binascii import crc_hqx
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_WITHOUT_KEY: Final = frozenset({"ECHO", "FLUSHALL", "INFO", "PING", "SCRIPT"})
"""Of the commands that are sent one by one."""

SLOTS: Final = 16_384
"""Slots of every Redis Cluster (Redis Cluster specification, "Key distribution model")."""


class Endpoint(NamedTuple):
    """The address of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key or channel: that of its hash tag between the first braces, if it has one."""
    name = key.encode() if isinstance(key, str) else key
    _, opened, rest = name.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    # crc_hqx is CRC-16/XMODEM, as the specification requires.
    return crc_hqx(tag if opened and closed and tag else name, 0) % SLOTS


def key_of(words: Sequence[Any]) -> str | bytes | None:
    """Return the first key of a command that is sent one by one; None for a command without a key."""
    name = str(words[0]).upper()
    if name in _WITHOUT_KEY:
        return None
    if name in ("EVAL", "EVALSHA"):
        index = 3 if int(words[2]) else 0
    elif name == "XREADGROUP":
        index = [str(word).upper() for word in words].index("STREAMS") + 1
    else:
        index = 2 if name in ("XGROUP", "XINFO") else 1
    key: str | bytes | None = words[index] if index else None
    return key


def endpoint_of(text: str, asked: Endpoint) -> Endpoint:
    """Return the endpoint of a redirection `host:port`; an empty host is that of `asked`, which sent it."""
    host, _, port = text.rpartition(":")
    return Endpoint(host.strip("[]") or asked.host, int(port))


class PrimaryReport(NamedTuple):
    """The primary according to one sentinel, and the epoch of the election that promoted it."""

    epoch: int
    endpoint: Endpoint


def latest_primary(reports: Sequence[PrimaryReport]) -> Endpoint | None:
    """Return the primary of the latest election that any sentinel reports; None without a report."""
    return max(reports).endpoint if reports else None


class SlotMap:
    """The owner of each slot, as last reported."""

    def __init__(self) -> None:
        self._owners: list[Endpoint | None] = [None] * SLOTS
        self._last_update: tuple[Any, Endpoint] | None = None
        self.owners: set[Endpoint] = set()
        """All nodes that own a slot."""
        self.nodes: frozenset[Endpoint] = frozenset()
        """All nodes of the last report, including replicas."""

    def owner(self, slot: int) -> Endpoint | None:
        """Return the owner of a slot; None if it is unknown."""
        return self._owners[slot]

    def set_owner(self, slot: int, endpoint: Endpoint) -> None:
        """Record the owner that a redirection named."""
        self._owners[slot] = endpoint
        self.owners.add(endpoint)
        self._last_update = None

    def update(self, reply: Any, asked: Endpoint) -> set[Endpoint]:
        """Apply the reply of `asked` to CLUSTER SLOTS; return the nodes that no longer own a slot."""
        if (reply, asked) == self._last_update:
            return set()
        before = self.owners
        owners: list[Endpoint | None] = [None] * SLOTS
        nodes = set()
        for first, last, *described in reply:
            endpoints = [_node(node, asked) for node in described]
            nodes.update(endpoints)
            if endpoints:
                owners[first : last + 1] = [endpoints[0]] * (last + 1 - first)
        self._owners, self._last_update = owners, (reply, asked)
        self.owners = {endpoint for endpoint in owners if endpoint is not None}
        self.nodes = frozenset(nodes)
        return before - self.owners


def _node(node: Sequence[Any], asked: Endpoint) -> Endpoint:
    host = node[0].decode() if isinstance(node[0], bytes) else node[0]
    # An empty or unknown host is that of the node that replied (CLUSTER SLOTS, "Return value").
    return Endpoint(host if host and host != "?" else asked.host, int(node[1]))


class ChannelPlacement:
    """The wanted channels, and the node where each was last subscribed."""

    def __init__(self) -> None:
        self._subscribed_at: dict[bytes, Endpoint | None] = {}

    def add(self, channels: Iterable[bytes]) -> None:
        """Subscribe to channels, again if they are subscribed already."""
        self._subscribed_at.update(dict.fromkeys(channels))

    def remove(self, channel: bytes) -> Endpoint | None:
        """Remove a channel; return the node where it is subscribed."""
        return self._subscribed_at.pop(channel, None)

    def invalidate(self, endpoint: Endpoint, channel: bytes | None = None) -> None:
        """Record that a node no longer serves one channel, or all channels."""
        for each in list(self._subscribed_at) if channel is None else [channel]:
            if self._subscribed_at.get(each) == endpoint:
                self._subscribed_at[each] = None

    def pending(self, owner: Callable[[int], Endpoint | None]) -> dict[Endpoint, list[list[bytes]]]:
        """Return the channels that are not subscribed at the owner of their slot, by owner.

        Each inner list is one slot: a command may only name channels of one slot.
        """
        found: dict[Endpoint, dict[int, list[bytes]]] = {}
        for channel, at in self._subscribed_at.items():
            slot = slot_of(channel)
            endpoint = owner(slot)
            if endpoint is not None and endpoint != at:
                found.setdefault(endpoint, {}).setdefault(slot, []).append(channel)
        return {endpoint: list(slots.values()) for endpoint, slots in found.items()}

    def mark_subscribed(self, endpoint: Endpoint, channels: Iterable[bytes]) -> None:
        """Record that channels are being subscribed at a node."""
        for channel in channels:
            if channel in self._subscribed_at:
                self._subscribed_at[channel] = endpoint
