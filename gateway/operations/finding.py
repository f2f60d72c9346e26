"""What the doctor has to say of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. WARN works but should be changed; FAIL does not work."""

    mark: Literal["ok", "WARN", "FAIL"]
    subject: str
    text: str
