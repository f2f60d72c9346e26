"""What is due when: one clock for all sockets instead of timers for each."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

STEP: Final = 0.5
"""Seconds between two looks at the wheel, and so how late what is due may come."""


class TimerWheel(Generic[Item]):
    """Items, each due at one time; to set one, move it or drop it costs the same among ten and among ten thousand."""

    def __init__(self, now: float) -> None:
        """`now`: seconds, on the clock of all other times here."""
        self.now = now
        """The time of the last look: exact enough for what is measured in seconds, and free."""
        self._slots: dict[int, set[Item]] = {}
        self._slot_of: dict[Item, int] = {}

    def set(self, item: Item, due: float) -> None:
        """Let an item be due at `due`, and at no other time."""
        self.drop(item)
        slot = int(due / STEP) + 1
        self._slot_of[item] = slot
        self._slots.setdefault(slot, set()).add(item)

    def drop(self, item: Item) -> None:
        """Let an item be due never."""
        slot = self._slot_of.pop(item, None)
        if slot is not None:
            self._slots[slot].discard(item)

    def due(self, now: float) -> list[Item]:
        """The items that became due by `now`; they are dropped. None is early, and none later than STEP."""
        self.now = now
        items: list[Item] = []
        for slot in [slot for slot in self._slots if slot * STEP <= now]:
            items += self._slots.pop(slot)
        for item in items:
            del self._slot_of[item]
        return items
