"""Fields of log events about an exception: its type and code locations, never its text."""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb
from typing import Final

MAX_FRAMES: Final = 20
MAX_MEMBERS: Final = 5
"""Of an exception group."""


def error_fields(error: BaseException) -> dict[str, str]:
    """Return `error`, the type, and `where`, the code locations from the raise outwards.

    The text of an exception may quote a user's text, so it is left out. Of an exception group, each member counts.
    """
    members = _members(error)[:MAX_MEMBERS]
    places = filter(None, (_where(member) for member in members))
    return {"error": ", ".join(type(member).__name__ for member in members), "where": " | ".join(places)}


def _members(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [member for each in error.exceptions for member in _members(each)]


def _where(error: BaseException) -> str:
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno}:{frame.name}"
        for frame in reversed(extract_tb(error.__traceback__))
    ]
    return " < ".join(frames[:MAX_FRAMES])
