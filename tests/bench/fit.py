"""Cost model: the CPU of a gateway as a sum of costs, fitted to measurements.

    CPU = publishes * c_in + frames * c_send + bytes * c_byte + connections * c_idle

per second. The coefficients minimize the squares of the relative errors and are not negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .result import fastest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .result import Result

COEFFICIENTS: Final = (
    ("c_in", "publishes_per_s", "us a publish"),
    ("c_send", "frames_per_s", "us a frame"),
    ("c_byte", "bytes_per_s", "us a byte"),
    ("c_idle", "viewers", "us a second and socket"),
)
MIN_POINTS: Final = 6
MAX_CORES: Final = 0.9
"""Busier gateways lag and coalesce; the model describes the cost of that, but not when it happens."""


@dataclass(frozen=True, slots=True)
class Model:
    """Coefficients in microseconds, and the errors of the model."""

    coefficients: tuple[float, ...]
    points: tuple[tuple[str, float, float], ...]
    """Name, measured cores and modelled cores of each mix."""

    @property
    def explained(self) -> float:
        """Return R² of the measured cores."""
        measured = [point[1] for point in self.points]
        mean = sum(measured) / len(measured)
        scatter = sum((value - mean) ** 2 for value in measured)
        return 1 - sum((point[1] - point[2]) ** 2 for point in self.points) / scatter if scatter else 1.0


def fit(results: Sequence[Result], contender: str = "tokenwire") -> Model | None:
    """Return the model of one contender; None if there are too few different mixes."""
    runs = [
        result
        for result in results
        if result.contender == contender
        and {name for _, name, _ in COEFFICIENTS} <= result.figures.keys()
        and result.figures.get("gateway_us")
        and result.figures["gateway_cores"] <= MAX_CORES
    ]
    best = fastest(results)
    clean = [result for result in runs if not result.marks(best)]
    if len({result.mix for result in clean}) >= MIN_POINTS:
        runs = clean
    elif len({result.mix for result in runs}) < MIN_POINTS:
        return None
    # Relative errors: 10 % weigh the same in every mix.
    measured = [1e6 * result.figures["gateway_cores"] for result in runs]
    table = [
        [result.figures[name] / cost for _, name, _ in COEFFICIENTS]
        for result, cost in zip(runs, measured, strict=True)
    ]
    used = list(range(len(COEFFICIENTS)))
    while True:
        solved = _least_squares([[row[column] for column in used] for row in table])
        if all(value >= 0 for value in solved):
            break
        # Remove the most negative coefficient; the others explain its part.
        used.remove(used[min(range(len(solved)), key=lambda index: solved[index])])
    coefficients = [0.0] * len(COEFFICIENTS)
    for column, value in zip(used, solved, strict=True):
        coefficients[column] = value
    points = [
        (
            result.mix,
            cost / 1e6,
            sum(coefficients[i] * result.figures[name] for i, (_, name, _) in enumerate(COEFFICIENTS)) / 1e6,
        )
        for result, cost in zip(runs, measured, strict=True)
    ]
    return Model(tuple(coefficients), tuple(points))


def _least_squares(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the x that minimizes the distance of each row times x from 1 (normal equations, at most 4 unknowns)."""
    size = len(rows[0])
    matrix = [
        [sum(row[i] * row[j] for row in rows) for j in range(size)] + [sum(row[i] for row in rows)] for i in range(size)
    ]
    for pivot in range(size):
        best = max(range(pivot, size), key=lambda index: abs(matrix[index][pivot]))
        matrix[pivot], matrix[best] = matrix[best], matrix[pivot]
        for other in range(size):
            if other != pivot and matrix[pivot][pivot]:
                factor = matrix[other][pivot] / matrix[pivot][pivot]
                matrix[other] = [a - factor * b for a, b in zip(matrix[other], matrix[pivot], strict=True)]
    return [matrix[i][size] / matrix[i][i] if matrix[i][i] else 0.0 for i in range(size)]
