"""What a worker sees of queued jobs: their names, ages and owners."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One response to generate; `id` is its entry in the job stream of the partition."""

    id: str
    response: str
    conversation: str

    @property
    def queued_at(self) -> float:
        """When it was queued, in seconds since 1970 by the store's clock."""
        return int(self.id.partition("-")[0]) / 1000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that a worker may take."""

    job: Job
    subject: str
    """The digest of the subject whose quota the response counts for; '' if it counts for none."""
    min_idle_ms: int | None
    """How long its silent owner must have been idle; None if the job waits."""
    begun: bool
    """Another worker had the job: viewers may see an unfinished answer."""
