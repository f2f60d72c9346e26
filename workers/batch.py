"""When small pieces become one append, and what is appended: decisions that never wait.

The first piece of an attempt is due at once, and so is one that comes after a silence. Otherwise pieces are gathered
until the next beat, so that the cost of an append is shared by the tokens of one moment. All answers of a worker share
the beats, and so the round trips that their appends make. Under load the beats come less often: then a moment holds
more tokens, and a token costs less.
"""

from __future__ import annotations

from io import StringIO
from typing import Final

from gateway.streams import log_entries

MAX_CHARACTERS: Final = 4096
"""An entry holds at most this many; escaped they are less than 25 kB."""

WIDEST: Final = 0.1
"""Seconds to which load may widen a window. Beyond, a person would see it."""

BUSY: Final = 0.6
IDLE: Final = 0.5
"""Shares of the time that a worker computes: above the one its window widens, below the other it narrows.

A step changes the share by less than they differ, so none leads from beyond one to beyond the other.
"""

_STEP: Final = 1.15
_SMALLEST: Final = 0.001

_HIGH: Final = range(0xD800, 0xDC00)


class Window:
    """For how long pieces are gathered: the beats of one worker, counted from 1, and the seconds between them."""

    def __init__(self, least: float) -> None:
        """`least`: seconds between beats where there is no load."""
        self._least = least
        self._most = max(least, WIDEST)
        self._beat = 0
        self.seconds = least
        self.over_at = float("-inf")
        """The time at which the present beat is over."""

    def beat(self, now: float) -> int:
        """The number of the beat at the time `now`, in seconds: a new one, if the last is over."""
        return self.begin(now) if now >= self.over_at else self._beat

    def begin(self, now: float) -> int:
        """Begin the next beat, even if the last is not quite over; return its number."""
        self._beat += 1
        self.over_at = now + self.seconds
        return self._beat

    def observe(self, busy: float) -> None:
        """Fit the window to the load: `busy` is the share of the last moment for which the worker computed."""
        if busy > BUSY:
            self.seconds = min(self._most, max(self.seconds, _SMALLEST) * _STEP)
        elif busy < IDLE:
            narrower = self.seconds / _STEP
            self.seconds = narrower if narrower > max(self._least, _SMALLEST) else self._least


class Batch:
    """The pieces of one attempt that are not appended yet."""

    def __init__(self, longest: int) -> None:
        """`longest`: bytes of text and reasoning that are taken."""
        self._longest = self._room = longest
        self._pieces: list[tuple[bytes, StringIO]] = []
        self._halves: dict[bytes, str] = {}
        self._taken_in = 0

    @property
    def size(self) -> int:
        """Bytes of text and reasoning that were taken."""
        return self._longest - max(self._room, 0)

    @property
    def full(self) -> bool:
        """Whether the answer is as long as it may be; what is added from now on is dropped."""
        return self._room <= 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to append."""
        return not self._pieces

    def add(self, kind: bytes, text: str) -> None:
        """Gather a piece of text or reasoning (`log_entries.TEXT`, `log_entries.REASONING`).

        A piece may end in the first half of a surrogate pair whose second half begins the next of its kind; any other
        lone surrogate becomes U+FFFD, because no UTF-8 exists for it (RFC 3629, section 3).
        """
        if self._halves:
            text = self._halves.pop(kind, "") + text
        try:
            data = text.encode()
        except UnicodeEncodeError:
            if ord(text[-1]) in _HIGH:
                text, self._halves[kind] = text[:-1], text[-1]
            text = _whole(text)
            data = text.encode()
        if len(data) > self._room:
            text = data[: max(self._room, 0)].decode(errors="ignore")
        self._room -= len(data)
        if not text:
            return
        if not self._pieces or self._pieces[-1][0] != kind:
            self._pieces.append((kind, StringIO()))
        # While the store is away a whole answer may gather here: that must not cost more by the piece.
        self._pieces[-1][1].write(text)

    def due(self, beat: int) -> bool:
        """Whether there is something to append in the beat of this number."""
        return bool(self._pieces) and beat != self._taken_in

    def take(self, beat: int, *, last: bool = False) -> list[bytes]:
        """The gathered pieces as entries, in the beat of this number. `last`: nothing will complete a half pair."""
        if last:
            for kind in list(self._halves):
                del self._halves[kind]
                self.add(kind, "\N{REPLACEMENT CHARACTER}")
        pieces, self._pieces = self._pieces, []
        self._taken_in = beat
        entries: list[bytes] = []
        for kind, gathered in pieces:
            text = gathered.getvalue()
            entries += [
                kind + log_entries.escape(text[start : start + MAX_CHARACTERS])
                for start in range(0, len(text), MAX_CHARACTERS)
            ]
        return entries


def _whole(text: str) -> str:
    """Join surrogate pairs, and replace surrogates that have no other half."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
