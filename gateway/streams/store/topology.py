"""Which of several servers has the data: what sentinels and cluster nodes say of it, and where a channel is heard."""

from __future__ import annotations

from binascii import crc_hqx
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_WITHOUT_KEY: Final = frozenset({"ECHO", "FLUSHALL", "INFO", "PING", "SCRIPT"})
"""Of those commands that are sent one by one."""

SLOTS: Final = 16_384
"""Of every Redis Cluster (Redis Cluster specification, "Key distribution model")."""


class Endpoint(NamedTuple):
    """A server's address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def slot_of(key: str | bytes) -> int:
    """The slot of a key or channel: that of what stands between its first braces, if anything does."""
    name = key.encode() if isinstance(key, str) else key
    _, opened, rest = name.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    # CRC-16/XMODEM, in Python's library by its older name.
    return crc_hqx(tag if opened and closed and tag else name, 0) % SLOTS


def key_of(words: Sequence[Any]) -> str | bytes | None:
    """The key that a command concerns, of those commands that are sent one by one; None where it has none."""
    name = str(words[0]).upper()
    if name in _WITHOUT_KEY:
        return None
    if name in ("EVAL", "EVALSHA"):
        place = 3 if int(words[2]) else 0
    elif name == "XREADGROUP":
        place = [str(word).upper() for word in words].index("STREAMS") + 1
    else:
        place = 2 if name in ("XGROUP", "XINFO") else 1
    key: str | bytes | None = words[place] if place else None
    return key


def endpoint_of(text: str, asked: Endpoint) -> Endpoint:
    """The place that a redirection names as `host:port`; without a host it is on the host that was `asked`."""
    host, _, port = text.rpartition(":")
    return Endpoint(host.strip("[]") or asked.host, int(port))


class Claim(NamedTuple):
    """What one sentinel says: the primary's place, and the number of the vote that made it the primary."""

    epoch: int
    place: Endpoint


def newest(claims: Sequence[Claim]) -> Endpoint | None:
    """The primary by the latest vote that any of the sentinels knows of; None where none knows any."""
    return max(claims).place if claims else None


class SlotMap:
    """Which place has which slot, as far as is known."""

    def __init__(self) -> None:
        self._owners: list[Endpoint | None] = [None] * SLOTS
        self._learnt: tuple[Any, Endpoint] | None = None
        self.owners: set[Endpoint] = set()
        """All who have a slot."""
        self.known: frozenset[Endpoint] = frozenset()
        """Every node that the cluster last spoke of, replicas too."""

    def owner(self, slot: int) -> Endpoint | None:
        """Who has a slot; None where nobody does."""
        return self._owners[slot]

    def moved(self, slot: int, place: Endpoint) -> None:
        """A node has said where a slot is now."""
        self._owners[slot] = place
        self.owners.add(place)
        self._learnt = None

    def learn(self, reply: Any, asked: Endpoint) -> set[Endpoint]:
        """Take what `asked` replied to CLUSTER SLOTS; return those who had slots and have none any more."""
        if (reply, asked) == self._learnt:
            return set()
        before = self.owners
        owners: list[Endpoint | None] = [None] * SLOTS
        known = set()
        for first, last, *nodes in reply:
            places = [_node(node, asked) for node in nodes]
            known.update(places)
            if places:
                owners[first : last + 1] = [places[0]] * (last + 1 - first)
        self._owners, self._learnt = owners, (reply, asked)
        self.owners = {place for place in owners if place is not None}
        self.known = frozenset(known)
        return before - self.owners


def _node(node: Sequence[Any], asked: Endpoint) -> Endpoint:
    host = node[0].decode() if isinstance(node[0], bytes) else node[0]
    # No name, or an unknown one: the host that was asked (CLUSTER SLOTS, "Return value").
    return Endpoint(host if host and host != "?" else asked.host, int(node[1]))


class Placement:
    """Which channels are wanted, and at which place each was last asked for."""

    def __init__(self) -> None:
        self._at: dict[bytes, Endpoint | None] = {}

    def want(self, channels: Iterable[bytes]) -> None:
        """Ask for channels, whether or not they were asked for before."""
        self._at.update(dict.fromkeys(channels))

    def drop(self, channel: bytes) -> Endpoint | None:
        """Want a channel no longer; return the place where it was asked for."""
        return self._at.pop(channel, None)

    def lost(self, place: Endpoint, channel: bytes | None = None) -> None:
        """What was asked for at a place is not heard from there any more: one channel, or all of them."""
        for each in list(self._at) if channel is None else [channel]:
            if self._at.get(each) == place:
                self._at[each] = None

    def due(self, owner: Callable[[int], Endpoint | None]) -> dict[Endpoint, list[list[bytes]]]:
        """Where to ask for what: the channels that were asked for nowhere, or elsewhere than at their slot's owner.

        By place and slot, because one command may name the channels of one slot only.
        """
        found: dict[Endpoint, dict[int, list[bytes]]] = {}
        for channel, at in self._at.items():
            slot = slot_of(channel)
            place = owner(slot)
            if place is not None and place != at:
                found.setdefault(place, {}).setdefault(slot, []).append(channel)
        return {place: list(slots.values()) for place, slots in found.items()}

    def asked(self, place: Endpoint, channels: Iterable[bytes]) -> None:
        """Channels are being asked for at a place."""
        for channel in channels:
            if channel in self._at:
                self._at[channel] = place
