"""Joins a continuation to the text that it goes on from, where the model repeated the end of that text first."""

from __future__ import annotations

from typing import Final

LOOK_BACK: Final = 400
"""Characters of the old text in which a repetition may begin."""

SHORTEST: Final = 4
"""A repetition of fewer characters is taken for chance."""

INSTRUCTION: Final = (
    "Your answer above was cut off. Continue it exactly where it stops, in the same language and format. "
    "Do not repeat any of it, do not apologise, and do not mention that it was cut off."
)
"""What a provider is told behind the text so far. A message, because current models refuse a prefilled answer."""


class OverlapFilter:
    """Holds back the beginning of a continuation for as long as it may be a repetition."""

    def __init__(self, before: str) -> None:
        """`before` is the text that is continued."""
        self._end = before[-LOOK_BACK:]
        self._held = ""
        self._open = bool(before)

    def feed(self, text: str) -> str:
        """The part of the continuation so far that is certain to be new."""
        if not self._open:
            return text
        self._held = _joined(self._held + text)
        # While what is held also stands somewhere in the old text's end, it may yet turn out to be that very end. Half
        # a surrogate pair tells nothing before its other half is there.
        whole = self._held[:-1] if "\ud800" <= self._held[-1:] < "\udc00" else self._held
        if whole in self._end:
            return ""
        return self.close()

    def close(self) -> str:
        """The rest: nothing more will come, or what is held can not be a repetition any longer."""
        held, self._held, self._open = self._held, "", False
        for length in range(min(len(held), len(self._end)), SHORTEST - 1, -1):
            if self._end.endswith(held[:length]):
                return held[length:]
        return held


def _joined(text: str) -> str:
    """Join surrogate pairs; a half without the other stays."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
