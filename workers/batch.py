"""When small pieces become one append, and what is appended: a decision that never waits.

The first piece of an attempt is due at once. After it, pieces are gathered for a short window, so that the cost of an
append is shared by the tokens of one moment. A slow store widens the window by itself: what comes meanwhile is one
append too.
"""

from __future__ import annotations

from typing import Final

from gateway.streams import events

MOST_CHARACTERS: Final = 4096
"""An entry holds at most this many; escaped they are less than 25 kB."""

_HIGH: Final = range(0xD800, 0xDC00)


class Batch:
    """The pieces of one attempt that are not appended yet."""

    def __init__(self, window: float, longest: int) -> None:
        """`window`: seconds for which pieces are gathered. `longest`: bytes of text and reasoning that are taken."""
        self._window = window
        self._room = longest
        self._pieces: list[tuple[bytes, str]] = []
        self._halves: dict[bytes, str] = {}
        self._taken_at: float | None = None
        self._since: float | None = None

    @property
    def full(self) -> bool:
        """Whether the answer is as long as it may be; what is added from now on is dropped."""
        return self._room <= 0

    def add(self, kind: bytes, text: str, now: float) -> None:
        """Gather a piece of text or reasoning (`events.TEXT`, `events.REASONING`) at the time `now`, in seconds.

        A piece may end in the first half of a surrogate pair whose second half begins the next of its kind; any other
        lone surrogate becomes U+FFFD, because no UTF-8 exists for it (RFC 3629, section 3).
        """
        text = self._halves.pop(kind, "") + text
        if text and ord(text[-1]) in _HIGH:
            text, self._halves[kind] = text[:-1], text[-1]
        text = _whole(text)
        size = len(text.encode())
        if size > self._room:
            text = text.encode()[: max(self._room, 0)].decode(errors="ignore")
        self._room -= size
        if not text:
            return
        if self._pieces and self._pieces[-1][0] == kind:
            self._pieces[-1] = (kind, self._pieces[-1][1] + text)
        else:
            self._pieces.append((kind, text))
        if self._since is None:
            self._since = now

    def due(self) -> float | None:
        """The time at which the pieces are to be appended; None while there are none."""
        if self._since is None:
            return None
        if self._taken_at is None:
            return self._since
        return max(self._since, self._taken_at + self._window)

    def take(self, now: float, *, last: bool = False) -> list[bytes]:
        """The gathered pieces as entries. `last`: nothing will complete a half pair any more."""
        if last:
            for kind in list(self._halves):
                del self._halves[kind]
                self.add(kind, "\N{REPLACEMENT CHARACTER}", now)
        pieces, self._pieces = self._pieces, []
        self._since, self._taken_at = None, now
        return [
            kind + events.escape(text[start : start + MOST_CHARACTERS])
            for kind, text in pieces
            for start in range(0, len(text), MOST_CHARACTERS)
        ]


def _whole(text: str) -> str:
    """Join surrogate pairs, and replace surrogates that have no other half."""
    if not any(0xD800 <= ord(character) < 0xE000 for character in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
