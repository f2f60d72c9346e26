"""A history replica: which entries it accepts, its messages, and how it is trimmed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.history_replica import (
    ENTRY_BYTES,
    MAX_HISTORY_BYTES,
    MAX_MESSAGES,
    MAX_SNAPSHOT_BYTES,
    ORIGIN,
    HistoryReplica,
)
from gateway.replica import Outcome
from gateway.streams import log_entries
from gateway.streams.log_entries import MAX_ENTRIES, End, HistoryId, Opened, Problem, Published, UserMessage

if TYPE_CHECKING:
    from gateway.wire import Message

RESPONSE = "r01aaaaaaaaaaaaaaaa"


def entry(seq: int, value: bytes, nonce: int = 1) -> tuple[HistoryId, bytes]:
    return HistoryId(seq, nonce), value


def settled(response: str, text: str) -> bytes:
    head = log_entries.settled_head(
        response, "m" + response[1:], End("failed", error=Problem("x", "y"), retryable=True)
    )
    return log_entries.SETTLED + head + b',"text":"%b"}' % log_entries.escape(text)


ENTRIES = [
    entry(1, log_entries.encode(log_entries.OPENED, Opened(RESPONSE, "m1", "default"))),
    entry(2, log_entries.encode(log_entries.MESSAGE, UserMessage("m1", "Hi"))),
    entry(3, settled(RESPONSE, "Hello")),
]


def test_history_has_messages_and_open_responses() -> None:
    replica = HistoryReplica("c1")
    assert (replica.tail, replica.has(ORIGIN), replica.after(ORIGIN)) == (ORIGIN, True, [])
    assert not replica.has(HistoryId(1, 1))
    assert replica.extend(None, ENTRIES[:2]) is Outcome.ACCEPTED
    assert replica.open_responses() == [RESPONSE]
    assert replica.extend(ENTRIES[1][0], ENTRIES[2:]) is Outcome.ACCEPTED
    assert replica.extend(ENTRIES[1][0], ENTRIES[2:]) is Outcome.KNOWN
    assert replica.open_responses() == []
    messages, earlier = replica.newest()
    assert [(m.role, json.loads(bytes(m.text)), m.reason, m.replies_to) for m in messages] == [
        ("user", "Hi", None, None),
        ("assistant", "Hello", "failed", "m1"),
    ]
    assert earlier is None
    assert [t.id.seq for t in replica.after(HistoryId(1, 1))] == [2, 3]
    assert [t.id.seq for t in replica.after(ORIGIN)] == [1, 2, 3]


def test_history_detects_gaps_and_conflicts() -> None:
    replica = HistoryReplica("c1")
    assert replica.extend(HistoryId(4, 1), [entry(5, ENTRIES[1][1])]) is Outcome.GAP
    assert replica.repair(None, ENTRIES) is Outcome.ACCEPTED
    assert replica.extend(HistoryId(2, 9), [entry(3, ENTRIES[1][1], 9)]) is Outcome.CONFLICT
    assert replica.extend(HistoryId(3, 9), [entry(4, ENTRIES[1][1], 9)]) is Outcome.CONFLICT
    assert replica.repair(ENTRIES[2][0], []) is Outcome.CONFLICT
    assert replica.repair(ENTRIES[2][0], [ENTRIES[2], entry(4, ENTRIES[1][1])]) is Outcome.ACCEPTED


def test_trimmed_history_has_no_older_cursors() -> None:
    replica = HistoryReplica("c1")
    assert replica.repair(None, [entry(seq, settled(f"r{seq}", "x")) for seq in range(50, 60)]) is Outcome.ACCEPTED
    assert not replica.has(ORIGIN)
    assert not replica.has(HistoryId(49, 1))
    assert replica.has(HistoryId(50, 1))
    # An entry older than the replica cannot be compared and is ignored.
    assert replica.extend(None, [entry(1, ENTRIES[0][1])]) is Outcome.KNOWN
    messages, earlier = replica.newest()
    assert earlier == HistoryId(50, 1)
    assert messages[0].replies_to is None


def test_old_entries_are_trimmed() -> None:
    replica = HistoryReplica("c1")
    entries = []
    for seq in range(1, 2 * MAX_ENTRIES + 3, 2):
        response = f"r{seq}"
        entries += [entry(seq, log_entries.encode(log_entries.OPENED, Opened(response, f"m{seq}", "default")))]
        entries += [entry(seq + 1, settled(response, "x"))]
    assert replica.extend(None, entries) is Outcome.ACCEPTED
    assert len(replica.opened) <= MAX_ENTRIES
    assert len(replica.settled) <= MAX_ENTRIES
    messages, earlier = replica.newest()
    assert len(messages) == MAX_MESSAGES
    assert earlier is not None


def test_entry_of_newer_release_is_skipped() -> None:
    conversation = HistoryReplica("c1")
    assert conversation.repair(None, [*ENTRIES, entry(4, b"?{}")]) is Outcome.ACCEPTED
    frames = [conversation.frame(item) for item in conversation.after(ENTRIES[1][0])]
    assert [frame is None for frame in frames] == [False, True]


def test_unreadable_entry_is_skipped_and_its_cursor_resumes() -> None:
    replica = HistoryReplica("c1")
    bad = entry(3, b'X{"usage":{"cost":0.5}}')
    after = entry(4, log_entries.encode(log_entries.MESSAGE, UserMessage("m2", "Again")))
    assert replica.repair(None, [*ENTRIES[:2], bad, after]) is Outcome.ACCEPTED
    assert replica.tail == after[0]
    assert replica.has(bad[0])
    assert [item.id for item in replica.after(bad[0])] == [after[0]]
    assert [message.id for message in replica.newest()[0]] == ["m1", "m2"]


def test_entry_with_an_id_of_another_program_is_skipped_and_its_cursor_resumes() -> None:
    """`XADD *` chooses the time as a number: a gap that no later number fills."""
    replica = HistoryReplica("c1")
    foreign = entry(1_700_000_000_000, b"", nonce=0)
    later = entry(1_700_000_000_001, log_entries.encode(log_entries.MESSAGE, UserMessage("m2", "Again")))
    assert replica.repair(None, [*ENTRIES, foreign, later]) is Outcome.ACCEPTED
    for position, (each, _) in enumerate([*ENTRIES, foreign, later], 1):
        assert replica.has(each)
        assert len(replica.after(each)) == 5 - position
    assert not replica.has(HistoryId(5, 1))
    assert replica.receive(Published(None, b"7-1", str(later[0]).encode(), [ENTRIES[1][1]])) is Outcome.ACCEPTED
    assert replica.tail == later[0], "an id that is not larger is skipped"


def test_published_entries_are_applied_and_unknown_ids_are_gaps() -> None:
    replica = HistoryReplica("c1")
    assert replica.receive(Published(None, b"1-1", b"-", [ENTRIES[0][1]])) is Outcome.ACCEPTED
    assert replica.tail == ENTRIES[0][0]
    assert replica.receive(Published(None, b"2-1", b"1-1", [ENTRIES[1][1]])) is Outcome.ACCEPTED
    assert replica.receive(Published(None, b"two", b"2-1", [ENTRIES[2][1]])) is Outcome.GAP


def question(seq: int, size: int) -> tuple[HistoryId, bytes]:
    return entry(seq, log_entries.encode(log_entries.MESSAGE, UserMessage(f"m{seq}", "x" * size)))


def shown(messages: list[Message]) -> list[str]:
    return [message.id for message in messages]


def test_snapshot_holds_the_newest_messages_that_fit() -> None:
    replica = HistoryReplica("c1")
    opened = entry(1, ENTRIES[0][1])
    replica.extend(None, [opened, *(question(seq, 1000 - ENTRY_BYTES - 2) for seq in range(2, 12))])
    for size, count in ((999, 1), (1000, 1), (1999, 1), (2000, 2), (2999, 2), (9999, 9)):
        messages, earlier = replica.newest(size)
        assert shown(messages) == [f"m{seq}" for seq in range(12 - count, 12)]
        assert earlier == HistoryId(12 - count, 1)
    messages, earlier = replica.newest(10_000)
    assert (len(messages), earlier) == (10, None)


def test_snapshot_holds_a_message_beyond_its_bound() -> None:
    replica = HistoryReplica("c1")
    replica.extend(None, [question(1, 10), question(2, 2 * MAX_SNAPSHOT_BYTES)])
    messages, earlier = replica.newest()
    assert (shown(messages), earlier) == (["m2"], HistoryId(2, 1))


def test_history_without_messages_that_was_trimmed_has_older_ones() -> None:
    replica = HistoryReplica("c1")
    assert replica.newest() == ([], None)
    replica.extend(None, [entry(7, ENTRIES[0][1])])
    assert replica.newest() == ([], HistoryId(7, 1))


def test_replica_keeps_a_bounded_number_of_bytes() -> None:
    replica = HistoryReplica("c1")
    size = MAX_HISTORY_BYTES // 16 - ENTRY_BYTES - 2
    for seq in range(1, 33):
        replica.extend(HistoryId(seq - 1, 1) if seq > 1 else None, [question(seq, size)])
    assert replica.size == 2 * MAX_HISTORY_BYTES
    assert replica.has(ORIGIN)
    replica.extend(HistoryId(32, 1), [question(33, size)])
    assert replica.size == MAX_HISTORY_BYTES
    assert not replica.has(HistoryId(17, 1))
    assert not replica.lost(HistoryId(17, 1))
    assert replica.lost(HistoryId(18, 2))
    assert replica.has(HistoryId(18, 1))
    replica.extend(HistoryId(33, 1), [question(34, 3 * MAX_HISTORY_BYTES)])
    assert shown(replica.newest()[0]) == ["m34"]
    assert replica.after(ORIGIN) == replica.after(HistoryId(33, 1))


def test_backlog_is_what_a_viewer_is_missing() -> None:
    replica = HistoryReplica("c1")
    replica.extend(None, [entry(1, ENTRIES[0][1]), question(2, 10), question(3, 20)])
    assert [replica.backlog(HistoryId(seq, 1)) for seq in (1, 2, 3)] == [
        2 * ENTRY_BYTES + 34,
        ENTRY_BYTES + 22,
        0,
    ]


def test_entry_of_another_program_leaves_a_gap() -> None:
    replica = HistoryReplica("c1")
    replica.extend(None, [question(1, 1), entry(9, b"?"), question(10, 1)])
    assert [item.id.seq for item in replica.after(HistoryId(1, 1))] == [9, 10]
    assert replica.has(HistoryId(9, 1))
    assert not replica.has(HistoryId(5, 1))
