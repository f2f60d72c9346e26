"""Fairness: which of the waiting jobs get the free places of a worker.

Jobs whose answer has begun come first. The others are ordered by age, shifted by at most `MAX_ADVANTAGE_S`: a job of a
conversation that this worker has not served lately counts as older, and one of a subject that uses many of its places
as younger. The shift is bounded, so no job waits behind newer ones forever.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.streams.queued_jobs import Candidate

MAX_ADVANTAGE_S: Final = 120.0
"""Seconds. Longer than a busy conversation usually waits for its next turn."""

MAX_REMEMBERED: Final = 10_000
"""Conversations whose last answer is remembered, the newest ones."""


class Fairness:
    """What one worker remembers of the answers that it has begun; times are in seconds of the store's clock."""

    def __init__(self, concurrency: int) -> None:
        """`concurrency`: the places of the worker."""
        self._concurrency = concurrency
        self._served_at: dict[str, float] = {}
        self._subjects: dict[str, str] = {}
        self._places: dict[str, int] = {}

    def choose(self, found: Iterable[Candidate], limit: int) -> list[Candidate]:
        """Return at most `limit` candidates, in the order in which they get places."""
        rest = sorted(found, key=lambda candidate: candidate.job.queued_at)
        chosen = [candidate for candidate in rest if candidate.begun][:limit]
        waiting: dict[str, list[tuple[float, int, Candidate]]] = {}
        for position, candidate in enumerate(rest):
            if not candidate.begun:
                waiting.setdefault(candidate.subject, []).append((self._key(candidate), position, candidate))
        first: list[tuple[float, int, str]] = []
        places = dict(self._places)

        def offer(subject: str) -> None:
            if queue := waiting[subject]:
                heappush(first, (queue[0][0] + self._share(subject, places), queue[0][1], subject))

        for subject, queue in waiting.items():
            heapify(queue)
            offer(subject)
        while first and len(chosen) < limit:
            _, _, subject = heappop(first)
            chosen.append(heappop(waiting[subject])[2])
            places[subject] = places.get(subject, 0) + 1
            offer(subject)
        return chosen

    def _key(self, candidate: Candidate) -> float:
        queued_at = candidate.job.queued_at
        served_at = self._served_at.get(candidate.job.conversation)
        idle_s = MAX_ADVANTAGE_S if served_at is None else min(MAX_ADVANTAGE_S, max(0.0, queued_at - served_at))
        return queued_at - idle_s

    def _share(self, subject: str, places: Mapping[str, int]) -> float:
        """Return the seconds by which the next job of a subject counts as younger."""
        return MAX_ADVANTAGE_S * min(1.0, places.get(subject, 0) / self._concurrency) if subject else 0.0

    def begun(self, candidate: Candidate, now: float) -> None:
        """Record that a job got a place."""
        job, subject = candidate.job, candidate.subject
        self.ended(job.response)
        self._served_at.pop(job.conversation, None)
        self._served_at[job.conversation] = now
        if len(self._served_at) > MAX_REMEMBERED:
            del self._served_at[next(iter(self._served_at))]
        self._subjects[job.response] = subject
        self._places[subject] = self._places.get(subject, 0) + 1

    def ended(self, response: str) -> None:
        """Record that a response has no place any more."""
        subject = self._subjects.pop(response, None)
        if subject is None:
            return
        self._places[subject] -= 1
        if not self._places[subject]:
            del self._places[subject]
