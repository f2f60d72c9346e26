"""Who is there: each gateway and each worker says what it does, once a second; who falls silent is forgotten."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.streams import keys, records
from gateway.streams.records import Queue
from gateway.streams.store.store import Store, milliseconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.streams.records import Record

logger = logging.getLogger(__name__)

HEARTBEAT_INTERVAL_S: Final = 1.0
"""Seconds between two signs of life."""

PATIENCE: Final = 3.0
"""Seconds in which the store has to answer: what it would say later is old."""

FORGOTTEN_AFTER: Final = 5.0
STATM: Final = Path("/proc/self/statm")
"""Pages of memory, the resident ones second: proc(5)."""


class ProcessStats:
    """How a process does: its name, its age, and its share of a core since it was last asked."""

    def __init__(self, name: str | None = None) -> None:
        """`name`: a new one, if it is not given."""
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._born = self._asked_at = time.monotonic()
        self._computed = time.process_time()
        self.cpu = 0.0
        self.elapsed = 0.0
        """The seconds between the last two askings."""

    def sample(self) -> None:
        """Look at the clocks."""
        now, computed = time.monotonic(), time.process_time()
        self.elapsed = max(now - self._asked_at, 1e-6)
        self.cpu = round((computed - self._computed) / self.elapsed, 3)
        self._asked_at, self._computed = now, computed

    @property
    def age(self) -> float:
        """The seconds that this process has run."""
        return round(time.monotonic() - self._born, 1)

    @property
    def memory(self) -> int:
        """The bytes of memory that it has; 0 where the system does not say."""
        try:
            return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0


async def report(store: Store, record: Record) -> None:
    """Give a sign of life; raises StoreError."""
    name = records.name_of(record)
    ttl = milliseconds(FORGOTTEN_AFTER)
    await store.call(
        "heartbeat", [keys.presence(), keys.heartbeat(name)], name, records.encode(record), ttl, timeout_s=PATIENCE
    )


async def remove(store: Store, record: Record) -> None:
    """Be forgotten at once; raises RedisError, OSError."""
    name = records.name_of(record)
    await store.client.srem(keys.presence(), name)
    await store.client.delete(keys.heartbeat(name))


async def heartbeat_loop(
    store: Store, record: Callable[[], Record], look: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Give signs of life until cancelled, and be forgotten then; nothing that goes wrong with them ends it.

    `look` is called at every other one.
    """
    turn = 0
    try:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            turn += 1
            try:
                await report(store, record())
                if look is not None and turn % 2 == 0:
                    await look()
            except Exception as error:
                # Who can not be seen works all the same.
                logger.debug("no sign of life could be given (%s)", type(error).__name__)
    finally:
        try:
            async with asyncio.timeout(PATIENCE):
                await remove(store, record())
        except Exception as error:
            # It is forgotten by itself.
            logger.debug("no leave could be taken (%s)", type(error).__name__)


async def live_processes(store: Store) -> list[Record]:
    """What everybody who is there says of himself, by name; raises StoreError, RedisError."""
    names = await _names(store)
    if not names:
        return []
    said: Sequence[bytes | None] = await store.retry(
        lambda: store.client.mget([keys.heartbeat(name) for name in names]), PATIENCE
    )
    silent = [name for name, record in zip(names, said, strict=True) if record is None]
    if silent:
        await store.client.srem(keys.presence(), *silent)
    found = [records.decode(record) for record in said if record is not None]
    return [record for record in found if record is not None]


async def counts(store: Store) -> dict[str, int]:
    """How many gateways and workers are there; raises StoreError, RedisError."""
    names = await _names(store)
    found = {"gateway": 0, "worker": 0}
    for kind in found:
        signs = [keys.heartbeat(name) for name in names if name.startswith(f"{kind}:")]
        if signs:
            found[kind] = int(await store.client.exists(*signs))
    return found


async def _names(store: Store) -> list[str]:
    reply: Any = await store.retry(lambda: store.client.smembers(keys.presence()), PATIENCE)
    return sorted(name.decode() for name in reply)


async def queue(store: Store) -> Queue:
    """The whole queue; raises StoreError."""
    parts = await asyncio.gather(
        *(
            store.call("queue", [keys.jobs(number), keys.open_responses(number)], keys.GROUP, timeout_s=PATIENCE)
            for number in range(keys.PARTITIONS)
        )
    )
    waiting, running, behind, _ = (sum(part[index] for part in parts) for index in range(4))
    return Queue(waiting, running, behind, max(part[3] for part in parts) / 1000)
