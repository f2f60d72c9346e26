"""Server-sent events (WHATWG HTML, section 9.2): the frames of the WebSocket, each with a cursor as its `id:`."""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import StreamingResponse

from gateway import frame_codec, wire
from gateway.frame_batch import FrameBatch
from gateway.replica import UNKNOWN
from gateway.streams import log_entries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

    from gateway.feed.feed import Feed
    from gateway.frame_codec import Frame

HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    # Asks nginx and those that follow it not to gather the stream into larger pieces.
    "x-accel-buffering": "no",
}
KEEP_ALIVE: Final = 15.0

COME_BACK_WITHIN: Final = 500
"""Milliseconds over which the readers of streams that end here spread; a browser left to itself waits for seconds."""

_PLACE: Final = re.compile(r"(\d+-\d+)((?:~r[0-9a-z]{18}=\d+-\d+){0,64})", re.ASCII)


class Shown(msgspec.Struct):
    """A response without an end, as a snapshot shows it."""

    response: str
    cursor: str


class Snapshot(msgspec.Struct):
    """Of a snapshot frame, what moves a place."""

    responses: list[Shown]


_SNAPSHOT: Final = msgspec.json.Decoder(Snapshot)


class Place:
    """Where a reader of a conversation's events is: its cursor there, and in each response without an end."""

    def __init__(self, turns: str | None, responses: dict[str, str]) -> None:
        self.turns = turns
        self.responses = responses

    @classmethod
    def parse(cls, text: str | None) -> Place:
        """Read a `Last-Event-ID`; one that this module never wrote is a place that can not be continued."""
        if text is None:
            return cls(None, {})
        match = _PLACE.fullmatch(text)
        if match is None:
            return cls(str(UNKNOWN), {})
        pairs = (pair.partition("=") for pair in match[2].split("~")[1:])
        return cls(match[1], {response: cursor for response, _, cursor in pairs})

    def move(self, frame: Frame) -> None:
        """Take account of a frame that was given."""
        if frame.response is not None and frame.cursor is not None:
            if frame.type == "end":
                self.responses.pop(frame.response, None)
            else:
                self.responses[frame.response] = frame.cursor
        elif frame.cursor is not None:
            self.turns = frame.cursor
            if frame.type == "snapshot":
                shown = _SNAPSHOT.decode(frame.body).responses
                self.responses.update((each.response, each.cursor) for each in shown)

    def __str__(self) -> str:
        return "~".join([self.turns or "", *(f"{name}={cursor}" for name, cursor in self.responses.items())])


class EventStream:
    """A viewer that is one HTTP response."""

    direct: Final = None

    def __init__(self, feed: Feed, place: Place | None, expires: float) -> None:
        """`place` for a conversation's events; None for those of one response, whose cursor is the id by itself.

        `expires`: seconds since 1970 at which the reader's token does.
        """
        self._feed = feed
        self._place = place
        self._expires = expires
        self._pending: list[Frame] = []
        self._wake = asyncio.Event()
        self._leaving = False

    def give(self, burst: FrameBatch) -> None:
        """See `gateway.room.Viewer`; it can take more when these are out."""
        self._pending += burst
        self._wake.set()
        self._feed.full(self)

    def send_reconnect_hint(self, within: float) -> None:
        """Tell the reader to go to another gateway within so many seconds."""
        self.give(FrameBatch((frame_codec.encode(wire.Moving(within=within)),)))

    def close_for_restart(self) -> None:
        """End the stream: this gateway is leaving, and the reader comes back with its last id."""
        self._leaving = True
        self._wake.set()

    async def events(self) -> AsyncIterator[bytes]:
        """The bytes of the stream, until the response ends, the token expires, or nobody reads."""
        while not self._leaving:
            try:
                async with asyncio.timeout(min(KEEP_ALIVE, max(0.0, self._expires - time.time()))):
                    await self._wake.wait()
            except TimeoutError:
                if time.time() >= self._expires:
                    return
                yield b":\n\n"
                continue
            self._wake.clear()
            frames, self._pending = self._pending, []
            if frames:
                yield b"".join(self._event(frame) for frame in frames)
            if self._place is None and any(frame.type == "end" for frame in frames):
                return
            self._feed.ready(self)
        # Chance is for spreading, and no secret.
        yield b"retry: %d\n\n" % random.randint(0, COME_BACK_WITHIN)  # noqa: S311

    def _event(self, frame: Frame) -> bytes:
        if self._place is None:
            cursor = frame.cursor
        else:
            self._place.move(frame)
            cursor = str(self._place) if self._place.turns else None
        head = b"id: %b\n" % cursor.encode() if cursor else b""
        return b"%bdata: %b\n\n" % (head, frame.body)


class EventResponse(StreamingResponse):
    """The HTTP response that an event stream is."""

    def __init__(self, stream: EventStream, over: Callable[[], None]) -> None:
        """`over` is called once, at the end of the response."""
        super().__init__(stream.events(), headers=HEADERS)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Not in the generator: of one whose reader has gone before it began nothing is ever carried out.
            self._over()


def cursor_of(text: str | None) -> log_entries.LogId | None:
    """The place of a reader of one response's events, from its `Last-Event-ID`."""
    return None if text is None else log_entries.parse_log_id(text) or UNKNOWN
