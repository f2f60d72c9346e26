"""Text without a visible character, which is no answer and no turn of a conversation. A core module."""

from __future__ import annotations

import unicodedata
from typing import Final

_UNSEEN: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
"""Unicode categories of control, format and white space characters; a zero width space is of format."""

_UNSEEN_LETTERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Fillers that Unicode counts as letters, symbols or marks."""


def is_blank(text: str) -> bool:
    """Tell whether no character of a text can be seen."""
    return text.isspace() or all(map(_is_unseen, text))


def _is_unseen(character: str) -> bool:
    return (
        unicodedata.category(character) in _UNSEEN
        or character in _UNSEEN_LETTERS
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
    )
