"""An attempt on a store that loses replies, requests and tails, with concurrent attempts.

In the end the log is dense and contains exactly the worker's bytes, or the attempt is fenced.
"""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.streams.log_entries import NONCES, LogId
from workers.attempt import MAX_ENTRIES, Append, Attempt

QUEUED: Final = (LogId(7, 1), b"Q")
BEFORE: Final = QUEUED[0]
START: Final = LogId(NONCES + 3, 2)


class Log:
    """A model of the store: the scripts `append.lua` and `claim.lua`, and failovers."""

    def __init__(self) -> None:
        self.entries: list[tuple[LogId, bytes]] = [QUEUED]

    @property
    def last(self) -> LogId | None:
        return self.entries[-1][0] if self.entries else None

    def append(self, append: Append) -> LogId | None:
        """Append, or change nothing; return the last id before the call."""
        last = self.last
        if last == append.expected:
            self.write(append.first, append.values)
        return last

    def write(self, first: LogId, values: list[bytes]) -> None:
        for index, value in enumerate(values):
            entry = LogId(first.attempt, first.seq + index)
            # Redis rejects an id that is not above the last one.
            assert self.last is None or entry > self.last
            self.entries.append((entry, value))


def test_first_append_follows_the_start() -> None:
    attempt = Attempt(BEFORE, START, b"S")
    assert attempt.tail == START
    assert attempt.next() is None
    attempt.add([b"Ta", b"Tb"])
    append = Append(START, LogId(START.attempt, 3), [b"Ta", b"Tb"])
    assert attempt.next() == append
    attempt.appended(append)
    assert attempt.next() is None
    assert attempt.tail == LogId(START.attempt, 4)
    assert (attempt.number, attempt.written) == (START.number, 3)


def test_entries_added_during_an_append_form_the_next_one() -> None:
    attempt = Attempt(BEFORE, START, b"S")
    attempt.add([b"Ta"])
    append = attempt.next()
    assert append is not None
    attempt.add([b"Tb"])
    attempt.appended(append)
    assert attempt.next() == Append(LogId(START.attempt, 3), LogId(START.attempt, 4), [b"Tb"])


def test_append_is_limited_in_entries() -> None:
    attempt = Attempt(BEFORE, START, b"S")
    attempt.add([b"T%d" % number for number in range(2 * MAX_ENTRIES + 1)])
    sizes = []
    while (append := attempt.next()) is not None:
        sizes.append(len(append.values))
        attempt.appended(append)
    assert sizes == [MAX_ENTRIES, MAX_ENTRIES, 1]


def test_lost_start_is_written_again() -> None:
    attempt = Attempt(BEFORE, START, b"S")
    attempt.add([b"Ta"])
    assert attempt.reconcile(BEFORE)
    assert attempt.tail == BEFORE
    assert attempt.next() == Append(BEFORE, START, [b"S", b"Ta"])


def test_append_with_a_lost_reply_is_not_repeated() -> None:
    attempt = Attempt(BEFORE, START, b"S")
    attempt.add([b"Ta", b"Tb"])
    assert attempt.reconcile(LogId(START.attempt, START.seq + 2))
    assert attempt.next() is None


def test_lost_tail_is_written_again_unchanged() -> None:
    attempt = Attempt(BEFORE, START, b"S")
    attempt.add([b"Ta", b"Tb"])
    append = attempt.next()
    assert append is not None
    attempt.appended(append)
    assert attempt.reconcile(LogId(START.attempt, START.seq + 1))
    assert attempt.next() == Append(LogId(START.attempt, 3), LogId(START.attempt, 4), [b"Tb"])


def test_later_entries_fence_the_attempt() -> None:
    for last in (
        None,
        LogId(BEFORE.attempt + 1, BEFORE.seq),
        LogId(START.attempt + NONCES, START.seq + 1),
        LogId(START.attempt + 1, START.seq),
        # An entry of the same attempt that it has not written, such as an end.
        LogId(START.attempt, START.seq + 1),
        LogId(START.attempt, START.seq - 1),
    ):
        assert not Attempt(BEFORE, START, b"S").reconcile(last)


