"""One browser on a WebSocket: its frames into a session, the hub's frames onto the wire."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway import metrics, wire
from gateway.requests import Failure, Stopped
from gateway.session import Carry, End, Say
from gateway.streams.store import StoreError
from gateway.wire import Close, Frame, Retry, Send, Stop, Unwatch, Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Message

    from gateway.feed import Feed
    from gateway.hub import Hub, Room
    from gateway.requests import Requests
    from gateway.session import Command, Session
    from gateway.streams.conversations import Accepted

logger = logging.getLogger(__name__)

MOST_WAITING: Final = 32
"""Requests of one client that wait to be carried out; it is told to slow down beyond that."""

WRITE_WITHIN: Final = 15.0
"""Seconds in which a client must take what was written, or it is let go."""


class Connection:
    """One socket, which is also a viewer of every conversation that it watches."""

    def __init__(self, socket: WebSocket, session: Session, hub: Hub, feed: Feed, requests: Requests) -> None:
        self._socket = socket
        self._session = session
        self._hub = hub
        self._feed = feed
        self._offered = requests
        self._rooms: dict[str, Room] = {}
        self._pending: list[Frame] = []
        self._wake = asyncio.Event()
        self._requests: asyncio.Queue[Watch | Unwatch | Send | Stop | Retry] = asyncio.Queue(MOST_WAITING)
        self._closing: End | None = None
        self._taken = asyncio.Event()
        self._taken.set()
        self._written = time.monotonic()

    async def run(self) -> None:
        """Serve the accepted socket until it closes."""
        tasks = [
            asyncio.create_task(self._receive()),
            asyncio.create_task(self._write()),
            asyncio.create_task(self._carry_out()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, (WebSocketDisconnect, OSError)):
                    # The frames without the message: that may hold what somebody wrote.
                    where = "".join(traceback.format_tb(error.__traceback__))
                    logger.error("a connection failed (%s)\n%s", type(error).__name__, where)
                    with suppress(WebSocketDisconnect):
                        await self._close(End(Close.RESTART, "the gateway failed"))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._hub.leave(self)

    def give(self, frames: Sequence[Frame]) -> bool:
        """See `hub.Viewer`: what comes next waits in the log until these are written."""
        self._pending += frames
        self._wake.set()
        return False

    def tick(self, now: float, wall: float) -> None:
        """What the passing of time demands: closing, or a heartbeat. `now` monotonic, `wall` seconds since 1970."""
        self._obey(self._session.tick(now, wall))
        if not self._pending and now - self._written >= wire.HEARTBEAT - 1:
            self._say(wire.HEARTBEAT_FRAME)

    def move(self, within: float) -> None:
        """Tell the client that this gateway is leaving."""
        self._say(wire.moving(within))

    def _say(self, frame: Frame) -> None:
        self._pending.append(frame)
        self._wake.set()

    async def _receive(self) -> None:
        while self._closing is None:
            message = await self._socket.receive()
            if message["type"] != "websocket.receive":
                return
            data = message.get("text")
            known = self._session.identity
            self._obey(
                self._session.receive(data if data is not None else message["bytes"], time.monotonic(), time.time())
            )
            if self._session.identity is not known:
                self._shut()

    def _obey(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Say(frame):
                    self._say(frame)
                case End() as end:
                    self._closing = end
                    self._wake.set()
                case Carry(request):
                    try:
                        self._requests.put_nowait(request)
                    except asyncio.QueueFull:
                        self._say(
                            wire.error("too_fast", "Too many requests at once.", getattr(request, "key", None), 1.0)
                        )

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            frames, self._pending = self._pending, []
            try:
                async with asyncio.timeout(WRITE_WITHIN):
                    for frame in frames:
                        await self._send({"type": "websocket.send", "text": frame.body.decode()})
                    if self._closing is not None:
                        await self._close(self._closing)
                        return
            except TimeoutError:
                logger.info("a client took nothing for %d seconds and is let go", WRITE_WITHIN)
                return
            self._written = time.monotonic()
            if not self._pending:
                self._taken.set()
            # Everything that came in the meantime, in one piece.
            self._feed.ready(self)

    async def _close(self, end: End) -> None:
        metrics.REFUSED.labels(str(int(end.code))).inc()
        await self._send({"type": "websocket.close", "code": int(end.code), "reason": end.reason})

    async def _send(self, message: Message) -> None:
        """Send as ASGI does; raise WebSocketDisconnect when the socket is closed, whoever closed it."""
        try:
            await self._socket.send(message)
        except RuntimeError:
            # Starlette and uvicorn say so when a close frame is out already, for a frame too big or not UTF-8.
            raise WebSocketDisconnect(Close.NOT_THE_PROTOCOL) from None

    async def _carry_out(self) -> None:
        while True:
            request = await self._requests.get()
            match request:
                case Watch():
                    await self._watch(request)
                case Unwatch(conversation):
                    self._unwatch(conversation)
                case Send(key=key):
                    self._answer(key, await self._offered.send(request))
                case Retry(key=key):
                    assert self._session.identity is not None
                    self._answer(key, await self._offered.retry(request, self._session.identity))
                case Stop():
                    assert self._session.identity is not None
                    result = await self._offered.stop(request, self._session.identity)
                    if isinstance(result, Stopped):
                        self._say(wire.status(result.response, "ended"))
                    else:
                        self._say(wire.error(result.code, result.message, None, result.retry_after))

    def _answer(self, key: str, result: Accepted | Failure) -> None:
        if isinstance(result, Failure):
            self._say(wire.error(result.code, result.message, key, result.retry_after))
        else:
            self._say(wire.accepted(key, result.message, result.response, duplicate=result.duplicate))

    async def _watch(self, request: Watch) -> None:
        name = request.conversation
        if name not in self._rooms and len(self._rooms) >= wire.MOST_WATCHED:
            self._say(wire.error("too_many", f"At most {wire.MOST_WATCHED} conversations on one socket."))
            return
        # Who asks for one snapshot after another, and takes none, has one of them waiting and not all.
        await self._taken.wait()
        named = dict(request.responses)
        try:
            room = await self._feed.enter(name, named)
        except StoreError:
            self._say(wire.error("unavailable", "The conversation can not be read for a moment.", retry_after=2.0))
            return
        self._unwatch(name)
        identity = self._session.identity
        if identity is None or not identity.opens(name):
            # A fresh token came while the logs were read.
            self._say(wire.error("forbidden", "This conversation is not open to you."))
            return
        frames, position = room.begin(request.after, named)
        self._taken.clear()
        self._pending += frames
        self._wake.set()
        self._rooms[name] = room
        self._hub.join(room, self, position)
        self._feed.schedule()

    def _shut(self) -> None:
        """Follow no longer what a fresh token does not open."""
        identity = self._session.identity
        assert identity is not None
        for name in [name for name in self._rooms if not identity.opens(name)]:
            self._unwatch(name)
            self._say(wire.error("forbidden", f"The conversation {name} is not open to you any more."))

    def _unwatch(self, name: str) -> None:
        room = self._rooms.pop(name, None)
        if room is not None:
            self._hub.leave(self, room)
