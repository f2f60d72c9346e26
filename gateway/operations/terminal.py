"""Text of users and generators in an operator's terminal.

A core module.
"""

from __future__ import annotations


def visible(text: str) -> str:
    """Return text with every character escaped that is not printable: C0 and C1 controls, bidirectional controls.

    A terminal would execute or reorder them (ECMA-48; Unicode Technical Report 36, section 2.5).
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
