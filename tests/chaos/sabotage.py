"""Protections, each taken away in a child process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ALL: Final[dict[str, Callable[[], None]]] = {}
