"""A copy of a conversation's log: what its door lets in, what it shows, and what it forgets."""

from __future__ import annotations

import json

from gateway.history_replica import MAX_MESSAGES, ORIGIN, HistoryReplica
from gateway.replica import Outcome
from gateway.streams import log_entries
from gateway.streams.log_entries import MAX_ENTRIES, End, HistoryId, Opened, Problem, Published, UserMessage

RESPONSE = "r01aaaaaaaaaaaaaaaa"


def turn(seq: int, value: bytes, nonce: int = 1) -> tuple[HistoryId, bytes]:
    return HistoryId(seq, nonce), value


def settled(response: str, text: str) -> bytes:
    head = log_entries.settled_head(
        response, "m" + response[1:], End("failed", error=Problem("x", "y"), retryable=True)
    )
    return log_entries.SETTLED + head + b',"text":"%b"}' % log_entries.escape(text)


TURNS = [
    turn(1, log_entries.encode(log_entries.OPENED, Opened(RESPONSE, "m1", "default"))),
    turn(2, log_entries.encode(log_entries.MESSAGE, UserMessage("m1", "Hi"))),
    turn(3, settled(RESPONSE, "Hello")),
]


def test_a_conversation_gives_messages_and_knows_what_is_open() -> None:
    replica = HistoryReplica("c1")
    assert (replica.tail, replica.has(ORIGIN), replica.after(ORIGIN)) == (ORIGIN, True, [])
    assert not replica.has(HistoryId(1, 1))
    assert replica.extend(None, TURNS[:2]) is Outcome.ACCEPTED
    assert replica.open_responses() == [RESPONSE]
    assert replica.extend(TURNS[1][0], TURNS[2:]) is Outcome.ACCEPTED
    assert replica.extend(TURNS[1][0], TURNS[2:]) is Outcome.KNOWN
    assert replica.open_responses() == []
    messages, more = replica.messages()
    assert [(m.role, json.loads(bytes(m.text)), m.reason, m.replies_to) for m in messages] == [
        ("user", "Hi", None, None),
        ("assistant", "Hello", "failed", "m1"),
    ]
    assert not more
    assert [t.id.seq for t in replica.after(HistoryId(1, 1))] == [2, 3]
    assert [t.id.seq for t in replica.after(ORIGIN)] == [1, 2, 3]


def test_a_conversation_notices_gaps_and_another_history() -> None:
    replica = HistoryReplica("c1")
    assert replica.extend(HistoryId(4, 1), [turn(5, TURNS[1][1])]) is Outcome.GAP
    assert replica.repair(None, TURNS) is Outcome.ACCEPTED
    assert replica.extend(HistoryId(2, 9), [turn(3, TURNS[1][1], 9)]) is Outcome.CONFLICT
    assert replica.extend(HistoryId(3, 9), [turn(4, TURNS[1][1], 9)]) is Outcome.CONFLICT
    assert replica.repair(TURNS[2][0], []) is Outcome.CONFLICT
    assert replica.repair(TURNS[2][0], [TURNS[2], turn(4, TURNS[1][1])]) is Outcome.ACCEPTED


def test_a_trimmed_conversation_begins_anywhere_and_can_not_be_read_from_before() -> None:
    replica = HistoryReplica("c1")
    assert replica.repair(None, [turn(seq, settled(f"r{seq}", "x")) for seq in range(50, 60)]) is Outcome.ACCEPTED
    assert not replica.has(ORIGIN)
    assert not replica.has(HistoryId(49, 1))
    assert replica.has(HistoryId(50, 1))
    # What is older than all that is here can not be compared, and is ignored.
    assert replica.extend(None, [turn(1, TURNS[0][1])]) is Outcome.KNOWN
    messages, more = replica.messages()
    assert more
    assert messages[0].replies_to is None


def test_old_entries_are_forgotten_so_that_memory_is_bounded() -> None:
    replica = HistoryReplica("c1")
    entries = []
    for seq in range(1, 2 * MAX_ENTRIES + 3, 2):
        response = f"r{seq}"
        entries += [turn(seq, log_entries.encode(log_entries.OPENED, Opened(response, f"m{seq}", "default")))]
        entries += [turn(seq + 1, settled(response, "x"))]
    assert replica.extend(None, entries) is Outcome.ACCEPTED
    assert len(replica.opened) <= MAX_ENTRIES
    assert len(replica.settled) <= MAX_ENTRIES
    messages, more = replica.messages()
    assert len(messages) == MAX_MESSAGES
    assert more


def test_what_a_newer_release_writes_is_passed_over() -> None:
    conversation = HistoryReplica("c1")
    assert conversation.repair(None, [*TURNS, turn(4, b"?{}")]) is Outcome.ACCEPTED
    assert [t.frame is None for t in conversation.after(TURNS[1][0])] == [False, True]


def test_what_is_published_is_heard_and_what_is_no_id_is_read() -> None:
    replica = HistoryReplica("c1")
    assert replica.receive(Published(None, b"1-1", b"-", [TURNS[0][1]])) is Outcome.ACCEPTED
    assert replica.tail == TURNS[0][0]
    assert replica.receive(Published(None, b"2-1", b"1-1", [TURNS[1][1]])) is Outcome.ACCEPTED
    assert replica.receive(Published(None, b"two", b"2-1", [TURNS[2][1]])) is Outcome.GAP
