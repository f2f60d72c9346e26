"""A response replica: which entries it accepts, and what a viewer reads from each cursor."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.replica import UNKNOWN, Outcome
from gateway.response_replica import ResponseReplica
from gateway.streams import log_entries
from gateway.streams.log_entries import (
    NONCES,
    End,
    LogId,
    Published,
    Queued,
    Settled,
    Start,
    Waiting,
)

RESPONSE = "r01aaaaaaaaaaaaaaaa"
FIRST, SECOND = NONCES + 7, 2 * NONCES + 8
QUEUED = (LogId(5, 1), log_entries.encode(log_entries.QUEUED, Queued("c1", "m1", "default")))
STARTED = (LogId(FIRST, 2), log_entries.encode(log_entries.START, Start("default", "worker")))
HELLO = (LogId(FIRST, 3), log_entries.TEXT + b"Hello")
THINKS = (LogId(FIRST, 4), log_entries.REASONING + b"hm")
WORLD = (LogId(FIRST, 5), log_entries.TEXT + b", w\xc3\xb6rld\\n")
COMPLETE = (
    LogId(FIRST, 6),
    log_entries.encode(log_entries.END, End("complete", usage={"output_tokens": 2}, retryable=False)),
)
LOG = [QUEUED, STARTED, HELLO, THINKS, WORLD]


def copy_of(*entries: tuple[LogId, bytes]) -> ResponseReplica:
    replica = ResponseReplica(RESPONSE)
    assert replica.repair(None, entries) is Outcome.ACCEPTED
    return replica


def read(replica: ResponseReplica, after: LogId | None) -> list[dict[str, Any]]:
    return [json.loads(frame.body) for frame in replica.read(after)]


def kinds(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["type"] for frame in frames]


def test_next_entries_are_accepted_and_known_ones_ignored() -> None:
    replica = ResponseReplica(RESPONSE)
    assert replica.read(None) == []
    assert replica.extend(None, LOG[:2]) is Outcome.ACCEPTED
    assert replica.extend(STARTED[0], [HELLO]) is Outcome.ACCEPTED
    assert replica.extend(STARTED[0], [HELLO]) is Outcome.KNOWN
    assert replica.extend(QUEUED[0], [STARTED, HELLO, THINKS]) is Outcome.ACCEPTED
    assert replica.tail == THINKS[0]
    assert replica.extend(THINKS[0], []) is Outcome.KNOWN


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=12), st.booleans())
def test_receive_matches_extend(parts: list[tuple[int, int]], spoil: bool) -> None:
    """For repeated, early and partial entries: `receive` with encoded ids has the result of `extend`."""
    received, extended = copy_of(QUEUED), copy_of(QUEUED)
    for begin, count in parts:
        # One publish has entries of one attempt.
        entries = LOG[begin : begin + count] if begin else LOG[:1]
        previous = LOG[begin - 1][0] if begin else None
        part = Published(
            RESPONSE,
            b"x" if spoil and count == 4 else str(entries[0][0]).encode(),
            str(previous).encode() if previous else b"-",
            [value for _, value in entries],
        )
        expected = Outcome.GAP if part.first == b"x" else extended.extend(previous, entries)
        assert received.receive(part) is expected
        assert (received.tail, bytes(received.text.data)) == (extended.tail, bytes(extended.text.data))
    assert received.receive(Published(RESPONSE, b"1-1", b"-", [])) is Outcome.GAP


UNREADABLE = [
    log_entries.TEXT + b'"},"injected":{"a":"',
    log_entries.TEXT + b"\\",
    log_entries.REASONING + b"\xff",
    b"W{}",
    b"S[",
    b"",
    b"?new",
]


@pytest.mark.parametrize("value", UNREADABLE)
def test_unreadable_entry_is_skipped_and_its_cursor_resumes(value: bytes) -> None:
    bad, end = (LogId(FIRST, 6), value), (LogId(FIRST, 7), COMPLETE[1])
    replica = copy_of(*LOG, bad)
    assert replica.tail == bad[0]
    assert replica.has(bad[0])
    assert replica.receive(Published(RESPONSE, b"%d-7" % FIRST, b"%d-6" % FIRST, [COMPLETE[1]])) is Outcome.ACCEPTED
    assert kinds(read(replica, bad[0])) == ["end"]
    frames = read(copy_of(*LOG, bad, end), None)
    assert kinds(frames) == ["start", "delta", "end"]
    assert frames[1]["text"] == "Hello, wörld\n"
    assert frames[1]["reasoning"] == "hm"


def test_unreadable_end_is_a_failed_end() -> None:
    frames = read(copy_of(*LOG, (LogId(FIRST, 6), b'E{"reason":"complete","usage":{"cost":0.5}}')), WORLD[0])
    assert [(frame["type"], frame["reason"], frame["error"]["code"]) for frame in frames] == [
        ("end", "failed", "unreadable")
    ]


@pytest.mark.parametrize("foreign", [LogId(1_700_000_000_000, 0), LogId(2**63, 2**63), LogId(FIRST, 8)])
def test_entry_with_an_id_of_another_program_is_skipped(foreign: LogId) -> None:
    """`XADD *` chooses the time: its number says nothing about the order, and may be larger than any memory."""
    replica = copy_of(*LOG, (foreign, HELLO[1]), (LogId(foreign.attempt, foreign.seq + 2), COMPLETE[1]))
    assert (replica.tail, replica.end) == (WORLD[0], None)
    assert replica.repair(WORLD[0], [WORLD, (foreign, HELLO[1])]) is Outcome.KNOWN
    assert read(replica, WORLD[0]) == []


def test_log_that_begins_with_a_foreign_id_is_not_shown() -> None:
    replica = ResponseReplica(RESPONSE)
    assert replica.repair(None, [(LogId(1_700_000_000_000, 0), QUEUED[1])]) is Outcome.KNOWN
    assert not replica.belongs_to("c1")


def test_gap_is_returned_and_changes_nothing() -> None:
    replica = copy_of(*LOG[:2])
    assert replica.extend(HELLO[0], [THINKS]) is Outcome.GAP
    assert ResponseReplica(RESPONSE).extend(QUEUED[0], [STARTED]) is Outcome.GAP
    assert replica.tail == STARTED[0]
    assert replica.repair(STARTED[0], LOG[1:]) is Outcome.ACCEPTED
    assert replica.tail == WORLD[0]


@pytest.mark.parametrize(
    ("previous", "entry"),
    [
        (THINKS[0], (LogId(SECOND, 5), log_entries.encode(log_entries.START, Start("default")))),
        (LogId(SECOND, 3), (LogId(SECOND, 4), log_entries.TEXT + b"x")),
        (LogId(SECOND, 5), (LogId(SECOND, 6), log_entries.TEXT + b"x")),
        (STARTED[0], (LogId(SECOND, 3), log_entries.encode(log_entries.START, Start("default")))),
    ],
)
def test_entries_after_a_lost_tail_are_a_conflict(previous: LogId, entry: tuple[LogId, bytes]) -> None:
    replica = copy_of(*LOG)
    assert replica.extend(previous, [entry]) is Outcome.CONFLICT
    assert replica.tail == WORLD[0]


def test_repair_must_begin_with_the_tail() -> None:
    replica = copy_of(*LOG)
    assert replica.repair(WORLD[0], []) is Outcome.CONFLICT
    assert replica.repair(WORLD[0], [(LogId(SECOND, 5), b"T")]) is Outcome.CONFLICT
    assert replica.repair(WORLD[0], [WORLD]) is Outcome.KNOWN
    # Entries that skip some of the replica and end after it are of another log.
    assert copy_of(*LOG[:3]).extend(QUEUED[0], [STARTED, THINKS]) is Outcome.CONFLICT


@pytest.mark.parametrize("last", LOG[:-1])
def test_lost_tail_is_kept_until_a_conflict(last: tuple[LogId, bytes]) -> None:
    """The worker that wrote the tail writes it again, without an overlap; the start of another worker is a conflict."""
    replica = copy_of(*LOG)
    shown = read(replica, None)
    assert replica.repair(WORLD[0], [last]) is Outcome.KNOWN
    rest = LOG[LOG.index(last) + 1 :]
    more = (LogId(FIRST, 6), log_entries.TEXT + b"!")
    assert replica.extend(last[0], rest) is Outcome.KNOWN
    assert read(replica, None) == shown
    assert replica.extend(WORLD[0], [more]) is Outcome.ACCEPTED
    another = (LogId(SECOND, last[0].seq + 1), log_entries.encode(log_entries.START, Start("default", "another")))
    assert copy_of(*LOG).extend(last[0], [another]) is Outcome.CONFLICT
    assert copy_of(*LOG).repair(WORLD[0], [another]) is Outcome.CONFLICT


def test_lost_end_is_a_conflict() -> None:
    """Its worker has finished and does not write it again."""
    assert copy_of(*LOG, COMPLETE).repair(COMPLETE[0], [WORLD]) is Outcome.CONFLICT


def test_log_without_beginning_or_after_end_is_a_conflict() -> None:
    assert ResponseReplica(RESPONSE).repair(None, LOG[2:]) is Outcome.CONFLICT
    replica = copy_of(*LOG, COMPLETE)
    assert replica.extend(COMPLETE[0], [(LogId(FIRST, 7), b"Tx")]) is Outcome.CONFLICT


def test_new_viewer_reads_start_and_one_delta() -> None:
    start, delta = read(copy_of(*LOG), None)
    assert start["type"] == "start"
    assert start["cursor"] == str(STARTED[0])
    assert start["attempt"] == 1
    assert delta == {
        "type": "delta",
        "response": RESPONSE,
        "cursor": str(WORLD[0]),
        "text": "Hello, wörld\n",
        "reasoning": "hm",
    }


def test_viewer_reads_only_entries_after_its_cursor() -> None:
    replica = copy_of(*LOG)
    assert [frame["text"] for frame in read(replica, HELLO[0])] == [", wörld\n"]
    assert read(replica, WORLD[0]) == []
    assert replica.size == len("Hello, wörld\\nhm".encode())


def test_end_has_length_of_the_text() -> None:
    replica = copy_of(*LOG, COMPLETE)
    delta, end = read(replica, STARTED[0])
    assert delta["cursor"] == str(WORLD[0])
    assert end["cursor"] == str(COMPLETE[0])
    assert end["chars"] == len("Hello, wörld\n")
    assert end["usage"] == {"output_tokens": 2}
    assert str(replica.state) == "ended"


def test_state_is_derived_from_the_log() -> None:
    replica = copy_of(QUEUED)
    assert str(replica.state) == "queued"
    assert kinds(read(replica, None)) == ["status"]
    assert read(replica, None)[0]["cursor"] == str(QUEUED[0])
    replica.extend(QUEUED[0], [STARTED])
    assert str(replica.state) == "running"
    waiting = (LogId(FIRST, 3), log_entries.encode(log_entries.WAITING, Waiting(2.5)))
    replica.extend(STARTED[0], [waiting])
    assert str(replica.state) == "waiting"
    assert read(replica, STARTED[0])[0]["retry_in"] == 2.5
    assert read(replica, waiting[0]) == []
    replica.extend(waiting[0], [(LogId(FIRST, 4), log_entries.TEXT + b"x")])
    assert str(replica.state) == "running"
    assert kinds(read(replica, STARTED[0])) == ["delta"]
    again = (LogId(SECOND, 5), log_entries.encode(log_entries.START, Start("default")))
    replica.extend(LogId(FIRST, 4), [again])
    assert str(replica.state) == "recovering"
    replica.extend(again[0], [(LogId(SECOND, 6), log_entries.REASONING + b"x")])
    assert str(replica.state) == "running"


def test_new_attempt_resets_text_unless_kept() -> None:
    for kind, kept in ((log_entries.START, ""), (log_entries.CONTINUE, "Hello, wörld\n")):
        replica = copy_of(*LOG, (LogId(SECOND, 6), log_entries.encode(kind, Start("default"))))
        frames = read(replica, HELLO[0])
        assert kinds(frames) == ["status", "reset", "start"]
        assert frames[0]["state"] == "recovering"
        assert frames[1]["text"] == kept
        assert frames[1]["reason"] == "attempt"
        assert frames[1]["cursor"] == frames[2]["cursor"] == str(LogId(SECOND, 6))
        # A viewer without text of the first attempt needs no reset.
        assert kinds(read(replica, QUEUED[0])) == (["start", "delta"] if kept else ["start"])


def test_unknown_cursor_reads_a_reset() -> None:
    replica = copy_of(*LOG)
    for cursor in (UNKNOWN, LogId(FIRST, 99), LogId(SECOND, 3), LogId(FIRST, 1), LogId(5, 2), LogId(0, 0)):
        assert not replica.has(cursor)
        frames = read(replica, cursor)
        assert kinds(frames) == ["reset", "start"]
        assert frames[0]["text"] == "Hello, wörld\n"
        assert frames[0]["reason"] == "lost"
    assert not ResponseReplica(RESPONSE).has(QUEUED[0])
    assert kinds(read(copy_of(QUEUED), UNKNOWN)) == ["reset", "status"]


def test_stop_ends_response_in_any_state() -> None:
    stop = (LogId(NONCES + 3, 2), log_entries.encode(log_entries.END, End("stopped", retryable=True)))
    replica = copy_of(QUEUED, stop)
    assert kinds(read(replica, QUEUED[0])) == ["end"]
    assert kinds(read(replica, None)) == ["end"]
    replica = copy_of(*LOG, (LogId(SECOND, 6), stop[1]))
    delta, end = read(replica, STARTED[0])
    assert delta["cursor"] == str(WORLD[0])
    assert end["reason"] == "stopped"
    assert end["chars"] == len("Hello, wörld\n")


def test_snapshot_has_text_so_far() -> None:
    queued, running = copy_of(QUEUED).snapshot(), copy_of(*LOG).snapshot()
    assert (queued.state, queued.attempt, bytes(queued.text), queued.reasoning) == ("queued", 0, b'""', None)
    assert (running.state, running.attempt, running.cursor) == ("running", 1, str(WORLD[0]))
    assert json.loads(bytes(running.text)) == "Hello, wörld\n"
    assert running.reasoning is not None


def test_replica_belongs_to_conversation_of_its_request() -> None:
    assert copy_of(QUEUED).belongs_to("c1")
    assert not copy_of(QUEUED).belongs_to("c2")
    assert not ResponseReplica(RESPONSE).belongs_to("c1")
    assert "conversation" not in json.loads(ResponseReplica(RESPONSE).status().body)


def test_entry_of_newer_release_is_skipped() -> None:
    replica = copy_of(*LOG[:3], (LogId(FIRST, 4), b"?{}"), (LogId(FIRST, 5), log_entries.TEXT + b"!"))
    assert [frame["text"] for frame in read(replica, STARTED[0])] == ["Hello!"]


def test_settled_message_matches_log_with_same_text() -> None:
    replica = copy_of(*LOG, COMPLETE)
    for text, same in (("Hello, wörld\n", True), ("Hello", False), ("", False)):
        assert replica.matches(Settled(RESPONSE, "m2", "complete", msgspec.Raw(msgspec.json.encode(text)))) is same
