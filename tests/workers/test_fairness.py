"""Fairness: old jobs first, quiet conversations and small subjects before busy ones, and no job waits forever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.streams.queued_jobs import Candidate, Job
from workers import fairness
from workers.fairness import MAX_ADVANTAGE_S, Fairness


def candidate(name: str, queued_at: float, *, subject: str = "", begun: bool = False) -> Candidate:
    return Candidate(Job(f"{int(queued_at * 1000)}-0", f"r-{name}", name), subject, None, begun)


def names(chosen: list[Candidate]) -> list[str]:
    return [each.job.conversation for each in chosen]


def test_places_go_to_the_oldest_jobs() -> None:
    found = [candidate("c", 30), candidate("a", 10), candidate("b", 20)]
    assert names(Fairness(4).choose(found, 2)) == ["a", "b"]


def test_answer_that_has_begun_precedes_older_jobs() -> None:
    found = [candidate("new", 10), candidate("begun", 50, begun=True), candidate("older", 40, begun=True)]
    assert names(Fairness(4).choose(found, 2)) == ["older", "begun"]
    assert names(Fairness(4).choose(found, 1)) == ["older"]


def test_quiet_conversation_precedes_those_served_lately() -> None:
    queue = Fairness(4)
    for number in range(12):
        queue.begun(candidate(f"busy{number}", 1000), now=1000 + number)
        queue.ended(f"r-busy{number}")
    found = [candidate(f"busy{number}", 1020 + number) for number in range(12)] + [candidate("quiet", 1040)]
    assert names(queue.choose(found, 1)) == ["quiet"]
    # Among the busy ones, the one that was served first.
    assert names(queue.choose(found[:-1], 2)) == ["busy0", "busy1"]


def test_job_that_waited_long_precedes_a_quiet_conversation() -> None:
    queue = Fairness(4)
    queue.begun(candidate("busy", 999), now=1000)
    found = [candidate("busy", 1000), candidate("quiet", 1001 + MAX_ADVANTAGE_S)]
    assert names(queue.choose(found, 1)) == ["busy"]


def test_places_are_shared_among_subjects() -> None:
    found = [candidate(f"a{number}", 10 + number, subject="a") for number in range(6)]
    found += [candidate(f"b{number}", 20 + number, subject="b") for number in range(6)]
    chosen = names(Fairness(4).choose(found, 4))
    assert sorted(name[0] for name in chosen) == ["a", "a", "b", "b"]
    assert chosen[0] == "a0"


def test_subject_that_holds_places_yields_to_another() -> None:
    queue = Fairness(2)
    for each in range(2):
        queue.begun(candidate(f"held{each}", 5, subject="a"), now=5)
    found = [candidate("a", 10, subject="a"), candidate("b", 20, subject="b")]
    assert names(queue.choose(found, 1)) == ["b"]
    for each in range(2):
        queue.ended(f"r-held{each}")
    queue.ended("r-unknown")
    assert names(queue.choose(found, 1)) == ["a"]


def test_remembered_conversations_are_bounded() -> None:
    queue = Fairness(4)
    for number in range(fairness.MAX_REMEMBERED + 10):
        queue.begun(candidate(f"c{number}", 1), now=1)
        queue.ended(f"r-c{number}")
    assert len(queue._served_at) == fairness.MAX_REMEMBERED


JOBS = st.lists(
    st.tuples(st.integers(0, 500), st.sampled_from(["", "a", "b"]), st.booleans()),
    max_size=30,
    unique_by=lambda j: j[0],
)


@given(jobs=JOBS, limit=st.integers(0, 10), served=st.lists(st.integers(0, 500), max_size=20))
def test_every_place_is_given_and_none_twice(jobs: list[tuple[int, str, bool]], limit: int, served: list[int]) -> None:
    queue = Fairness(4)
    for at in served:
        queue.begun(candidate(f"c{at}", at, subject="a"), now=at)
    found = [candidate(f"c{at}", at, subject=subject, begun=begun) for at, subject, begun in jobs]
    chosen = queue.choose(found, limit)
    assert len(chosen) == len({each.job.id for each in chosen}) == min(limit, len(found))
    # No job is passed over by one that was queued much later.
    for each in found:
        if each not in chosen:
            assert all(
                other.begun or other.job.queued_at - each.job.queued_at <= 2 * MAX_ADVANTAGE_S for other in chosen
            )
