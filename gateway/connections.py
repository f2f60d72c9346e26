"""The TCP connections of one process: limits in total and per address, and which connection makes room for another.

A connection beyond a limit is not refused at once, because a client needs a retry time and a load balancer its answer:
it gets one of a few reserved places, for one short request. A silent connection, one without a complete request, gives
its place to a newer one.

A core module: it reads no clock; times are arguments, in seconds of any steady clock.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Final, Generic, TypeVar

from gateway.addresses import counted_as, is_loopback

Connection = TypeVar("Connection")

MAX_PER_ADDRESS: Final = 256
"""Default connection limit of one address."""

MAX_RESERVED: Final = 32
"""Connections beyond a limit that are open at once: for probes, and to tell clients when to retry."""

MIN_SILENT_S: Final = 1.0
"""A connection that has been silent for a shorter time keeps its place: its request may be on the way."""


class Limit(Enum):
    """A limit that a connection is beyond."""

    TOTAL = "total"
    ADDRESS = "address"


def address_limit(address: str, max_per_address: int | None) -> float:
    """Return the connection limit of one address. `max_per_address`: None for the default.

    By default the clients of a loopback address are not limited: a proxy on this machine has it for all its clients.
    """
    if max_per_address is not None:
        return max_per_address
    return float("inf") if is_loopback(address) else MAX_PER_ADDRESS


class Connections(Generic[Connection]):
    """The open connections of one process."""

    def __init__(self, max_connections: int, max_per_address: int | None = None) -> None:
        """`max_per_address`: None for the default; see `address_limit`."""
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._addresses: Counter[str] = Counter()
        self._counted: dict[Connection, str | None] = {}
        """Each connection within the limits, to the name under which its address is counted."""
        self._reserved: dict[Connection, Limit] = {}
        """Each connection beyond a limit, to the limit."""
        self._silent: dict[Connection, float] = {}
        """Each counted connection that is silent, to when it became so; the oldest first."""
        self._silent_reserved: dict[Connection, None] = {}

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._counted) + len(self._reserved)

    def open(self, connection: Connection, address: str | None, now: float) -> Connection | None:
        """Count a new, silent connection; return the one to abort for it, which may be `connection` itself.

        `address`: None for a proxy's, whose connections are those of many clients.
        """
        limit = self._limit(address)
        victim = None
        if limit is Limit.TOTAL:
            victim = next(iter(self._silent), None)
            if victim is not None and now - self._silent[victim] >= MIN_SILENT_S:
                self.close(victim)
                limit = None
            else:
                victim = None
        if limit is None:
            name = None if address is None else counted_as(address)
            self._counted[connection] = name
            if name is not None:
                self._addresses[name] += 1
            self._silent[connection] = now
            return victim
        if len(self._reserved) >= MAX_RESERVED:
            victim = next(iter(self._silent_reserved), None)
            if victim is None:
                return connection
            self.close(victim)
        self._reserved[connection] = limit
        self._silent_reserved[connection] = None
        return victim

    def busy(self, connection: Connection) -> None:
        """A complete request has arrived: the connection keeps its place until it is silent again."""
        self._silent.pop(connection, None)
        self._silent_reserved.pop(connection, None)

    def silent(self, connection: Connection, now: float) -> None:
        """All requests of a connection are answered."""
        if connection in self._counted:
            self._silent[connection] = now
        elif connection in self._reserved:
            self._silent_reserved[connection] = None

    def close(self, connection: Connection) -> None:
        """Stop counting a connection. Repeating it changes nothing."""
        self.busy(connection)
        if self._reserved.pop(connection, None) is None:
            name = self._counted.pop(connection, None)
            if name is not None:
                self._addresses[name] -= 1
                if not self._addresses[name]:
                    del self._addresses[name]

    def beyond(self, connection: Connection) -> Limit | None:
        """Return the limit that a connection is beyond, if any."""
        return self._reserved.get(connection)

    def _limit(self, address: str | None) -> Limit | None:
        if address is not None:
            name = counted_as(address)
            if self._addresses[name] >= address_limit(address, self._max_per_address):
                return Limit.ADDRESS
        return Limit.TOTAL if len(self._counted) >= self._max_connections else None
