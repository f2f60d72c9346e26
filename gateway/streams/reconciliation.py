"""Which of many logs differ from their copies: one call for all that share a slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.streams.store.store import Store

MAX_LOGS: Final = 200
"""Logs of one call: they hold the store for well below a millisecond."""


async def differing_logs(store: Store, lasts: Sequence[tuple[str, str]]) -> list[int]:
    """The positions in `lasts` of those logs whose last entry is another one.

    `lasts`: keys of one partition, each with the id that its copy ends with, "" for an empty copy. Raises
    StoreUnavailableError.
    """
    found: list[int] = []
    for begin in range(0, len(lasts), MAX_LOGS):
        some = lasts[begin : begin + MAX_LOGS]
        reply = await store.call("compare", [key for key, _ in some], *[last for _, last in some])
        found += [begin + position - 1 for position in reply]
    return found