class AppendingUnderFaults(RuleBasedStateMachine):
    """A worker that acts as `workers.writer`, with every fault of the store."""

    @initialize()
    def claim(self) -> None:
        self.log = Log()
        self.log.write(START, [b"S"])
        self.attempt = Attempt(BEFORE, START, b"S")
        self.given = [b"S"]
        self.fenced = False
        self.delayed: Append | None = None

    @rule(count=st.integers(1, 3) | st.just(MAX_ENTRIES + 1))
    def gather(self, count: int) -> None:
        values = [b"T%d" % (len(self.given) + index) for index in range(count)]
        self.attempt.add(values)
        self.given += values

    @precondition(lambda self: not self.fenced and self.attempt.next() is not None)
    @rule(fate=st.sampled_from(["done", "done", "reply lost", "request lost", "tail lost before the reply"]))
    def write(self, fate: str) -> None:
        append = self.attempt.next()
        assert append is not None
        if fate == "request lost":
            return
        expected = append.expected
        last = self.log.append(append)
        if fate == "tail lost before the reply":
            # A loss after the acknowledgement is detected at the next append.
            del self.log.entries[-1:]
        if fate == "reply lost":
            return
        if last == expected:
            self.attempt.appended(append)
        else:
            self.reconcile(last)

    @precondition(lambda self: not self.fenced and self.attempt.next() is not None)
    @rule()
    def send(self) -> None:
        """Delay an append: it may reach the store after it was repeated."""
        self.delayed = self.attempt.next()

    @precondition(lambda self: self.delayed is not None)
    @rule()
    def arrive(self) -> None:
        assert self.delayed is not None
        self.log.append(self.delayed)
        self.delayed = None

    @rule(count=st.integers(1, 3) | st.integers(1, 300))
    def fail_over(self, count: int) -> None:
        """Lose a tail of the log, rarely the whole log."""
        del self.log.entries[max(len(self.log.entries) - count, 0) :]

    # Nonces are unguessable so that no two attempts of one number share one.
    @rule(nonce=st.integers(0, NONCES - 1).filter(lambda nonce: nonce != START.attempt % NONCES))
    def claim_by_another(self, nonce: int) -> None:
        """Another worker claims the response, or a client stops it."""
        last = self.log.last
        if last is not None:
            self.log.write(LogId((last.number + 1) * NONCES + nonce, last.seq + 1), [b"another's"])

    def reconcile(self, last: LogId | None) -> None:
        mine = last is not None and (last == BEFORE or self.holds(last))
        self.fenced = not self.attempt.reconcile(last)
        assert self.fenced is not mine
        if not self.fenced:
            assert self.attempt.tail == last

    def holds(self, entry: LogId) -> bool:
        return entry.attempt == START.attempt and 0 <= entry.seq - START.seq < len(self.given)

    @invariant()
    def log_is_dense_and_own_entries_are_unchanged(self) -> None:
        entries = self.log.entries
        assert [entry.seq for entry, _ in entries] == list(range(1, len(entries) + 1))
        for entry, value in entries:
            if entry.attempt == START.attempt:
                assert value == self.given[entry.seq - START.seq]

    def teardown(self) -> None:
        """Without further faults the worker writes the rest and its end, or is fenced."""
        while not self.fenced:
            append = self.attempt.next()
            if append is None:
                # The end has the same condition as an append.
                if self.log.last == self.attempt.tail:
                    break
                self.reconcile(self.log.last)
            elif (last := self.log.append(append)) == append.expected:
                self.attempt.appended(append)
            else:
                self.reconcile(last)
        mine = [value for entry, value in self.log.entries if entry.attempt == START.attempt]
        # A fenced attempt stays fenced, even if a failover loses the entry that fenced it.
        if not self.fenced:
            assert mine == self.given
            assert self.log.entries[0] == QUEUED
            assert len(self.log.entries) == len(self.given) + 1


TestAppendingUnderFaults = AppendingUnderFaults.TestCase


def test_entries_that_are_not_written_can_be_dropped() -> None:
    attempt = Attempt(LogId(5, 1), LogId(NONCES + 7, 2), b"S")
    attempt.add([b"Ta", b"Tb"])
    attempt.appended(Append(attempt.tail, LogId(NONCES + 7, 3), [b"Ta"]))
    attempt.drop_unwritten()
    assert attempt.next() is None
    assert (attempt.written, attempt.tail) == (2, LogId(NONCES + 7, 3))
