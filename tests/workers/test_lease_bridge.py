"""The lease bridge: when the leases of a blocked worker are renewed, and what it sends to its lease process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.streams.queued_jobs import Job
from workers.lease_bridge import (
    MAX_BLOCKED_S,
    Drop,
    Failed,
    Hold,
    LeaseBridge,
    Lines,
    Lost,
    Start,
    Told,
    encode,
    report,
    request,
)

A, B = Hold("1-0", "r1", "c1"), Hold("2-0", "r2", "c2")


def told(data: bytes) -> list[object]:
    """Return the messages in what the process receives."""
    return [request(line) for line in data.splitlines()]


def test_running_worker_renews_its_leases_itself() -> None:
    bridge = LeaseBridge(10.0, 120.0, 0.0)
    for second in range(1, 500):
        assert not bridge.is_due(float(second))
        bridge.sign(float(second))


def test_blocked_worker_is_renewed_after_two_missed_signs_then_three_times_a_lease() -> None:
    bridge = LeaseBridge(9.0, 120.0, 0.0)
    bridge.sign(100.0)
    assert not bridge.is_due(101.7)
    assert bridge.is_due(101.8)
    bridge.renewing(102.0)
    assert not bridge.is_due(104.9)
    assert bridge.is_due(105.0)
    bridge.sign(106.0)
    assert not bridge.is_due(107.0)


def test_worker_that_is_blocked_for_too_long_loses_its_leases_until_it_runs_again() -> None:
    bridge = LeaseBridge(5.0, MAX_BLOCKED_S, 0.0)
    assert bridge.is_due(MAX_BLOCKED_S - 0.1)
    assert not bridge.is_due(MAX_BLOCKED_S)
    bridge.sign(MAX_BLOCKED_S + 60)
    assert bridge.is_due(MAX_BLOCKED_S + 62)


@given(lease_s=st.floats(0.2, 60), pauses=st.lists(st.floats(0, 0.3), max_size=50))
def test_no_renewal_of_a_block_comes_later_than_half_a_lease(lease_s: float, pauses: list[float]) -> None:
    bridge = LeaseBridge(lease_s, 1e9, 0.0)
    now = 0.0
    for pause in pauses:
        # Signs come at any time; the process looks after each pause.
        now += pause * lease_s
        bridge.sign(now)
    last = now
    for _ in range(20):
        now += bridge.wait_s(now)
        if bridge.is_due(now):
            assert now - last <= lease_s / 2
            bridge.renewing(now)
            last = now
    assert last > 0


def test_wait_is_never_nothing_and_ends_when_a_renewal_is_due() -> None:
    bridge = LeaseBridge(10.0, 120.0, 0.0)
    assert bridge.wait_s(0.5) == 1.5
    assert bridge.wait_s(2.0) == 1.0


def test_jobs_follow_what_the_worker_tells() -> None:
    bridge = LeaseBridge(10.0, 120.0, 0.0)
    bridge.apply(A)
    bridge.apply(B)
    bridge.apply(Hold(A.id, A.response, A.conversation, "i1"))
    assert bridge.held == [Hold("1-0", "r1", "c1", "i1"), B]
    bridge.apply(Drop(A.id))
    bridge.apply(Drop(A.id))
    assert bridge.held == [B]
    assert B.job == Job("2-0", "r2", "c2")
    bridge.forget(B.id)
    assert bridge.held == []


def test_process_is_told_only_of_changes() -> None:
    known = Told()
    assert told(known.hold([A])) == [A]
    assert told(known.changes([A, B])) == [B]
    assert known.changes([A, B]) == b""
    with_instructions = Hold(A.id, A.response, A.conversation, "i1")
    assert told(known.changes([with_instructions])) == [Drop(B.id), with_instructions]
    assert told(known.changes([])) == [Drop(A.id)]


@given(st.lists(st.lists(st.sampled_from([A, B, Hold("1-0", "r1", "c1", "i"), Hold("3-0", "r3", "c3")]), max_size=4)))
def test_process_knows_exactly_what_the_worker_holds(states: list[list[Hold]]) -> None:
    known, bridge = Told(), LeaseBridge(1.0, 1.0, 0.0)
    for number, state in enumerate(states):
        data = known.hold(state) if number % 3 == 0 else known.changes(state)
        for line in data.splitlines():
            match request(line):
                case Hold() | Drop() as change:
                    bridge.apply(change)
        if number % 3:
            assert {each.id: each for each in bridge.held} == {each.id: each for each in state}


def test_messages_survive_the_pipe() -> None:
    start = Start("redis://:secret@host", 1.0, 2.0, 3.0, "w1", 7, 5.0, 120.0)
    for message in (start, A, Drop("1-0")):
        assert request(encode(message).rstrip(b"\n")) == message
    for answer in (Lost("1-0", "expired"), Failed("OSError"), Failed("KeyError", "a.py:1:f")):
        assert report(encode(answer).rstrip(b"\n")) == answer
    assert request(b"") is None


@given(st.lists(st.binary(max_size=5).filter(lambda line: b"\n" not in line), max_size=6), st.integers(1, 7))
def test_lines_are_whole_however_they_arrive(lines: list[bytes], size: int) -> None:
    data = b"".join(line + b"\n" for line in lines) + b"rest"
    split = Lines()
    found = [line for start in range(0, len(data), size) for line in split.split(data[start : start + size])]
    assert found == lines
