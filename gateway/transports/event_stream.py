"""Server-sent events (WHATWG HTML, section 9.2): the frames of the WebSocket, with the viewer's cursors as `id:`."""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response

from gateway import frame_codec, wire
from gateway.frame_batch import FrameBatch
from gateway.replica import UNKNOWN
from gateway.streams import keys, log_entries
from gateway.transports.client_transport import CONNECTION
from gateway.write_progress import UnreadData, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from gateway.feed.feed import Feed
    from gateway.frame_codec import Frame
    from gateway.transports.client_transport import ClientTransport

HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    # nginx and compatible proxies must not buffer the stream.
    "x-accel-buffering": "no",
}
KEEP_ALIVE_S: Final = 15.0
"""Interval of comment lines, which keep proxies from closing an idle stream."""

RECONNECT_WITHIN_MS: Final = 500
"""Clients of a stream that ends for a shutdown reconnect within this time; a browser's default is seconds."""

_CURSORS: Final = re.compile(r"(\d+-\d+)((?:~r[0-9a-z]{18}=\d+-\d+){0,64})", re.ASCII)
"""The form of an event id; `keys.is_response` decides whether a name in it is one."""


class OpenResponse(msgspec.Struct):
    """The fields of an open response in a snapshot that move a cursor."""

    response: str
    cursor: str


class Snapshot(msgspec.Struct):
    """The fields of a snapshot frame that move a cursor."""

    responses: list[OpenResponse]


_SNAPSHOT: Final = msgspec.json.Decoder(Snapshot)


class StreamCursors:
    """The cursors of one client of a conversation's events: in the history, and in each response without an end."""

    def __init__(self, history: str | None, responses: dict[str, str]) -> None:
        self.history = history
        self.responses = responses

    @classmethod
    def parse(cls, text: str | None) -> StreamCursors | None:
        """Parse a `Last-Event-ID`; return None if a name in it is not the id of a response.

        Text in another form becomes a cursor that cannot be resumed.
        """
        if text is None:
            return cls(None, {})
        match = _CURSORS.fullmatch(text)
        if match is None:
            return cls(str(UNKNOWN), {})
        pairs = (pair.partition("=") for pair in match[2].split("~")[1:])
        responses = {response: cursor for response, _, cursor in pairs}
        if not all(keys.is_response(response) for response in responses):
            return None
        return cls(match[1], responses)

    def advance(self, frame: Frame) -> None:
        """Move the cursors past a frame that is sent."""
        if frame.response is not None and frame.cursor is not None:
            if frame.type == "end":
                self.responses.pop(frame.response, None)
            else:
                self.responses[frame.response] = frame.cursor
        elif frame.cursor is not None:
            self.history = frame.cursor
            if frame.type == "snapshot":
                shown = _SNAPSHOT.decode(frame.body).responses
                self.responses.update((each.response, each.cursor) for each in shown)

    def __str__(self) -> str:
        return "~".join([self.history or "", *(f"{name}={cursor}" for name, cursor in self.responses.items())])


class EventStream:
    """A viewer that is one HTTP response."""

    direct_write: Final = None

    def __init__(self, feed: Feed, cursors: StreamCursors | None, expires: float) -> None:
        """`cursors`: for the events of a conversation; None for those of one response, whose id is its cursor.

        `expires`: when the client's token expires, in seconds since 1970.
        """
        self._feed = feed
        self._cursors = cursors
        self._expires = expires
        self._pending: list[Frame] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._hinted = False
        self._disconnected = False
        self._sent = False
        """Whether frames were returned: what they hold is written when the next ones are asked for."""
        self.complete = False
        """Whether the stream has ended with the end of its response. Any other end must not look like one."""

    def send(self, batch: FrameBatch) -> None:
        """Send frames; see `gateway.room.Viewer`. Writing is paused until they are sent (backpressure)."""
        self._pending += batch
        self._wake.set()
        self._feed.pause(self)

    def send_reconnect_hint(self, within: float) -> None:
        """Ask the client to reconnect within so many seconds (graceful shutdown)."""
        self.send(FrameBatch((frame_codec.encode(wire.Moving(within=within)),)))

    def close_for_restart(self) -> None:
        """End the stream at the end of the graceful shutdown; the client reconnects with its last id."""
        self._closing = True
        self._wake.set()

    def disconnected(self) -> None:
        """End the stream: the client has disconnected."""
        self._disconnected = True
        self._wake.set()

    def end_watch(self, conversation: str) -> None:
        """End the stream; see `gateway.watches.Watcher`. It does not end cleanly, so the client connects again."""
        self.disconnected()

    async def next(self) -> bytes | None:
        """Return what to write next; None at the end, see `complete`. Safe to cancel."""
        while not self._disconnected and not self.complete:
            if self._closing:
                if self._hinted:
                    return None
                self._hinted = True
                # Spreads the reconnects; not a secret.
                return b"retry: %d\n\n" % random.randint(0, RECONNECT_WITHIN_MS)  # noqa: S311
            if self._sent:
                self._sent = False
                self._feed.resume(self)
            try:
                async with asyncio.timeout(min(KEEP_ALIVE_S, max(0.0, self._expires - time.time()))):
                    await self._wake.wait()
            except TimeoutError:
                return None if time.time() >= self._expires else b":\n\n"
            self._wake.clear()
            frames, self._pending = self._pending, []
            self._sent = True
            if frames:
                self.complete = self._cursors is None and any(frame.type == "end" for frame in frames)
                return b"".join([self._event(frame) for frame in frames])
        return None

    def _event(self, frame: Frame) -> bytes:
        if self._cursors is None:
            cursor = frame.cursor
        else:
            self._cursors.advance(frame)
            cursor = str(self._cursors) if self._cursors.history else None
        head = b"id: %b\n" % cursor.encode() if cursor else b""
        return b"%bdata: %b\n\n" % (head, frame.body)


class EventResponse(Response):
    """The HTTP response of an event stream.

    Starlette's streaming response leaves a reference cycle with everything that the stream holds when a client
    disconnects: a snapshot would be kept until the next garbage collection.
    """

    def __init__(self, stream: EventStream, ended: Callable[[], None]) -> None:
        """`ended` is called once, at the end of the response."""
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._stream = stream
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; see the ASGI specification. Safe to cancel.

        A clean end of the body means the end of the answer to many clients, so a stream that ends before it is cut off,
        where the server gives access to the connection.
        """
        stream = self._stream
        connection: ClientTransport | None = scope.get("extensions", {}).get(CONNECTION)
        clock = asyncio.get_running_loop().time
        check_at, unread = clock() + KEEP_ALIVE_S, UnreadData()
        watch = asyncio.create_task(_wait_for_disconnect(receive, stream))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while (body := await stream.next()) is not None:
                if connection is not None and clock() >= check_at:
                    check_at = clock() + KEEP_ALIVE_S
                    stalled = unread.stalled(connection.unsent, connection.acknowledged, clock())
                    if stalled or unreachable(connection.silence):
                        connection.abort()
                        return
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if stream.complete or connection is None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                connection.close()
                await watch
        except OSError:
            # From ASGI 2.4 on a server may raise it when the client has disconnected.
            pass
        finally:
            watch.cancel()
            self._ended()


async def _wait_for_disconnect(receive: Receive, stream: EventStream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.disconnected()


def parse_response_cursor(text: str | None) -> log_entries.LogId | None:
    """Return the cursor in the `Last-Event-ID` of one response's events; None without the header."""
    return None if text is None else log_entries.parse_log_id(text) or UNKNOWN
