"""Fields of log events about an exception: its type and code locations, never its text."""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb
from typing import Final

MAX_FRAMES: Final = 20


def error_fields(error: BaseException) -> dict[str, str]:
    """Return `error`, the type, and `where`, the code locations from the raise outwards.

    The text of an exception may quote a user's text, so it is left out. Of an exception group, the first member counts.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno}:{frame.name}"
        for frame in reversed(extract_tb(error.__traceback__))
    ]
    return {"error": type(error).__name__, "where": " < ".join(frames[:MAX_FRAMES])}
