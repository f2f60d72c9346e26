"""Reconciliation: compare many replicas with the store in one call per cluster slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.streams.store.store import Store

MAX_LOGS: Final = 200
"""Logs per call: a call blocks the store for well below a millisecond."""


async def differing_logs(store: Store, lasts: Sequence[tuple[str, str]]) -> list[int]:
    """Return the positions in `lasts` of logs whose last id is another one. Safe to cancel.

    `lasts`: keys of one partition, each with the last id of its replica ("" for an empty one). Raises
    StoreUnavailableError.
    """
    found: list[int] = []
    for start in range(0, len(lasts), MAX_LOGS):
        some = lasts[start : start + MAX_LOGS]
        reply = await store.call("compare", [key for key, _ in some], *[last for _, last in some])
        found += [start + position - 1 for position in reply]
    return found
