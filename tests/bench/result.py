"""What a run came to: figures by name, and whether it was exact. No measuring here, and no printing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MOST_SLIP: Final = 2.0
"""Milliseconds at the 99th percentile by which the publisher may be late."""

MOST_WAITED: Final = 0.05
"""Share of the time for which the measured process may be kept from its CPU by others."""

MOST_LOAD: Final = 0.9
"""Cores that the load generator may use: beyond it, it may be what is slow."""

LEAST_SPEED: Final = 0.9
"""Of the fastest canary: below it the machine was busy with something else, or slowed down."""


@dataclass
class Result:
    """One run of one contender in one mix. A figure's name ends in its unit where it has one:

    `_us` microseconds, `_ms` milliseconds, `_s` seconds, `_bytes`, `_cores`, `_per_s`; ratios and counts have none.
    """

    mix: str
    contender: str
    figures: dict[str, float] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    """Over the whole run: what was lost, doubled, reordered, corrupted, missing at the end and so on; no zeros."""
    problem: str = ""
    """The first fault, or why there are no figures."""
    round: int = 0

    @property
    def exact(self) -> bool:
        """Whether every viewer was given every token once and in order."""
        return not self.faults and bool(self.figures)

    def marks(self, fastest: float) -> list[str]:
        """What makes its figures doubtful; `fastest` is the best canary of all runs."""
        found = []
        if self.figures.get("slip_p99_ms", 0.0) > MOST_SLIP:
            found.append("publisher late")
        if self.figures.get("waited", 0.0) > MOST_WAITED:
            found.append("CPU taken away")
        if self.figures.get("load_cores", 0.0) > MOST_LOAD:
            found.append("load generator busy")
        if self.figures.get("canary", fastest) < LEAST_SPEED * fastest:
            found.append("machine slow")
        return found

    def as_json(self) -> dict[str, Any]:
        """For `json.dump`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """One contender in one mix over all rounds: medians of figures, with least and greatest."""

    mix: str
    contender: str
    figures: Mapping[str, tuple[float, float, float]]
    """Each figure's median, least and greatest; ratios of a round are `<figure>/null`."""
    rounds: int
    marked: int
    """Rounds that were left out because something made them doubtful; all are in, where all were."""
    exact: bool
    faults: frozenset[str]
    problem: str


def fastest(results: Iterable[Result]) -> float:
    """The best canary of all runs; 0 where there is none."""
    return max((result.figures.get("canary", 0.0) for result in results), default=0.0)


def summarise(results: Sequence[Result]) -> list[Summary]:
    """A summary for each contender in each mix, in the order in which they first come."""
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
            if (own := figures.get("gateway_us")) is not None and (least := floor.get((mix, result.round))):
                # Of the same round, so that what slows the machine for a while slows both.
                figures["gateway_us/null"] = own / least
            for name, value in figures.items():
                columns.setdefault(name, []).append(value)
        summaries.append(
            Summary(
                mix,
                contender,
                {name: (median(values), min(values), max(values)) for name, values in columns.items()},
                len(clean),
                len(measured) - len(clean) if measured else 0,
                all(result.exact for result in runs),
                frozenset(name for result in runs for name in result.faults),
                next((result.problem for result in runs if result.problem), ""),
            )
        )
    return summaries
