"""An event stream ends once, however its reader goes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from gateway.feed.feed import Feed
from gateway.frame_batch import FrameBatch
from gateway.frame_codec import HEARTBEAT_FRAME
from gateway.hub import Hub
from gateway.transports.event_stream import EventResponse, EventStream

if TYPE_CHECKING:
    from starlette.types import Message

FAR: float = 2**40
"""Seconds since 1970 that nobody lives to see."""


def stream() -> EventStream:
    nothing: Any = None
    return EventStream(Feed(nothing, Hub(), 0), None, FAR)


@pytest.mark.parametrize("version", ["2.3", "2.4"])
@pytest.mark.parametrize("given", [False, True])
async def test_whoever_has_gone_before_it_begins_leaves_nothing_behind(version: str, *, given: bool) -> None:
    ended: list[bool] = []
    events = stream()
    if given:
        events.send(FrameBatch((HEARTBEAT_FRAME,)))

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError

    response = EventResponse(events, lambda: ended.append(True))
    events.close_for_restart()
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": version}}
    async with asyncio.timeout(5):
        # What is raised differs, and concerns only the server.
        with suppress(Exception):
            await response(scope, receive, send)
    assert ended == [True]
