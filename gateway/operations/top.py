"""The fleet as lines of text: what `tokenwire top` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.operations.fleet import Fleet, Open, Process

GATEWAYS: Final = ("GATEWAY", "UP", "CPU", "MEMORY", "CONNECTED", "VIEWERS", "BEHIND", "LOGS", "IN/s", "OUT/s")
WORKERS: Final = ("WORKER", "UP", "CPU", "MEMORY", "RUNNING", "TEXT/s", "MODELS")
RESPONSES: Final = (
    *("RESPONSE", "STATE", "AGE", "TRY", "ENTRIES", "TEXT", "TEXT/s", "VIEWERS", "BEHIND", "LAG"),
    *("WORKER", "CONVERSATION"),
)
LEFT: Final = {"GATEWAY", "WORKER", "RESPONSE", "STATE", "MODELS", "CONVERSATION"}


def lines(fleet: Fleet, clock: str, width: int, height: int) -> list[str]:
    """What fits on a terminal of so many columns and rows; `clock` is the time as it is to be shown."""
    queue = fleet.queue
    waiting = f"{queue.waiting} waiting" + (f", the oldest {seconds(queue.lag)}" if queue.waiting else "")
    head = [
        f"Tokenwire {clock}",
        many(len(fleet.gateways), "gateway"),
        many(len(fleet.workers), "worker"),
        f"{queue.running} running",
        waiting,
        *([f"{queue.behind} behind another"] if queue.behind else []),
    ]
    shown = [
        "   ".join(head),
        "",
        *table(GATEWAYS, [_gateway(each) for each in fleet.gateways]),
        "",
        *table(WORKERS, [_worker(each) for each in fleet.workers]),
        "",
    ]
    room = max(1, height - len(shown) - 2)
    rows = fleet.responses[:room]
    shown += table(RESPONSES, [_response(each) for each in rows])
    if len(fleet.responses) > len(rows):
        shown.append(f"and {len(fleet.responses) - len(rows)} more")
    return [line[:width] for line in shown[:height]]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as what is in them; numbers at the right."""
    cells = [list(heads), *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(width) if head in LEFT else cell.rjust(width)
            for head, cell, width in zip(heads, row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]


def _gateway(process: Process) -> list[str]:
    return [
        process.name + (" (leaving)" if process.leaving else ""),
        seconds(process.age),
        f"{process.cpu:.0%}",
        size(process.memory),
        *(str(count or 0) for count in (process.connections, process.viewers, process.behind, process.open_logs)),
        f"{process.received or 0:.0f}",
        f"{process.delivered or 0:.0f}",
    ]


def _worker(process: Process) -> list[str]:
    return [
        process.name + (" (leaving)" if process.leaving else ""),
        seconds(process.age),
        f"{process.cpu:.0%}",
        size(process.memory),
        f"{process.running or 0}/{process.concurrency or 0}",
        size(process.rate),
        " ".join(process.models or ()),
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
    """A count of things."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def seconds(value: float | None) -> str:
    """A duration, as short as it can be read."""
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
    """Bytes, as short as they can be read."""
    if value is None:
        return "-"
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}"
        value /= 1000
    return f"{value:.1f}G"
