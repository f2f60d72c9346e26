"""The time to first token is measured for a bounded number of responses."""

from __future__ import annotations

from gateway.feed.latency import MAX_SUBMITTED, Latency
from gateway.metrics import FIRST_TOKEN
from gateway.response_replica import ResponseReplica


def measured() -> float:
    """Return how many times to first token were measured."""
    (metric,) = FIRST_TOKEN.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_count"))


def test_the_oldest_submission_is_not_measured_beyond_the_limit() -> None:
    latency = Latency()
    for number in range(MAX_SUBMITTED + 1):
        latency.response_submitted(f"r{number}", 0.0)
    before = measured()
    latency.flushed([ResponseReplica("r0")], 1.0)
    assert measured() == before
    latency.flushed([ResponseReplica("r1"), ResponseReplica(f"r{MAX_SUBMITTED}")], 1.0)
    assert measured() == before + 2
