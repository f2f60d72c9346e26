"""Generates answers whose pieces carry marks, so that lost, duplicated and reordered text can be detected.

Each piece names the answer's key, the number of the provider call, and its index.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Final, Literal

FILLERS: Final = (
    " word",
    " “quoted”",
    '"',
    "\\",
    "\n",
    " é",
    " 😀",
    " 記録",
    "\u2028",
    "</script>",
    "\t",
    "",
    " &amp;",
    "\u0000",
)
"""Characters that expose errors of escaping, splitting and counting."""

MARK: Final = re.compile(r"⟦(\d+)\.([a-z0-9]+)\.(\d+)\.(\d+)⟧")
KEY: Final = re.compile(r"(\d+)\.[a-z0-9]+", re.ASCII)

Defect = Literal["lost", "duplicated", "reordered", "mixed", "corrupted"]


def piece(key: str, call: int, index: int) -> str:
    """Return piece `index` of provider call number `call` for `key`, which has the form `<pieces>.<name>`."""
    return f"⟦{key}.{call}.{index}⟧{FILLERS[(index * 7 + call) % len(FILLERS)]}"


@lru_cache(4096)
def pieces(key: str, call: int) -> tuple[str, ...]:
    """Return all pieces of an answer. The key contains their number."""
    return tuple(piece(key, call, index) for index in range(int(key.partition(".")[0])))


@lru_cache(4096)
def whole(key: str, call: int) -> str:
    """Return the complete text of an answer."""
    return "".join(pieces(key, call))


def count(text: str) -> int:
    """Return the number of pieces that start in a text."""
    return text.count("⟦")


def source(text: str) -> tuple[str, int] | None:
    """Return key and call of a text's first piece; None if the text does not start with a piece."""
    match = MARK.match(text)
    return (f"{match[1]}.{match[2]}", int(match[3])) if match else None


def defects(text: str) -> list[Defect]:
    """Return the defects of a text that must be a prefix of the answer of one call; empty if it is correct."""
    origin = source(text)
    if origin is None:
        return [] if not text else ["corrupted"]
    if whole(*origin).startswith(text):
        return []
    marks = [(f"{mark[1]}.{mark[2]}", int(mark[3]), int(mark[4])) for mark in MARK.finditer(text)]
    found: list[Defect] = []
    if len({mark[:2] for mark in marks}) > 1:
        found.append("mixed")
    for call in {mark[:2] for mark in marks}:
        numbers = [mark[2] for mark in marks if mark[:2] == call]
        if max(Counter(numbers).values()) > 1:
            found.append("duplicated")
        if set(numbers) != set(range(max(numbers) + 1)):
            found.append("lost")
        firsts = list(dict.fromkeys(numbers))
        if firsts != sorted(firsts):
            found.append("reordered")
    return list(dict.fromkeys(found)) or ["corrupted"]
