"""Durations as text with a unit. A core module."""

from __future__ import annotations

import re
from typing import Any, Final

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", re.ASCII)


def parse_duration(value: Any) -> Any:
    """Return the seconds of a text such as `30d`, `1.5h` or `250ms`; return anything else unchanged."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) * _UNITS_S[match[2]] if match else value


def format_duration(seconds: float) -> str:
    """Return seconds in the largest unit that gives a whole number: `30d`, `90s`, `25ms`."""
    for unit, size in reversed(_UNITS_S.items()):
        count = seconds / size
        if seconds and abs(count - round(count)) < 1e-9 and round(count):
            return f"{round(count)}{unit}"
    return f"{seconds:g}s"
