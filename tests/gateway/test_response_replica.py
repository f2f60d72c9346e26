"""A response replica: which entries it accepts, and what a viewer reads from each cursor."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
    return [json.loads(frame.body) for frame in replica.read(after)[0]]


def kinds(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["type"] for frame in frames]


def test_next_entries_are_accepted_and_known_ones_ignored() -> None:
    replica = ResponseReplica(RESPONSE)
    assert replica.read(None) == ([], None)
    assert replica.read(UNKNOWN) == ([], UNKNOWN)
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


@pytest.mark.parametrize("value", [b"Q{", b"Q", b"Tx", b'Q{"conversation":5}'])
def test_log_without_a_readable_request_is_not_shown(value: bytes) -> None:
    replica = ResponseReplica(RESPONSE)
    assert replica.receive(Published(RESPONSE, b"5-1", b"-", [value])) is Outcome.CONFLICT
    assert replica.repair(None, [(LogId(5, 1), value)]) is Outcome.CONFLICT
    assert replica.tail is None


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
    assert replica.size > len("Hello, wörld\\nhm".encode())


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


def test_silent_worker_is_shown_until_an_attempt_begins() -> None:
    replica = copy_of(*LOG)
    replica.worker_silent = True
    assert str(replica.state) == "recovering"
    again = (LogId(SECOND, 6), log_entries.encode(log_entries.CONTINUE, Start("default")))
    replica.extend(LOG[-1][0], [again, (LogId(SECOND, 7), log_entries.TEXT + b"x")])
    assert str(replica.state) == "running"


def test_switch_of_the_provider_is_a_status_that_changes_no_text() -> None:
    replica = copy_of(*LOG)
    tail = replica.tail
    assert tail is not None
    value = log_entries.encode(log_entries.WAITING, Waiting(0.0, "provider_error"))
    seam = (LogId(tail.attempt, tail.seq + 1), value)
    replica.extend(tail, [seam])
    (status,) = read(replica, tail)
    assert (status["state"], status["switched"], status["cursor"]) == ("running", "provider_error", str(seam[0]))
    assert "retry_in" not in status
    replica.extend(seam[0], [(LogId(tail.attempt, tail.seq + 2), log_entries.TEXT + b"x")])
    assert kinds(read(replica, seam[0])) == ["delta"]
    later = (LogId(tail.attempt, tail.seq + 3), log_entries.encode(log_entries.WAITING, Waiting(2.0, "provider_error")))
    replica.extend(LogId(tail.attempt, tail.seq + 2), [later])
    (status,) = read(replica, LogId(tail.attempt, tail.seq + 2))
    assert (status["state"], status["switched"], status["retry_in"]) == ("waiting", "provider_error", 2.0)


def test_new_attempt_resets_text_unless_kept() -> None:
    replica = copy_of(*LOG, (LogId(SECOND, 6), log_entries.encode(log_entries.START, Start("default"))))
    frames = read(replica, HELLO[0])
    assert kinds(frames) == ["status", "reset", "start"]
    assert frames[0]["state"] == "recovering"
    assert frames[1]["text"] == ""
    assert frames[1]["reason"] == "attempt"
    assert frames[1]["cursor"] == frames[2]["cursor"] == str(LogId(SECOND, 6))
    # A viewer without text of the first attempt needs no reset.
    assert kinds(read(replica, QUEUED[0])) == ["start"]


def test_attempt_that_keeps_the_text_continues_what_is_shown() -> None:
    replica = copy_of(*LOG, (LogId(SECOND, 6), log_entries.encode(log_entries.CONTINUE, Start("default"))))
    assert str(replica.state) == "recovering"
    start, delta = read(replica, HELLO[0])
    assert (start["type"], start["attempt"]) == ("start", 2)
    # The start is shown before the rest of the kept text, and its cursor says so.
    assert start["cursor"] == str(LogId(SECOND, HELLO[0].seq))
    assert "Hello" + delta["text"] == "Hello, wörld\n"
    assert kinds(read(replica, WORLD[0])) == ["start"]
    assert kinds(read(replica, QUEUED[0])) == ["start", "delta"]
    replica.extend(LogId(SECOND, 6), [(LogId(SECOND, 7), log_entries.TEXT + b"!")])
    assert str(replica.state) == "running"
    assert [frame["text"] for frame in read(replica, WORLD[0])[1:]] == ["!"]


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
    (queued, at), (running, _) = copy_of(QUEUED).snapshot(), copy_of(*LOG).snapshot()
    assert at == QUEUED[0]
    assert (queued.state, queued.attempt, bytes(queued.text), queued.reasoning) == ("queued", 0, b'""', None)
    assert (running.state, running.attempt, running.cursor) == ("running", 1, str(WORLD[0]))
    assert json.loads(bytes(running.text)) == "Hello, wörld\n"
    assert running.reasoning is not None


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[LogId, bytes]]:
    """Return a log of several attempts, with entries of all kinds."""
    log = [QUEUED]
    for number in range(1, draw(st.integers(1, 4))):
        kind = draw(st.sampled_from([log_entries.START, log_entries.CONTINUE, log_entries.CONTINUE]))
        attempt = number * NONCES + number
        values = [log_entries.encode(kind, Start("default", "w"))]
        for letter, size in draw(st.lists(st.tuples(st.sampled_from("TTTRW"), st.integers(0, 12)), max_size=8)):
            body = b'{"retry_in":1.5}' if letter == "W" else "ä".encode() * size
            values.append(letter.encode() + body)
        log += [(LogId(attempt, log[-1][0].seq + index), value) for index, value in enumerate(values, 1)]
    if draw(st.booleans()):
        log.append((LogId(9 * NONCES, log[-1][0].seq + 1), COMPLETE[1]))
    return log


@dataclass
class Shown:
    """What a client shows of a response."""

    text: str = ""
    reasoning: str = ""
    attempt: int = 0
    ends: int = 0
    cursor: LogId | None = None

    def fold(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "reset":
            self.text, self.reasoning = frame["text"], frame.get("reasoning", "")
        elif frame["type"] == "delta":
            self.text += frame["text"]
            self.reasoning += frame.get("reasoning", "")
        elif frame["type"] == "start":
            self.attempt = frame["attempt"]
        elif frame["type"] == "end":
            assert frame["chars"] == len(self.text)
            self.ends += 1
        if frame.get("cursor"):
            self.cursor = log_entries.parse_log_id(frame["cursor"])


CUTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=12)
"""At each step: the entries that the log grows by, and the frames that arrive before the connection is lost."""


@given(logs(), st.integers(1, 40), st.booleans(), CUTS)
def test_pieces_assemble_to_the_log_from_every_cursor(
    log: list[tuple[LogId, bytes]], limit: int, snapshot: bool, cuts: list[tuple[int, int]]
) -> None:
    """A viewer that is cut off after any frame, while the log grows, resumes with the same text."""
    whole, replica, shown = copy_of(*log), copy_of(*log[: len(log) // 2 + 1]), Shown()
    if snapshot and replica.end is None:
        opened, shown.cursor = replica.snapshot(limit)
        shown.text, shown.reasoning = json.loads(bytes(opened.text)), json.loads(bytes(opened.reasoning or b'""'))
        shown.attempt = opened.attempt
    for step in range(len(cuts) + 4 * len(log)):
        grown, received = cuts[step] if step < len(cuts) else (len(log), 99)
        if replica.tail is not None:
            replica.repair(replica.tail, log[replica.tail.seq - 1 : replica.tail.seq + grown])
        frames, reached = replica.read(shown.cursor, limit)
        bodies = [json.loads(frame.body) for frame in frames]
        # At most the limit, except that one entry is never divided.
        texts = [each.get("text", "") + each.get("reasoning", "") for each in bodies]
        assert len("".join(texts).encode()) <= max(limit, 24)
        for body in bodies[:received]:
            shown.fold(body)
        if received >= len(frames):
            assert reached == (shown.cursor if frames else replica.tail)
    assert (shown.text, shown.reasoning) == (
        log_entries.unescape(bytes(whole.text.data)),
        log_entries.unescape(bytes(whole.reasoning.data)),
    )
    assert shown.ends == (whole.end is not None)
    assert replica.read(shown.cursor, limit) == ([], whole.tail)


def test_text_beyond_the_limit_is_read_in_pieces() -> None:
    replica = copy_of(*LOG, COMPLETE)
    frames, reached = replica.read(STARTED[0], limit=len("Hello"))
    assert [json.loads(frame.body)["text"] for frame in frames] == ["Hello"]
    assert reached == HELLO[0]
    assert replica.read(STARTED[0], limit=len("Hellohm"))[1] == THINKS[0]
    frames, reached = replica.read(STARTED[0], limit=replica.backlog(STARTED[0]))
    assert [frame.type for frame in frames] == ["delta", "end"]
    assert reached is replica.tail
    assert (replica.backlog(COMPLETE[0]), ResponseReplica(RESPONSE).backlog(None)) == (0, 0)
    assert replica.backlog(UNKNOWN) == replica.backlog(None) == len("Hello, wörld\\nhm".encode())


def test_entry_beyond_the_limit_is_not_divided() -> None:
    replica = copy_of(*LOG)
    frames, reached = replica.read(None, limit=1)
    assert [frame.type for frame in frames] == ["start", "delta"]
    assert reached == HELLO[0]
    assert replica.read(THINKS[0], limit=1)[1] is replica.tail


def test_first_piece_of_kept_text_is_not_reset_again() -> None:
    """Its cursor is before the start that kept the text, so it names that start's attempt."""
    kept = copy_of(*LOG, (LogId(SECOND, 6), log_entries.encode(log_entries.CONTINUE, Start("default"))))
    frames, reached = kept.read(STARTED[0], limit=5)
    assert [frame.type for frame in frames] == ["start", "delta"]
    assert reached == LogId(SECOND, HELLO[0].seq)
    frames, reached = kept.read(reached, limit=100)
    assert [frame.type for frame in frames] == ["delta"]
    assert reached is kept.tail
    # A viewer that gets only the start, and not the delta with the kept text, continues before that text.
    (start, _), _ = kept.read(QUEUED[0])
    assert start.cursor == str(LogId(SECOND, 1))
    assert [frame["text"] for frame in read(kept, LogId(SECOND, 1))] == ["Hello, wörld\n"]


def test_replica_belongs_to_conversation_of_its_request() -> None:
    assert copy_of(QUEUED).belongs_to("c1")
    assert not copy_of(QUEUED).belongs_to("c2")
    assert not ResponseReplica(RESPONSE).belongs_to("c1")
    assert "conversation" not in json.loads(ResponseReplica(RESPONSE).status().body)


def test_entry_of_newer_release_is_skipped() -> None:
    replica = copy_of(*LOG[:3], (LogId(FIRST, 4), b"?{}"), (LogId(FIRST, 5), log_entries.TEXT + b"!"))
    assert [frame["text"] for frame in read(replica, STARTED[0])] == ["Hello!"]
    newer = copy_of(*LOG[:3], (LogId(FIRST, 4), b"?{}"))
    assert newer.read(HELLO[0]) == ([], newer.tail)


def test_settled_message_matches_log_with_same_text() -> None:
    replica = copy_of(*LOG, COMPLETE)
    for text, same in (("Hello, wörld\n", True), ("Hello", False), ("", False)):
        assert replica.matches(Settled(RESPONSE, "m2", "complete", msgspec.Raw(msgspec.json.encode(text)))) is same
