"""The fleet as lines of text: what `tokenwire top` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.operations.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.operations.fleet import Fleet, Open, Process

GATEWAYS: Final = ("GATEWAY", "UP", "CPU", "MEMORY", "CONNECTED", "VIEWERS", "LAGGING", "LOGS", "IN/s", "OUT/s")
WORKERS: Final = ("WORKER", "UP", "CPU", "MEMORY", "RUNNING", "TEXT/s", "MODELS")
RESPONSES: Final = (
    *("RESPONSE", "STATE", "AGE", "TRY", "ENTRIES", "TEXT", "TEXT/s", "VIEWERS", "LAGGING", "LAG"),
    *("WORKER", "CONVERSATION"),
)
LEFT: Final = {"GATEWAY", "WORKER", "RESPONSE", "STATE", "MODELS", "CONVERSATION"}
"""Left-aligned columns."""

OPTIONAL: Final = ("CONVERSATION", "ENTRIES", "TEXT/s", "TRY", "LOGS", "MEMORY", "MODELS", "TEXT", "LAG", "WORKER")
"""Columns that a narrow terminal leaves out, in this order."""

MAX_NAME: Final = 24
"""Characters of a process name on a narrow terminal; its end tells processes apart."""


def lines(fleet: Fleet, clock: str, width: int, height: int) -> list[str]:
    """Return the lines that fit a terminal of `width` columns and `height` rows; `clock` is the time of day to show."""
    queue = fleet.queue
    waiting = f"{queue.waiting} waiting" + (f", the oldest {seconds(queue.lag)}" if queue.waiting else "")
    head = [
        f"Tokenwire {clock}",
        many(len(fleet.gateways), "gateway"),
        many(len(fleet.workers), "worker"),
        f"{queue.running} running",
        waiting,
        *([f"{queue.behind} blocked"] if queue.behind else []),
    ]
    shown = [
        *wrapped(head, width),
        "",
        *table(GATEWAYS, [_gateway(each) for each in fleet.gateways], width),
        "",
        *table(WORKERS, [_worker(each) for each in fleet.workers], width),
        "",
    ]
    space = max(1, height - len(shown) - 2)
    rows = fleet.responses[:space]
    shown += table(RESPONSES, [_response(each) for each in rows], width)
    if len(fleet.responses) > len(rows):
        shown.append(f"and {len(fleet.responses) - len(rows)} more")
    return [visible(line)[:width] for line in shown[:height]]


def wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Return parts as lines of at most `width` columns, where that is possible."""
    rows = [parts[0]]
    for part in parts[1:]:
        if len(rows[-1]) + 3 + len(part) <= width:
            rows[-1] += f"   {part}"
        else:
            rows.append(part)
    return rows


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a table with columns as wide as their cells; numbers are right-aligned.

    On a narrow terminal names are shortened first, then optional columns are left out.
    """
    shown = _table(heads, rows)
    if max(map(len, shown)) <= width:
        return shown
    cells = [
        [_shortened(cell) if head in LEFT else cell for head, cell in zip(heads, row, strict=True)] for row in rows
    ]
    for left_out in (None, *OPTIONAL):
        if left_out in heads:
            index = heads.index(str(left_out))
            heads = [*heads[:index], *heads[index + 1 :]]
            cells = [[*row[:index], *row[index + 1 :]] for row in cells]
        shown = _table(heads, cells)
        if max(map(len, shown)) <= width:
            break
    return shown


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [list(heads), *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(wide) if head in LEFT else cell.rjust(wide)
            for head, cell, wide in zip(heads, row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]


def _gateway(process: Process) -> list[str]:
    return [
        process.name + (" (draining)" if process.leaving else ""),
        seconds(process.age),
        f"{process.cpu:.0%}",
        size(process.memory),
        *(str(count or 0) for count in (process.connections, process.viewers, process.behind, process.open_logs)),
        f"{process.received or 0:.0f}",
        f"{process.delivered or 0:.0f}",
    ]


def _worker(process: Process) -> list[str]:
    return [
        process.name + (" (draining)" if process.leaving else ""),
        seconds(process.age),
        f"{process.cpu:.0%}",
        size(process.memory),
        f"{process.running or 0}/{process.concurrency or 0}",
        size(process.rate),
        "; ".join(process.models or ()),
    ]


def _response(row: Open) -> list[str]:
    return [
        row.response,
        row.state,
        seconds(row.age),
        str(row.attempt),
        "-" if row.entries is None else str(row.entries),
        size(row.size),
        size(row.rate),
        str(row.viewers),
        str(row.behind),
        str(row.lag),
        row.worker or "-",
        row.conversation,
    ]


def many(count: int, what: str) -> str:
    """Return a count with its noun, in the plural where needed."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def seconds(value: float | None) -> str:
    """Return a duration in at most two units."""
    if value is None:
        return "-"
    if value < 60:
        return f"{value:.1f}s"
    minutes, rest = divmod(int(value), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}" if hours < 48 else f"{hours // 24}d{hours % 24:02d}"


def size(value: float | None) -> str:
    """Return bytes in the largest unit."""
    if value is None:
        return "-"
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.1f}G"
