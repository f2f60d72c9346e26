"""Parser for server-sent events: bytes of the network in, data of complete events out.

Source: WHATWG HTML, section 9.2 "Server-sent events", 9.2.5 for the grammar and 9.2.6 for the interpretation.
"""

from __future__ import annotations

import json

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 4 * 1024 * 1024
NEWLINE = 0x0A
RETURN = 0x0D
MAX_TEXT_BYTES = 4_096
"""Of a body that is neither an event stream nor JSON: enough to tell what failed."""

DONE = b"[DONE]"
ENDS = frozenset({b"done", b"end", b"message_stop", b"complete", b"completed", b"finish", b"finished", b"stream_end"})
"""Names of events that say that the answer ended."""

NO_DATA = frozenset({b"", b"{}", b"null", b'""', DONE})
_IGNORED = (b"", b"id", b"retry")
JSON_STARTS = b"{["
JSON_ENDS = b"}]"


class EventTooLargeError(ValueError):
    """An incomplete event exceeds the limit."""


class EventStream:
    """The parser of one stream; `limit` bounds the buffer of an incomplete event, in bytes.

    The fields `id` and `retry` are ignored, because a provider's answer cannot be resumed, and most names of events,
    because the data contain their type. The data of an event named `error` become an object with a field of this name;
    an event whose name says that the answer ended becomes the marker `[DONE]`, unless it has data. Not in the
    standard: a line of data that is a JSON object or the marker is an event by itself, and so are lines of JSON without
    a field. A body that is a JSON document instead of an event stream is one event, which `close` returns, as it does
    with an incomplete one.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._data_size = 0
        self._at_start = True
        self._after_return = False
        self._named_error = False
        self._end_name = b""
        self._detected = False
        self.text = b""
        """The beginning of a body that is neither an event stream nor JSON, such as a page."""
        self.bare = False
        """Whether the body begins with JSON."""
        self._document = False
        """Whether the body is one JSON document, which `close` returns."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add bytes, split anywhere; return the data of the events that they complete, oldest first.

        Data are not decoded; their lines are joined by a newline. Raises EventTooLargeError above the limit; then the
        parser must not be used again.
        """
        if self._after_return and chunk:
            self._after_return = False
            if chunk[0] == NEWLINE:
                chunk = chunk[1:]
        if self._document or (b"\n" not in chunk and b"\r" not in chunk):
            # Separate from the path below: it would copy a long line again for each of its chunks.
            self._rest += chunk
            self._check()
            return []
        if self._rest:
            chunk = bytes(self._rest + chunk)
            self._rest.clear()
        # As the standard, bytes.splitlines ends a line only at \n, \r and \r\n, unlike str.splitlines.
        lines = chunk.splitlines()
        last = chunk[-1]
        if last == RETURN:
            # A return ends its line immediately, so that the event is not delayed. A newline after it is part of the
            # same line end.
            self._after_return = True
        elif last != NEWLINE:
            self._rest += lines.pop()
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
        if not self._detected and self._is_document(lines):
            self._rest[:] = chunk.removeprefix(BYTE_ORDER_MARK)
            self._check()
            return []
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data: "):
                self._add_data(line[6:], events)
            elif line:
                field, _, value = line.partition(b":")
                if field == b"data":
                    self._add_data(value, events)
                elif field == b"event":
                    name = value.strip().lower()
                    self._named_error = name == b"error"
                    self._end_name = name if name in ENDS else b""
                elif line[0] in JSON_STARTS:
                    # Servers that fail in mid-stream write the error without a field.
                    events.append(line)
                elif field not in _IGNORED:
                    self._add_text(line)
            elif self._data:
                self._end_event(events)
            else:
                if self._end_name:
                    # In the standard, an event without data is none.
                    events.append(DONE)
                self._named_error, self._end_name = False, b""
        if self._data or self._rest:
            self._check()
        return events

    def close(self) -> list[bytes]:
        """Return the data of the event that the end of the stream left incomplete, if any; it may be cut off."""
        rest = bytes(self._rest).removeprefix(BYTE_ORDER_MARK)
        self._rest.clear()
        events: list[bytes] = []
        if rest.startswith(b"data:"):
            self._add_data(rest[5:].removeprefix(b" "), events)
        elif rest.lstrip()[:1] in (b"{", b"["):
            events.append(rest)
            self.bare = self.bare or not self._detected
        elif rest:
            self._add_text(rest)
        # A name alone says nothing: its data may be what was cut off.
        self._end_name = b""
        # An error whose line was cut off says nothing.
        if self._data and not (self._named_error and rest and not rest.endswith(b"}")):
            self._end_event(events)
        return events

    def _is_document(self, lines: list[bytes]) -> bool:
        """Tell whether the body is a JSON document of several lines, which begins with an open bracket."""
        first = next((stripped for line in lines if (stripped := line.strip())), b"")
        self._detected = bool(first)
        self.bare = first[:1] in (b"{", b"[")
        self._document = bool(first) and first[0] in JSON_STARTS and first[-1] not in JSON_ENDS
        return self._document

    def _end_event(self, events: list[bytes]) -> None:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data, self._data_size = [], 0
        if self._end_name and data.strip() in NO_DATA:
            data = DONE
        events.append(_as_error(data) if self._named_error else data)
        self._named_error, self._end_name = False, b""

    def _add_data(self, value: bytes, events: list[bytes]) -> None:
        if value[:1] == b"{" and value[-1:] == b"}" and not self._named_error:
            # An object is complete at the end of its line. Some servers send no empty line after it, nor after fillers.
            if self._data and self._data[0].lstrip()[:1] not in (b"{", b"["):
                self._end_event(events)
            if not self._data:
                ended = self._end_name != b"" and value in NO_DATA
                events.append(DONE if ended else value)
                if not self._end_name.startswith(b"done"):
                    self._end_name = b""
                return
        elif value.strip() == DONE and not self._data and not self._named_error:
            # Servers that leave the stream open may send no empty line either.
            events.append(DONE)
            return
        self._data.append(value)
        # The line end counts too: otherwise empty data lines would grow the buffer without limit.
        self._data_size += len(value) + 1

    def _add_text(self, line: bytes) -> None:
        if len(self.text) < MAX_TEXT_BYTES:
            self.text = (self.text + line + b"\n")[:MAX_TEXT_BYTES]

    def _check(self) -> None:
        if self._data_size + len(self._rest) > self._limit:
            raise EventTooLargeError(f"more than {self._limit} bytes in one incomplete event")


def _as_error(data: bytes) -> bytes:
    text = data.strip().removeprefix(b"data:").strip()
    if text in (b"", b"{}", b"null"):
        return b'{"type": "error"}'
    return b'{"error": %b}' % (text if text[:1] == b"{" else json.dumps(text.decode("utf-8", "replace")).encode())
