"""A history replica: which entries it accepts, its messages, and how it is trimmed."""

from __future__ import annotations

import json

from gateway.history_replica import MAX_MESSAGES, ORIGIN, HistoryReplica
from gateway.replica import Outcome
from gateway.streams import log_entries
from gateway.streams.log_entries import MAX_ENTRIES, End, HistoryId, Opened, Problem, Published, UserMessage

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
    messages, more = replica.messages()
    assert [(m.role, json.loads(bytes(m.text)), m.reason, m.replies_to) for m in messages] == [
        ("user", "Hi", None, None),
        ("assistant", "Hello", "failed", "m1"),
    ]
    assert not more
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
    messages, more = replica.messages()
    assert more
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
    messages, more = replica.messages()
    assert len(messages) == MAX_MESSAGES
    assert more


def test_entry_of_newer_release_is_skipped() -> None:
    conversation = HistoryReplica("c1")
    assert conversation.repair(None, [*ENTRIES, entry(4, b"?{}")]) is Outcome.ACCEPTED
    assert [t.frame is None for t in conversation.after(ENTRIES[1][0])] == [False, True]


def test_unreadable_entry_is_skipped_and_its_cursor_resumes() -> None:
    replica = HistoryReplica("c1")
    bad = entry(3, b'X{"usage":{"cost":0.5}}')
    after = entry(4, log_entries.encode(log_entries.MESSAGE, UserMessage("m2", "Again")))
    assert replica.repair(None, [*ENTRIES[:2], bad, after]) is Outcome.ACCEPTED
    assert replica.tail == after[0]
    assert replica.has(bad[0])
    assert [item.id for item in replica.after(bad[0])] == [after[0]]
    assert [message.id for message in replica.messages()[0]] == ["m1", "m2"]


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
