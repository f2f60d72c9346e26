"""The result of one check of `tokenwire doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked subject. WARN: it works but should be changed. FAIL: it does not work."""

    mark: Literal["ok", "WARN", "FAIL"]
    subject: str
    text: str
