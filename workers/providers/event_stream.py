"""Server-sent events as bytes: a parser that is fed what the network gives and returns the data of complete events.

Source: WHATWG HTML, section 9.2 "Server-sent events", 9.2.5 for the grammar and 9.2.6 for what a line means.
"""

from __future__ import annotations

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LIMIT = 4 * 1024 * 1024
NEWLINE = 0x0A
RETURN = 0x0D


class EventTooLargeError(ValueError):
    """The sender goes on and on without completing an event."""


class EventStream:
    """One stream's parser; `limit` bounds, in bytes, what it holds back of an event that is not complete.

    The fields `id` and `retry` are ignored, because a provider's answer cannot be resumed, and so is `event`, because
    the data say of what type they are. An event that the stream ends within is dropped, as the standard says.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._data_size = 0
        self._at_start = True
        self._after_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes, split anywhere; return the data of the events they complete, oldest first.

        Data are not decoded; their lines are joined by a newline.
        Raises EventTooLargeError above the limit; the parser is of no use afterwards.
        """
        if self._after_return and chunk:
            self._after_return = False
            if chunk[0] == NEWLINE:
                chunk = chunk[1:]
        if b"\n" not in chunk and b"\r" not in chunk:
            # Kept apart from the path below, or a long line in small chunks would be copied once for each of them.
            self._rest += chunk
            self._check()
            return []
        if self._rest:
            chunk = bytes(self._rest + chunk)
            self._rest.clear()
        # bytes.splitlines ends a line at \n, \r and \r\n and, unlike str.splitlines, nowhere else: the standard's rule.
        lines = chunk.splitlines()
        last = chunk[-1]
        if last == RETURN:
            # A return ends its line at once, so that no event waits for the next one; a newline that follows it is the
            # second half of the same line end.
            self._after_return = True
        elif last != NEWLINE:
            self._rest += lines.pop()
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data: "):
                self._take(line[6:])
            elif line:
                field, _, value = line.partition(b":")
                if field == b"data":
                    self._take(value)
            elif self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data, self._data_size = [], 0
        if self._data or self._rest:
            self._check()
        return events

    def _take(self, value: bytes) -> None:
        self._data.append(value)
        # The line end counts too, or a sender of empty data lines would fill the memory at no cost.
        self._data_size += len(value) + 1

    def _check(self) -> None:
        if self._data_size + len(self._rest) > self._limit:
            raise EventTooLargeError(f"more than {self._limit} bytes of one event and no end")
