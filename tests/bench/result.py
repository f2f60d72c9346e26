"""Result of a run: figures by name, and whether delivery was exact. No measuring and no printing here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_SLIP_MS: Final = 2.0
"""Maximum lateness of the publisher in milliseconds, 99th percentile."""

MAX_CPU_WAIT: Final = 0.05
"""Maximum share of the time for which the measured process waits for its CPU."""

MAX_LOAD_CORES: Final = 0.9
"""Maximum cores of the load generator; above, it may be the bottleneck."""

MIN_CANARY_RATIO: Final = 0.9
"""Minimum speed relative to the fastest canary; below, the machine was busy or throttled."""


@dataclass
class Result:
    """One run of a contender in a mix. The name of a figure ends with its unit:

    `_us` microseconds, `_ms` milliseconds, `_s` seconds, `_bytes`, `_cores`, `_per_s`; ratios and counts have no unit.
    """

    mix: str
    contender: str
    figures: dict[str, float] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    """Non-zero fault counts of the whole run: lost, duplicated, reordered, corrupted, missing at the end, etc."""
    problem: str = ""
    """The first fault, or the reason for missing figures."""
    round: int = 0

    @property
    def exact(self) -> bool:
        """Return whether every viewer received every token once and in order."""
        return not self.faults and bool(self.figures)

    def marks(self, fastest: float) -> list[str]:
        """Return what makes the figures doubtful. `fastest`: the best canary of all runs."""
        found = []
        if self.figures.get("slip_p99_ms", 0.0) > MAX_SLIP_MS:
            found.append("publisher late")
        if self.figures.get("waited", 0.0) > MAX_CPU_WAIT:
            found.append("waited for CPU")
        if self.figures.get("load_cores", 0.0) > MAX_LOAD_CORES:
            found.append("load generator busy")
        if self.figures.get("canary", fastest) < MIN_CANARY_RATIO * fastest:
            found.append("machine slow")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """A contender in a mix over all rounds: median, minimum and maximum of each figure."""

    mix: str
    contender: str
    figures: Mapping[str, tuple[float, float, float]]
    """Median, minimum and maximum of each figure; ratios within a round are named `<figure>/null`."""
    rounds: int
    marked: int
    """Rounds excluded because they are doubtful; if all rounds are doubtful, all are included."""
    exact: bool
    faults: frozenset[str]
    problem: str


def fastest(results: Iterable[Result]) -> float:
    """Return the best canary of all runs; 0 if there is none."""
    return max((result.figures.get("canary", 0.0) for result in results), default=0.0)


def summarise(results: Sequence[Result]) -> list[Summary]:
    """Return a summary for each contender in each mix, in order of first appearance."""
    best = fastest(results)
    floor = {
        (result.mix, result.round): result.figures["gateway_us"]
        for result in results
        if result.contender == "null" and result.figures.get("gateway_us")
    }
    summaries = []
    for mix, contender in dict.fromkeys((result.mix, result.contender) for result in results):
        runs = [result for result in results if (result.mix, result.contender) == (mix, contender)]
        measured = [result for result in runs if result.figures]
        clean = [result for result in measured if not result.marks(best)] or measured
        columns: dict[str, list[float]] = {}
        for result in clean:
            figures = dict(result.figures)
            if (own := figures.get("gateway_us")) is not None and (null_us := floor.get((mix, result.round))):
                # Ratio within a round, so that a temporary slowdown affects both runs.
                figures["gateway_us/null"] = own / null_us
            for name, value in figures.items():
                columns.setdefault(name, []).append(value)
        summaries.append(
            Summary(
                mix=mix,
                contender=contender,
                figures={name: (median(values), min(values), max(values)) for name, values in columns.items()},
                rounds=len(clean),
                marked=len(measured) - len(clean) if measured else 0,
                exact=all(result.exact for result in runs),
                faults=frozenset(name for result in runs for name in result.faults),
                problem=next((result.problem for result in runs if result.problem), ""),
            )
        )
    return summaries
