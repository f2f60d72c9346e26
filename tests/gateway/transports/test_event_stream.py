"""An event stream is released once, however its client disconnects."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway import frame_codec, wire
from gateway.feed.feed import Feed
from gateway.frame_batch import FrameBatch
from gateway.frame_codec import HEARTBEAT_FRAME
from gateway.hub import Hub
from gateway.replica import UNKNOWN
from gateway.transports import event_stream
from gateway.transports.client_transport import CONNECTION
from gateway.transports.event_stream import EventResponse, EventStream, StreamCursors
from gateway.write_progress import SILENT_WITHIN_S

if TYPE_CHECKING:
    from starlette.types import Message

    from gateway.frame_codec import Frame


def stream() -> EventStream:
    store: Any = None
    return EventStream(Feed(store, Hub(), 0), None, math.inf)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("pending", [False, True])
async def test_stream_ends_when_client_disconnects_before_it_starts(*, raises: bool, pending: bool) -> None:
    """From ASGI 2.4 on a server may raise an OSError; others ignore what is sent."""
    ended: list[bool] = []
    events = stream()
    if pending:
        events.send(FrameBatch((HEARTBEAT_FRAME,)))

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and raises:
            raise OSError

    response = EventResponse(events, lambda: ended.append(True))
    async with asyncio.timeout(60):
        await response({"type": "http"}, receive, send)
    assert ended == [True]


class Recorded:
    """A client of an event stream, and its connection, that record what happens."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.closed = asyncio.Event()
        self.silence = 0.0
        self.unsent = self.acknowledged = 0

    def abort(self) -> None:
        self.closed.set()

    def close(self) -> None:
        self.closed.set()

    async def receive(self) -> Message:
        await self.closed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("expires", [math.inf, 0.0], ids=["restart", "token-expired"])
async def test_stream_that_ends_before_its_answer_is_cut_off(expires: float) -> None:
    """A clean end of the body means the end of the answer to many clients."""
    client = Recorded()
    store: Any = None
    events = EventStream(Feed(store, Hub(), 0), None, expires)
    if expires:
        events.close_for_restart()
    async with asyncio.timeout(60):
        await EventResponse(events, lambda: None)(
            {"type": "http", "extensions": {CONNECTION: client}}, client.receive, client.send
        )
    assert client.closed.is_set()
    assert [message.get("more_body") for message in client.sent[1:]] == [True] * (expires > 0)


@pytest.mark.parametrize("silence", [0.0, SILENT_WITHIN_S], ids=["acknowledges", "unreachable"])
async def test_stream_of_a_client_that_acknowledges_nothing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, silence: float
) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.0)
    client, ended = Recorded(), list[bool]()
    client.silence = silence
    events = stream()
    async with asyncio.timeout(60):
        serving = asyncio.create_task(
            EventResponse(events, lambda: ended.append(True))(
                {"type": "http", "extensions": {CONNECTION: client}}, client.receive, client.send
            )
        )
        if silence:
            await serving
        else:
            while len(client.sent) < 10:
                await asyncio.sleep(0)
            client.close()
            await serving
    assert client.closed.is_set()
    assert (len(client.sent) == 1) is bool(silence)
    assert ended == [True]


def head(frame: Frame) -> bytes:
    return b"id: %b\n" % frame.cursor.encode() if frame.cursor else b""


async def test_stream_that_ends_with_its_answer_ends_cleanly_in_one_write() -> None:
    client = Recorded()
    events = stream()
    frames = [
        frame_codec.encode(wire.Delta(response=NAME, cursor="1-2", text=msgspec.Raw(b'"all"'))),
        frame_codec.encode(wire.End(conversation="c", response=NAME, cursor="1-3", reason="complete")),
    ]
    events.send(FrameBatch(tuple(frames)))
    async with asyncio.timeout(60):
        await EventResponse(events, lambda: None)(
            {"type": "http", "extensions": {CONNECTION: client}}, client.receive, client.send
        )
    assert not client.closed.is_set()
    bodies = [message["body"] for message in client.sent[1:]]
    assert bodies == [b"".join(b"%bdata: %b\n\n" % (head(frame), frame.body) for frame in frames), b""]
    assert client.sent[-1]["more_body"] is False


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
