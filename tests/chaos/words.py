"""Texts that say themselves what is missing: each piece names its question, the provider's call, and its number."""

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
"""What goes wrong first where bytes are escaped, cut or counted."""

MARK: Final = re.compile(r"⟦(\d+)\.([a-z0-9]+)\.(\d+)\.(\d+)⟧")
KEY: Final = re.compile(r"(\d+)\.[a-z0-9]+", re.ASCII)

Fault = Literal["lost", "doubled", "reordered", "mixed", "garbled"]


def piece(key: str, call: int, index: int) -> str:
    """Piece `index` of what the provider's call number `call` answers to `key`, which is `<pieces>.<name>`."""
    return f"⟦{key}.{call}.{index}⟧{FILLERS[(index * 7 + call) % len(FILLERS)]}"


@lru_cache(4096)
def pieces(key: str, call: int) -> tuple[str, ...]:
    """All pieces of an answer; the key says how many."""
    return tuple(piece(key, call, index) for index in range(int(key.partition(".")[0])))


@lru_cache(4096)
def whole(key: str, call: int) -> str:
    """The text of an answer that nothing breaks off."""
    return "".join(pieces(key, call))


def count(text: str) -> int:
    """How many pieces begin in a text."""
    return text.count("⟦")


def source(text: str) -> tuple[str, int] | None:
    """The key and the call of a text's first piece; None where it does not begin with one."""
    match = MARK.match(text)
    return (f"{match[1]}.{match[2]}", int(match[3])) if match else None


def faults(text: str) -> list[Fault]:
    """What is wrong with a text that should be the beginning of one call's answer; nothing for one that is."""
    begun = source(text)
    if begun is None:
        return [] if not text else ["garbled"]
    if whole(*begun).startswith(text):
        return []
    marks = [(f"{mark[1]}.{mark[2]}", int(mark[3]), int(mark[4])) for mark in MARK.finditer(text)]
    found: list[Fault] = []
    if len({mark[:2] for mark in marks}) > 1:
        found.append("mixed")
    for call in {mark[:2] for mark in marks}:
        numbers = [mark[2] for mark in marks if mark[:2] == call]
        if max(Counter(numbers).values()) > 1:
            found.append("doubled")
        if set(numbers) != set(range(max(numbers) + 1)):
            found.append("lost")
        firsts = list(dict.fromkeys(numbers))
        if firsts != sorted(firsts):
            found.append("reordered")
    return list(dict.fromkeys(found)) or ["garbled"]
