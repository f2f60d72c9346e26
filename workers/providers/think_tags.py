"""Separates reasoning between tags, such as `<think>`, from the answer after it.

Models without a reasoning parser in their server send both as text. Only a tag at the beginning of the answer counts: a
later one may be part of the answer, for example in code. A core module.
"""

from __future__ import annotations

import string
from typing import Final, Literal

NAMES: Final = ("think", "thinking", "thought", "reasoning", "seed:think")
OTHERS: Final = {
    "[think]": "[/think]",
    "◁think▷": "◁/think▷",
    "<|begin_of_thought|>": "<|end_of_thought|>",
}
"""Opening and closing tags of Mistral, Kimi and models that are trained with Sky-T1's data."""

TAGS: Final = {f"<{name}>": f"</{name}>" for name in NAMES} | OTHERS
"""The closing tag of each opening one; both may have white space before the last bracket."""

MAX_BLANK: Final = 100
"""Characters of white space before an opening tag: they are held back, because reasoning drops them."""

MAX_SPACES: Final = 20
"""Characters of white space inside of a tag."""

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""Unlike `str.lower`, it keeps the number of characters."""

Part = tuple[Literal["text", "reasoning"], str]


class ThinkTags:
    """The state of one answer. `over`: all further text is part of the answer, and `feed` is not needed."""

    def __init__(self) -> None:
        self.over = False
        self._closing = ""
        """The tag that ends the reasoning; "" before the opening one."""
        self._held = ""
        """The end of the text so far, which may be the beginning of a tag."""
        self._answers = False
        """Whether the closing tag was read, and white space before the answer is dropped."""

    def feed(self, text: str) -> list[Part]:
        """Add a piece of the text, split anywhere; return its parts. Holds back only what may become a tag."""
        if self.over:
            return [("text", text)]
        parts: list[Part] = []
        text, self._held = self._held + text, ""
        if not self._closing:
            text = self._open(text)
        if self._closing and not self._answers:
            text = self._close(text, parts)
        if self._answers:
            text = text.lstrip()
            self.over = bool(text)
        if self.over and text:
            parts.append(("text", text))
        return parts

    def close(self) -> list[Part]:
        """Return what is held back, at the end of the answer."""
        held, self._held = self._held, ""
        return [("reasoning" if self._closing else "text", held)] if held else []

    def _open(self, text: str) -> str:
        """Read up to the opening tag; return the rest, which is text if there is none."""
        start = text.lstrip()
        if len(text) - len(start) <= MAX_BLANK:
            lower = start.translate(_LOWER)
            sizes = {closing: _match(lower, opening) for opening, closing in TAGS.items()}
            for closing, size in sizes.items():
                if size:
                    self._closing = closing
                    return start[size:]
            if None in sizes.values():
                self._held = text
                return ""
        self.over = True
        return text

    def _close(self, text: str, parts: list[Part]) -> str:
        """Read reasoning up to the closing tag; return what follows it."""
        lower = text.translate(_LOWER)
        place, size = 0, 0
        while (place := lower.find(self._closing[0], place)) >= 0:
            match _match(lower[place : place + len(self._closing) + MAX_SPACES], self._closing):
                case None:
                    reasoning, rest, self._held = text[:place], "", text[place:]
                    break
                case 0:
                    place += 1
                case size:
                    self._answers = True
                    reasoning, rest = text[:place], text[place + size :]
                    break
        else:
            reasoning, rest = text, ""
        if reasoning:
            parts.append(("reasoning", reasoning))
        return rest


def _match(text: str, tag: str) -> int | None:
    """Return the size of a tag at the beginning of a text, 0 if it does not begin with it; None if it may become it."""
    name, bracket = tag[:-1], tag[-1]
    if not text.startswith(name):
        return None if name.startswith(text) else 0
    rest = text[len(name) : len(name) + MAX_SPACES + 1]
    spaces = len(rest) - len(rest.lstrip())
    if rest[spaces : spaces + 1] == bracket:
        return len(name) + spaces + 1
    return None if spaces == len(rest) <= MAX_SPACES else 0
