"""A copy of a conversation's log: what its door lets in, what it shows, and what it forgets."""

from __future__ import annotations

import json

from gateway.replica import Extended
from gateway.streams import events
from gateway.streams.events import MOST_ENTRIES, End, Opened, Problem, Published, TurnId, UserMessage
from gateway.turns import MOST_MESSAGES, ORIGIN, ConversationReplica

RESPONSE = "r01aaaaaaaaaaaaaaaa"


def turn(seq: int, value: bytes, nonce: int = 1) -> tuple[TurnId, bytes]:
    return TurnId(seq, nonce), value


def settled(response: str, text: str) -> bytes:
    head = events.settled_head(response, "m" + response[1:], End("failed", error=Problem("x", "y"), retryable=True))
    return events.SETTLED + head + b',"text":"%b"}' % events.escape(text)


TURNS = [
    turn(1, events.encode(events.OPENED, Opened(RESPONSE, "m1", "default"))),
    turn(2, events.encode(events.MESSAGE, UserMessage("m1", "Hi"))),
    turn(3, settled(RESPONSE, "Hello")),
]


def test_a_conversation_gives_messages_and_knows_what_is_open() -> None:
    replica = ConversationReplica("c1")
    assert (replica.tail, replica.has(ORIGIN), replica.after(ORIGIN)) == (ORIGIN, True, [])
    assert not replica.has(TurnId(1, 1))
    assert replica.extend(None, TURNS[:2]) is Extended.ACCEPTED
    assert replica.open() == [RESPONSE]
    assert replica.extend(TURNS[1][0], TURNS[2:]) is Extended.ACCEPTED
    assert replica.extend(TURNS[1][0], TURNS[2:]) is Extended.KNOWN
    assert replica.open() == []
    messages, more = replica.messages()
    assert [(m.role, json.loads(bytes(m.text)), m.reason, m.replies_to) for m in messages] == [
        ("user", "Hi", None, None),
        ("assistant", "Hello", "failed", "m1"),
    ]
    assert not more
    assert [t.id.seq for t in replica.after(TurnId(1, 1))] == [2, 3]
    assert [t.id.seq for t in replica.after(ORIGIN)] == [1, 2, 3]


def test_a_conversation_notices_gaps_and_another_history() -> None:
    replica = ConversationReplica("c1")
    assert replica.extend(TurnId(4, 1), [turn(5, TURNS[1][1])]) is Extended.GAP
    assert replica.repair(None, TURNS) is Extended.ACCEPTED
    assert replica.extend(TurnId(2, 9), [turn(3, TURNS[1][1], 9)]) is Extended.FOREIGN
    assert replica.extend(TurnId(3, 9), [turn(4, TURNS[1][1], 9)]) is Extended.FOREIGN
    assert replica.repair(TURNS[2][0], []) is Extended.FOREIGN
    assert replica.repair(TURNS[2][0], [TURNS[2], turn(4, TURNS[1][1])]) is Extended.ACCEPTED


def test_a_trimmed_conversation_begins_anywhere_and_can_not_be_read_from_before() -> None:
    replica = ConversationReplica("c1")
    assert replica.repair(None, [turn(seq, settled(f"r{seq}", "x")) for seq in range(50, 60)]) is Extended.ACCEPTED
    assert not replica.has(ORIGIN)
    assert not replica.has(TurnId(49, 1))
    assert replica.has(TurnId(50, 1))
    # What is older than all that is here can not be compared, and is ignored.
    assert replica.extend(None, [turn(1, TURNS[0][1])]) is Extended.KNOWN
    messages, more = replica.messages()
    assert more
    assert messages[0].replies_to is None


def test_old_entries_are_forgotten_so_that_memory_is_bounded() -> None:
    replica = ConversationReplica("c1")
    entries = []
    for seq in range(1, 2 * MOST_ENTRIES + 3, 2):
        response = f"r{seq}"
        entries += [turn(seq, events.encode(events.OPENED, Opened(response, f"m{seq}", "default")))]
        entries += [turn(seq + 1, settled(response, "x"))]
    assert replica.extend(None, entries) is Extended.ACCEPTED
    assert len(replica.opened) <= MOST_ENTRIES
    assert len(replica.settled) <= MOST_ENTRIES
    messages, more = replica.messages()
    assert len(messages) == MOST_MESSAGES
    assert more


def test_what_a_newer_release_writes_is_passed_over() -> None:
    conversation = ConversationReplica("c1")
    assert conversation.repair(None, [*TURNS, turn(4, b"?{}")]) is Extended.ACCEPTED
    assert [t.frame is None for t in conversation.after(TURNS[1][0])] == [False, True]


def test_what_is_published_is_heard_and_what_is_no_id_is_read() -> None:
    replica = ConversationReplica("c1")
    assert replica.hear(Published(None, b"1-1", b"-", [TURNS[0][1]])) is Extended.ACCEPTED
    assert replica.tail == TURNS[0][0]
    assert replica.hear(Published(None, b"2-1", b"1-1", [TURNS[1][1]])) is Extended.ACCEPTED
    assert replica.hear(Published(None, b"two", b"2-1", [TURNS[2][1]])) is Extended.GAP
