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
from gateway.replica import UNKNOWN
from gateway.transports.event_stream import EventResponse, EventStream, StreamCursors

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


NAME = "r15" + "0" * 16


@pytest.mark.parametrize(
    ("text", "history", "responses"),
    [
        (None, None, {}),
        ("3-7", "3-7", {}),
        (f"3-7~{NAME}=1-1", "3-7", {NAME: "1-1"}),
        ("$", str(UNKNOWN), {}),
        ("3-7~" + NAME.upper() + "=1-1", str(UNKNOWN), {}),
        ("3-7" + f"~{NAME}=1-1" * 64, "3-7", {NAME: "1-1"}),
        ("3-7" + f"~{NAME}=1-1" * 65, str(UNKNOWN), {}),
    ],
)
def test_event_id_in_another_form_is_unknown(text: str | None, history: str | None, responses: dict[str, str]) -> None:
    cursors = StreamCursors.parse(text)
    assert cursors is not None
    assert (cursors.history, cursors.responses) == (history, responses)


# Partition 16, and a partition that is no number.
@pytest.mark.parametrize("partition", ["16", "zz"])
def test_event_id_with_a_name_of_no_response_is_refused(partition: str) -> None:
    assert StreamCursors.parse(f"3-7~r{partition}" + "0" * 16 + "=1-1") is None
