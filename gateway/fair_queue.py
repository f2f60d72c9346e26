"""A queue that serves owners in turn, so that one with many items does not delay an owner with one.

A core module.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items of several owners: the owners take turns (round robin), the items of one leave in order."""

    __slots__ = ("_owners",)

    def __init__(self) -> None:
        self._owners: dict[Hashable, deque[Item]] = {}
        """The items of each owner; the owner that is served next is the first."""

    def __bool__(self) -> bool:
        """Tell whether there is an item."""
        return bool(self._owners)

    def put(self, owner: Hashable, item: Item) -> None:
        """Add an item behind those of its owner."""
        items = self._owners.get(owner)
        if items is None:
            items = self._owners[owner] = deque()
        items.append(item)

    def pop(self) -> Item:
        """Remove and return the next item. Raises StopIteration if there is none."""
        owner = next(iter(self._owners))
        items = self._owners.pop(owner)
        item = items.popleft()
        if items:
            self._owners[owner] = items
        return item
