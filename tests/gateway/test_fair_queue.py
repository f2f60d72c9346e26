"""The fair queue: owners take turns, and the items of one leave in order."""

from __future__ import annotations

import pytest

from gateway.fair_queue import FairQueue


def test_owner_with_one_item_waits_for_one_item_of_each_other_owner() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.put("many", f"many {number}")
    queue.put("one", "one 0")
    queue.put("two", "two 0")
    queue.put("two", "two 1")
    left = [queue.pop() for _ in range(6)]
    assert left == ["many 0", "one 0", "two 0", "many 1", "two 1", "many 2"]


def test_owner_that_returns_is_served_after_those_that_wait() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("a", 1)
    queue.put("b", 2)
    assert queue.pop() == 1
    queue.put("a", 3)
    assert [queue.pop(), queue.pop()] == [2, 3]


def test_empty_queue_is_false_and_has_nothing_to_pop() -> None:
    queue: FairQueue[int] = FairQueue()
    assert not queue
    queue.put("a", 1)
    assert queue
    queue.pop()
    assert not queue
    with pytest.raises(StopIteration):
        queue.pop()
