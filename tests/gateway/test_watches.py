"""What one subject holds by its watches: a share of the memory, counted over all of its viewers."""

from __future__ import annotations

from gateway.watches import BODIES_SHARE, SUBJECT_SHARE, Watches


class Viewer:
    """Records what it must not watch any more."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def end_watch(self, conversation: str) -> None:
        self.ended.append(conversation)


VIEWER = Viewer()
SIZE = 100
ROOMS = 5


def full() -> Watches:
    """Return watches in which `ann` has its share."""
    watches = Watches(int(ROOMS * SIZE / SUBJECT_SHARE))
    for number in range(ROOMS):
        assert watches.allows("ann", f"c{number}")
        watches.add("ann", f"c{number}", SIZE, VIEWER)
    return watches


def test_subject_with_its_share_may_watch_no_other_conversation() -> None:
    watches = full()
    assert not watches.allows("ann", "new")
    # Another viewer of the same, another subject, and a client without a subject may.
    assert watches.allows("ann", "c0")
    assert watches.allows("bob", "new")
    assert watches.allows(None, "new")


def test_conversation_counts_until_its_last_viewer_of_the_subject_leaves() -> None:
    watches = full()
    watches.add("ann", "c0", SIZE, VIEWER)
    watches.remove("ann", "c0", VIEWER)
    assert not watches.allows("ann", "new")
    watches.remove("ann", "c0", VIEWER)
    assert watches.allows("ann", "new")


def test_size_is_that_of_the_last_watch() -> None:
    watches = full()
    watches.add("ann", "c0", 0, VIEWER)
    assert watches.allows("ann", "new")


def test_only_conversation_of_a_subject_may_be_larger_than_the_share() -> None:
    watches = Watches(8)
    assert watches.allows("ann", "large")
    watches.add("ann", "large", 1000, VIEWER)
    assert watches.allows("ann", "large")
    assert not watches.allows("ann", "other")
    watches.remove("ann", "large", VIEWER)
    assert watches.allows("ann", "other")


def test_clients_without_a_subject_are_not_counted() -> None:
    watches = Watches(8)
    watches.add(None, "c1", 1000, VIEWER)
    watches.remove(None, "c1", VIEWER)
    assert watches.allows(None, "c2")


def test_bodies_on_their_way_count_like_watches() -> None:
    watches = full()
    assert watches.hold("ann", SIZE) == "too_many"
    assert watches.hold("bob", SIZE) is None
    watches.remove("ann", "c0", VIEWER)
    assert watches.hold("ann", SIZE + 1) == "too_many"
    assert watches.hold("ann", SIZE) is None
    assert not watches.allows("ann", "new")
    assert watches.hold("ann", SIZE) == "too_many"
    watches.release("ann", SIZE)
    assert watches.allows("ann", "new")
    assert watches.hold("ann", SIZE // 2) is None
    assert watches.hold("ann", SIZE // 2) is None
    watches.release("ann", SIZE // 2)
    assert watches.hold("ann", SIZE) == "too_many"


def test_only_body_of_a_subject_may_be_larger_than_its_share() -> None:
    watches = Watches(int(SIZE / SUBJECT_SHARE))
    assert watches.hold("ann", SIZE + 1) is None
    assert watches.hold("ann", 1) == "too_many"
    watches.release("ann", SIZE + 1)
    assert watches.hold("ann", 1) is None


def test_bodies_of_all_clients_have_a_limit_in_total() -> None:
    watches = Watches(int(3 * SIZE / BODIES_SHARE))
    for number in range(3):
        assert watches.hold(f"{number}" if number else None, SIZE) is None
    assert watches.hold("one more", 1) == "overloaded"
    assert watches.hold(None, 1) == "overloaded"
    watches.release(None, SIZE)
    assert watches.hold(None, SIZE) is None


def test_conversations_count_with_the_size_that_they_have_grown_to() -> None:
    watches = Watches(int(ROOMS * SIZE / SUBJECT_SHARE))
    for number in range(ROOMS - 1):
        watches.add("ann", f"c{number}", 0, VIEWER)
    watches.measure(lambda name: 2 * SIZE)
    assert not watches.allows("ann", "new")
    assert watches.allows("bob", "new")


def test_largest_watches_beyond_the_share_are_to_be_ended() -> None:
    watches = full()
    first, second = Viewer(), Viewer()
    watches.add("ann", "large", 10 * SIZE, first)
    watches.add("ann", "large", 10 * SIZE, second)
    watches.add("bob", "only", 10 * SIZE, second)
    assert watches.excess() == [(first, "large"), (second, "large")]
    for watcher in (first, second):
        watches.remove("ann", "large", watcher)
    assert watches.excess() == []


def test_smallest_watch_of_a_subject_stays() -> None:
    watches = Watches(8)
    for number in range(3):
        watches.add("ann", f"c{number}", SIZE + number, VIEWER)
    assert [name for _, name in watches.excess()] == ["c2", "c1"]
