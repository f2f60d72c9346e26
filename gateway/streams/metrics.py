"""The Prometheus registry of a process, and the metrics of the store."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

REGISTRY: Final = CollectorRegistry()
"""Not the default registry: metrics of an operator's generator must not collide with these."""

disable_created_metrics()  # type: ignore[no-untyped-call]
ProcessCollector(registry=REGISTRY)


class Histogram(Collector):
    """A histogram without labels that costs a fifth of the library's to observe; for events that occur 1000 times a
    second. Not thread-safe.
    """

    def __init__(self, name: str, documentation: str, bounds: Iterable[float]) -> None:
        """`bounds`: the upper bounds of the buckets, ascending; `+Inf` is added."""
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, value: float) -> None:
        """Record one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the samples, see `Collector.collect`."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets, self._sum)
        return [family]


BUILD: Final = Gauge("tokenwire_build_info", "1, and the version that runs.", ["version"], registry=REGISTRY)
ROUND_TRIPS: Final = Histogram(
    "tokenwire_store_round_trip_seconds",
    "Round trips of scripts to the store, from the first byte sent to the last reply.",
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
STORE_ERRORS: Final = Counter(
    "tokenwire_store_errors",
    "Calls that the store failed: unavailable (it was tried again), full.",
    ["kind"],
    registry=REGISTRY,
)
STORE_UNAVAILABLE: Final = STORE_ERRORS.labels("unavailable")
STORE_FULL: Final = STORE_ERRORS.labels("full")
SKIPPED: Final = Counter(
    "tokenwire_skipped_entries",
    "Entries of the store that this process could not read and skipped.",
    registry=REGISTRY,
)
REFUSALS: Final = Counter(
    "tokenwire_refused_requests", "Requests refused before their route, by reason.", ["reason"], registry=REGISTRY
)
EVICTED: Final = Counter(
    "tokenwire_evicted_connections",
    "Silent connections closed to make room for newer ones.",
    registry=REGISTRY,
)
