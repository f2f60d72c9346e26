"""A timer wheel: deadlines of many sockets with one timer instead of one timer per socket."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

STEP_S: Final = 0.5
"""Interval at which the caller asks for due items; an item is returned at most this much late."""


class TimerWheel(Generic[Item]):
    """Items with one deadline each. Setting, moving and removing a deadline takes constant time."""

    def __init__(self, now: float) -> None:
        """`now`: seconds of the clock that all times here are of."""
        self.now = now
        """Time of the last call of `due`. Precise to STEP_S, and free to read."""
        self._slots: dict[int, set[Item]] = {}
        self._slot_of: dict[Item, int] = {}

    def set(self, item: Item, due: float) -> None:
        """Set the deadline of an item; an earlier one is replaced."""
        self.remove(item)
        slot = int(due / STEP_S) + 1
        self._slot_of[item] = slot
        self._slots.setdefault(slot, set()).add(item)

    def remove(self, item: Item) -> None:
        """Remove the deadline of an item, if it has one."""
        slot = self._slot_of.pop(item, None)
        if slot is not None:
            self._slots[slot].discard(item)

    def due(self, now: float) -> list[Item]:
        """Remove and return the items whose deadline passed: never early, at most STEP_S late."""
        self.now = now
        items: list[Item] = []
        for slot in [slot for slot in self._slots if slot * STEP_S <= now]:
            items += self._slots.pop(slot)
        for item in items:
            del self._slot_of[item]
        return items
