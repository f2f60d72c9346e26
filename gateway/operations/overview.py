"""Read the state of the whole fleet from the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from gateway.operations.fleet import survey
from gateway.streams import presence
from gateway.streams.store.errors import StoreUnavailableError

if TYPE_CHECKING:
    from gateway.operations.fleet import Fleet
    from gateway.streams.store.store import Store


async def overview(store: Store) -> Fleet:
    """Return all live processes, their responses and the queue. Raises StoreError. Safe to cancel."""
    try:
        return survey(await presence.live_processes(store), await presence.queue(store), time.time())
    except (RedisError, OSError) as error:
        raise StoreUnavailableError(f"the store does not answer ({type(error).__name__})") from error
