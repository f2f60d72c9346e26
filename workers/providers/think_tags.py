"""Separates reasoning between tags, such as `<think>`, from the answer after it.

Models without a reasoning parser in their server send both as text. Only a tag at the beginning of the answer counts: a
later one may be part of the answer, for example in code. A core module.
"""

from __future__ import annotations

import string
from typing import Final, Literal

NAMES: Final = ("think", "thinking", "thought", "reasoning")
OPENING: Final = tuple(f"<{name}>" for name in NAMES)

MAX_BLANK: Final = 100
"""Characters of white space before an opening tag: they are held back, because reasoning drops them."""

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
            lower = start[: max(map(len, OPENING))].translate(_LOWER)
            for tag in OPENING:
                if lower.startswith(tag):
                    self._closing = f"</{tag[1:]}"
                    return start[len(tag) :]
            if any(tag.startswith(lower) for tag in OPENING):
                self._held = text
                return ""
        self.over = True
        return text

    def _close(self, text: str, parts: list[Part]) -> str:
        """Read reasoning up to the closing tag; return what follows it."""
        lower = text.translate(_LOWER)
        end = lower.find(self._closing)
        if end >= 0:
            self._answers = True
            reasoning, rest = text[:end], text[end + len(self._closing) :]
        else:
            size = next(size for size in range(len(self._closing) - 1, -1, -1) if lower.endswith(self._closing[:size]))
            reasoning, rest = text[: len(text) - size], ""
            self._held = text[len(text) - size :]
        if reasoning:
            parts.append(("reasoning", reasoning))
        return rest
