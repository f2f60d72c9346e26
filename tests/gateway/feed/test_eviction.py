"""Which idle rooms are evicted."""

from __future__ import annotations

from gateway.feed.eviction import KEEP_IDLE_S, MIN_IDLE_S, IdleRooms


def test_idle_room_is_evicted_after_its_time() -> None:
    idle = IdleRooms(1000)
    assert idle.evict({"a": 10}, 10, 100.0) == []
    assert idle.evict({"a": 10}, 10, 100.0 + KEEP_IDLE_S) == []
    assert idle.evict({"a": 10}, 10, 100.1 + KEEP_IDLE_S) == ["a"]
    # An evicted room that is opened again starts a new idle time.
    assert idle.evict({"a": 10}, 10, 200.0) == []


def test_room_with_viewer_starts_new_idle_time() -> None:
    idle = IdleRooms(1000)
    idle.evict({"a": 10}, 10, 100.0)
    idle.evict({}, 0, 110.0)
    assert idle.evict({"a": 10}, 10, 101.0 + KEEP_IDLE_S) == []


def test_removed_room_reports_whether_it_was_idle() -> None:
    idle = IdleRooms(1000)
    idle.evict({"a": 10}, 10, 100.0)
    assert idle.remove("a")
    assert not idle.remove("a")
    assert idle.evict({"a": 10}, 10, 101.0 + KEEP_IDLE_S) == []


def test_oldest_rooms_are_evicted_beyond_memory_limit() -> None:
    idle = IdleRooms(100)
    assert idle.evict({"b": 50}, 50, 1.0) == []
    assert idle.evict({"a": 50, "b": 50}, 100, 2.0) == []
    assert idle.evict({"a": 60, "b": 50, "c": 70}, 180, 3.0) == ["b", "a"]


def test_new_idle_room_is_kept_beyond_memory_limit() -> None:
    """A client may have loaded it and subscribe in a moment."""
    idle = IdleRooms(100)
    assert idle.evict({"large": 500}, 500, 1.0) == []
    assert idle.evict({"large": 500}, 500, 0.9 + MIN_IDLE_S) == []
    assert idle.evict({"large": 500}, 500, 1.0 + MIN_IDLE_S) == ["large"]


def test_idle_rooms_make_room_for_watched_ones() -> None:
    idle = IdleRooms(100)
    assert idle.evict({"a": 10, "b": 10}, 20, 1.0) == []
    assert idle.evict({"a": 10, "b": 10}, 100, 2.0) == []
    assert idle.evict({"a": 10, "b": 10}, 101, 3.0) == ["a"]
    assert idle.evict({"b": 10}, 500, 4.0) == ["b"]
