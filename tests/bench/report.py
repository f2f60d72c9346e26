"""Renders results as Markdown tables, for the terminal and for README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .fit import COEFFICIENTS, fit
from .result import summarise
from .targets import assessments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .mixes import Mix
    from .result import Result, Summary

HEADINGS: Final[Mapping[str, tuple[str, str]]] = {
    "gateway_us": ("gateway us/token", ".2f"),
    "gateway_us/null": ("x null", ".2f"),
    "gateway_cores": ("cores", ".2f"),
    "redis_us": ("redis us/published", ".1f"),
    "worker_us": ("worker us/published", ".1f"),
    "worker_cores": ("worker cores", ".2f"),
    "tokens_per_s": ("tokens/s", ",.0f"),
    "tokens_per_frame": ("tokens/frame", ".1f"),
    "delay_p50_ms": ("p50 ms", ".3g"),
    "delay_p99_ms": ("p99 ms", ".3g"),
    "delay_p999_ms": ("p99.9 ms", ".3g"),
    "delay_max_ms": ("max ms", ".3g"),
    "load_cores": ("load cores", ".2f"),
}
"""Column heading and number format of common figures; other figures use their names."""


def _heading(figure: str) -> str:
    return HEADINGS[figure][0] if figure in HEADINGS else figure.replace("_", " ")


def _written(figure: str, value: float) -> str:
    return f"{value:{HEADINGS[figure][1]}}" if figure in HEADINGS else f"{value:,.4g}"


def rows(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table with aligned columns; the first row is the header."""
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    for number, row in enumerate(table):
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        yield f"| {' | '.join(cells)} |"
        if number == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def short(result: Result, columns: Sequence[str], spent: float, best: float) -> str:
    """Return a one-line summary of a run."""
    shown = [
        f"{_heading(figure)} {_written(figure, result.figures[figure])}"
        for figure in columns
        if figure in result.figures
    ]
    exact = "exact" if result.exact else f"NOT EXACT {result.faults or ''} {result.problem}"
    return f"{result.mix:<12} {result.contender:<15} {spent:5.1f} s  {'  '.join([*shown, exact, *result.marks(best)])}"


def tables(results: Sequence[Result], mixes: Mapping[str, Mix]) -> Iterator[str]:
    """Yield a table for each mix, with its contenders as rows."""
    summaries = sorted(summarise(results), key=_order)
    for name in dict.fromkeys(result.mix for result in results if result.mix in mixes):
        yield ""
        yield f"**{name}**: {mixes[name].title}"
        yield ""
        yield from _mix([each for each in summaries if each.mix == name], mixes[name].columns)


def _order(summary: Summary) -> tuple[bool, bool, str]:
    # Order: null server, product, peers.
    return summary.contender != "null", not summary.contender.startswith("tokenwire"), summary.contender


def _mix(summaries: Sequence[Summary], columns: Sequence[str]) -> Iterator[str]:
    known = [figure for figure in columns if any(figure in each.figures for each in summaries)]
    table = [["", *map(_heading, known), "rounds", "exact"]]
    for each in summaries:
        cells = [_cell(each, figure) for figure in known]
        kept = f"{each.rounds}{f' of {each.rounds + each.marked}' if each.marked else ''}"
        table.append([each.contender, *cells, kept, _exact(each)])
    yield from rows(table)


def _exact(summary: Summary) -> str:
    if summary.exact:
        return "yes"
    if summary.faults == {"missing"}:
        return "not all received in time"
    return f"NO: {summary.problem[:80]}"


def _cell(summary: Summary, figure: str) -> str:
    value = summary.figures.get(figure)
    if value is None:
        return "-"
    middle, minimum, maximum = (_written(figure, each) for each in value)
    return (
        f"{middle} ({minimum}-{maximum})"
        if figure in ("gateway_us", "gateway_us/null") and summary.rounds > 1
        else middle
    )


def targets(results: Sequence[Result]) -> Iterator[str]:
    """Yield the table of targets for the mixes that were run."""
    table = [["mix", "measure", "required", "goal", "measured", "met"]]
    for assessment in assessments(summarise(results)):
        target, value = assessment.target, assessment.value
        if value is None and all(result.mix != target.mix for result in results):
            continue
        sign = ">=" if target.minimum else "<="
        unit = f" {target.unit}" if target.unit else ""
        shown = "-" if value is None else f"{value:,.4g}{unit}"
        table.append(
            [
                target.mix,
                target.label,
                f"{sign} {target.required:,g}{unit}",
                f"{target.goal:,g}{unit}",
                shown,
                assessment.met,
            ]
        )
    yield from rows(table)


def model(results: Sequence[Result]) -> Iterator[str]:
    """Yield the cost model if there are enough different mixes."""
    fitted = fit(results)
    if fitted is None:
        return
    yield ""
    yield f"**Cost model** of the gateway, R2 {fitted.explained:.3f}:"
    yield ""
    table = [["", "us", "for"]]
    table += [
        [name, f"{value:.4g}", unit.removeprefix("us ")]
        for (name, _, unit), value in zip(COEFFICIENTS, fitted.coefficients, strict=True)
    ]
    yield from rows(table)
    yield ""
    table = [["mix", "cores", "modelled", "off by"]]
    for mix in dict.fromkeys(point[0] for point in fitted.points):
        points = [(cores, modelled) for name, cores, modelled in fitted.points if name == mix]
        measured, modelled = (sum(column) / len(points) for column in zip(*points, strict=True))
        table.append([mix, f"{measured:.3f}", f"{modelled:.3f}", f"{100 * (modelled / measured - 1):+.0f} %"])
    yield from rows(table)


def describe(machine: Mapping[str, Any]) -> str:
    """Return a one-line description of the machine."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())
