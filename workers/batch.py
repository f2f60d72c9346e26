"""Batching (coalescing of tokens): when small pieces become one append, and what is appended.

The first piece of an attempt is due immediately, and so is a piece after a silence. Other pieces are coalesced until
the next tick, so the tokens of one interval share the cost of an append. All answers of a worker share the ticks, and
with them the round trips of their appends. Load widens the interval: an append then carries more tokens, and a token
costs less.
"""

from __future__ import annotations

from io import StringIO
from typing import Final

from gateway.streams import log_entries

MAX_CHARACTERS: Final = 4096
"""Of one entry; escaped they are less than 25 kB."""

MAX_INTERVAL_S: Final = 0.1
"""Seconds to which load may widen the interval: users notice longer ones."""

BUSY_SHARE: Final = 0.6
IDLE_SHARE: Final = 0.5
"""Shares of CPU time: above the first the interval widens, below the second it narrows.

One step changes the share by less than their difference, so the interval does not oscillate.
"""

_STEP: Final = 1.15
_MIN_INTERVAL_S: Final = 0.001

_HIGH_SURROGATES: Final = range(0xD800, 0xDC00)


class BatchingInterval:
    """The ticks of one worker, numbered from 1, and the seconds between them."""

    def __init__(self, min_s: float) -> None:
        """`min_s`: seconds between ticks without load."""
        self._min_s = min_s
        self._max_s = max(min_s, MAX_INTERVAL_S)
        self._tick = 0
        self.seconds = min_s
        self.ends_at = float("-inf")
        """When the current tick ends."""

    def tick_at(self, now: float) -> int:
        """Return the number of the tick at `now` (seconds); start the next one if the current has ended."""
        return self.start_tick(now) if now >= self.ends_at else self._tick

    def start_tick(self, now: float) -> int:
        """Start the next tick, even if the current one has not quite ended; return its number."""
        self._tick += 1
        self.ends_at = now + self.seconds
        return self._tick

    def adapt(self, cpu_share: float) -> None:
        """Adapt the interval to the load: `cpu_share` is the recent share of time in which the worker computed."""
        if cpu_share > BUSY_SHARE:
            self.seconds = min(self._max_s, max(self.seconds, _MIN_INTERVAL_S) * _STEP)
        elif cpu_share < IDLE_SHARE:
            narrower = self.seconds / _STEP
            self.seconds = narrower if narrower > max(self._min_s, _MIN_INTERVAL_S) else self._min_s


class Batch:
    """The pieces of one attempt that are not appended yet."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` of text and reasoning are accepted."""
        self._max_bytes = self._remaining_bytes = max_bytes
        self._pieces: list[tuple[bytes, StringIO]] = []
        self._high_surrogates: dict[bytes, str] = {}
        self._last_tick = 0

    @property
    def size(self) -> int:
        """Bytes of text and reasoning that were accepted."""
        return self._max_bytes - max(self._remaining_bytes, 0)

    @property
    def full(self) -> bool:
        """Whether the answer has its maximum length; further pieces are dropped."""
        return self._remaining_bytes <= 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to append."""
        return not self._pieces

    def add(self, kind: bytes, text: str) -> None:
        """Add a piece of text or reasoning (`log_entries.TEXT`, `log_entries.REASONING`).

        A piece may end with a high surrogate whose low surrogate starts the next piece of its kind. Any other lone
        surrogate becomes U+FFFD, because UTF-8 cannot encode it (RFC 3629, section 3).
        """
        if self._high_surrogates:
            text = self._high_surrogates.pop(kind, "") + text
        try:
            data = text.encode()
        except UnicodeEncodeError:
            if ord(text[-1]) in _HIGH_SURROGATES:
                text, self._high_surrogates[kind] = text[:-1], text[-1]
            text = _repair_surrogates(text)
            data = text.encode()
        if len(data) > self._remaining_bytes:
            text = data[: max(self._remaining_bytes, 0)].decode(errors="ignore")
        self._remaining_bytes -= len(data)
        if not text:
            return
        if not self._pieces or self._pieces[-1][0] != kind:
            self._pieces.append((kind, StringIO()))
        # A whole answer may accumulate while the store is unavailable; StringIO keeps the cost per piece constant.
        self._pieces[-1][1].write(text)

    def drop_half_character(self) -> None:
        """Drop a high surrogate whose low surrogate will not come: other text follows."""
        self._high_surrogates.clear()

    def due(self, tick: int) -> bool:
        """Return whether there is something to append in this tick."""
        return bool(self._pieces) and tick != self._last_tick

    def take(self, tick: int, *, last: bool = False) -> list[bytes]:
        """Remove and return all pieces as entries, in this tick. `last`: an incomplete surrogate pair is replaced."""
        if last:
            for kind in list(self._high_surrogates):
                del self._high_surrogates[kind]
                self.add(kind, "\N{REPLACEMENT CHARACTER}")
        pieces, self._pieces = self._pieces, []
        self._last_tick = tick
        entries: list[bytes] = []
        for kind, joined in pieces:
            text = joined.getvalue()
            entries += [
                kind + log_entries.escape(text[start : start + MAX_CHARACTERS])
                for start in range(0, len(text), MAX_CHARACTERS)
            ]
        return entries


def _repair_surrogates(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
