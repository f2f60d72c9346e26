"""Overlap filter: removes from a continuation what the model repeats of the text before it."""

from __future__ import annotations

from typing import Final

MAX_OVERLAP: Final = 4000
"""A repetition may start in this many last characters of the text before."""

MIN_OVERLAP: Final = 4
"""Characters; a shorter repetition is treated as coincidence, except of white space."""


class OverlapFilter:
    """Buffers the beginning of a continuation while it may be a repetition."""

    def __init__(self, before: str) -> None:
        """`before`: the text that is continued."""
        self._end = before[-MAX_OVERLAP:]
        self._buffer = ""
        self._open = bool(before)

    def feed(self, text: str) -> str:
        """Add a piece of the continuation; return the text that is certain to be new."""
        if not self._open:
            return text
        self._buffer = _joined(self._buffer + text)
        # Buffered text that occurs in the end of the old text may still become a repetition of it. A high surrogate is
        # not compared before its low surrogate arrives.
        whole = self._buffer[:-1] if "\ud800" <= self._buffer[-1:] < "\udc00" else self._buffer
        if whole in self._end:
            return ""
        return self.close()

    def close(self) -> str:
        """Return the buffered text without a repetition; later pieces pass unchanged."""
        buffered, self._buffer, self._open = self._buffer, "", False
        for length in range(min(len(buffered), len(self._end)), 0, -1):
            # White space at the end of a text is not sent to a model that continues it, so the model adds it again.
            if (length >= MIN_OVERLAP or buffered[:length].isspace()) and self._end.endswith(buffered[:length]):
                return buffered[length:]
        return buffered


def _joined(text: str) -> str:
    """Join surrogate pairs and keep lone surrogates."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
