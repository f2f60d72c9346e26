"""An event stream is released once, however its client disconnects."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import ClientDisconnect

from gateway.feed.feed import Feed
from gateway.frame_batch import FrameBatch
from gateway.frame_codec import HEARTBEAT_FRAME
from gateway.hub import Hub
from gateway.transports.event_stream import EventResponse, EventStream

if TYPE_CHECKING:
    from starlette.types import Message


def stream() -> EventStream:
    store: Any = None
    return EventStream(Feed(store, Hub(), 0), None, math.inf)


# Starlette raises the server's error; from ASGI 2.4 on it raises ClientDisconnect.
@pytest.mark.parametrize(("version", "error"), [("2.3", OSError), ("2.4", ClientDisconnect)])
@pytest.mark.parametrize("pending", [False, True])
async def test_stream_ends_when_client_disconnects_before_it_starts(
    version: str, error: type[Exception], *, pending: bool
) -> None:
    ended: list[bool] = []
    events = stream()
    if pending:
        events.send(FrameBatch((HEARTBEAT_FRAME,)))

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError

    response = EventResponse(events, lambda: ended.append(True))
    events.close_for_restart()
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": version}}
    async with asyncio.timeout(60):
        with pytest.raises(error):
            await response(scope, receive, send)
    assert ended == [True]
