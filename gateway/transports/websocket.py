"""One browser on a WebSocket: its frames into a session, the hub's frames onto the wire."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from gateway import frame_codec, metrics, wire
from gateway.frame_batch import FrameBatch
from gateway.session import Carry, End, Say
from gateway.streams.store.errors import StoreError
from gateway.submissions import Failure, Stopped
from gateway.wire import Close, Retry, Send, Stop, Unwatch, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.feed.feed import Feed
    from gateway.frame_codec import Frame
    from gateway.hub import Hub
    from gateway.room import Room, Write
    from gateway.session import Command, Session
    from gateway.streams.history_log import Accepted
    from gateway.submissions import Submissions
    from gateway.timer_wheel import TimerWheel

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 32
"""Requests of one client that wait to be carried out; it is told to slow down beyond that."""

WRITE_WITHIN: Final = 15.0
"""Seconds in which a client must take what was written, or it is let go."""

HEARTBEAT_AFTER: Final = wire.HEARTBEAT_S - 1.0
"""Seconds between two heartbeats. They come whatever else does: to look would cost more than they do."""


class Socket(Protocol):
    """An open WebSocket, whoever serves it; it tells a `Connection` what happens to it."""

    @property
    def direct(self) -> Write | None:
        """Writes packets of bursts as `write` does; None where frames have to be written by themselves."""

    def write(self, burst: FrameBatch) -> None:
        """Write frames whole and in order; calls `Connection.filled` when the client takes no more."""

    def close(self, code: int, reason: str) -> None:
        """Close with the closing handshake, once what was written is out."""

    def abort(self) -> None:
        """Close at once; what was not taken is lost."""


class Connection:
    """One socket, which is also a viewer of every conversation that it watches.

    Everything happens within the call that brings it; a task runs only while a request waits for the store.
    """

    __slots__ = (
        "__weakref__",
        "_beats_at",
        "_closed",
        "_drained",
        "_feed",
        "_full_since",
        "_gone",
        "_hub",
        "_offered",
        "_requests",
        "_rooms",
        "_session",
        "_socket",
        "_task",
        "_wheel",
        "direct",
    )

    def __init__(
        self,
        socket: Socket,
        session: Session,
        hub: Hub,
        feed: Feed,
        requests: Submissions,
        wheel: TimerWheel[Connection],
        gone: Callable[[Connection], None],
    ) -> None:
        """`socket` is open; `wheel` says when `tick` is called next; `gone` is called once, when it is closed."""
        self._socket = socket
        self.direct = socket.direct
        """See `gateway.room.Viewer`."""
        self._session = session
        self._hub = hub
        self._feed = feed
        self._offered = requests
        self._wheel = wheel
        self._gone = gone
        self._rooms: dict[str, Room] = {}
        self._requests: deque[Watch | Unwatch | Send | Stop | Retry] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._drained: asyncio.Event | None = None
        """Set when the client takes more again; None while it does."""
        self._full_since = 0.0
        self._beats_at = wheel.now + HEARTBEAT_AFTER
        self._tick_at(wheel.now, time.time())

    def receive(self, data: str | bytes) -> None:
        """Take a frame of the client."""
        if self._closed:
            return
        known = self._session.identity
        now, wall = time.monotonic(), time.time()
        try:
            self._obey(self._session.receive(data, now, wall))
            if self._session.identity is not known:
                self._shut()
                self._tick_at(now, wall)
        except Exception as error:
            self._fail(error)

    def filled(self) -> None:
        """The client takes no more until `drained`."""
        if self._closed:
            return
        if self._drained is None:
            self._drained = asyncio.Event()
            self._full_since = self._wheel.now
            self._tick_at(self._wheel.now, time.time())
        self._feed.full(self)

    def drained(self) -> None:
        """The client takes more again."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None
        self._feed.ready(self)

    def closing(self) -> None:
        """The socket is being closed, by whomever: nothing may be written any more."""
        self._leave()

    def lost(self) -> None:
        """The socket is closed, by whomever."""
        self._leave()
        if self._task is not None:
            self._task.cancel()
        self._gone(self)

    def give(self, burst: FrameBatch) -> None:
        """See `gateway.room.Viewer`."""
        self._socket.write(burst)

    def tick(self, now: float, wall: float) -> None:
        """What the passing of time demands: closing, or a heartbeat. `now` monotonic, `wall` seconds since 1970."""
        self._obey(self._session.tick(now, wall))
        if self._closed:
            return
        if self._drained is not None:
            if now - self._full_since >= WRITE_WITHIN:
                logger.info("a client took nothing for %d seconds and is let go", WRITE_WITHIN)
                self._socket.abort()
        elif now >= self._beats_at:
            self._beats_at = now + HEARTBEAT_AFTER
            self._say(frame_codec.HEARTBEAT_FRAME)
        self._tick_at(now, wall)

    def _tick_at(self, now: float, wall: float) -> None:
        due = self._full_since + WRITE_WITHIN if self._drained is not None else self._beats_at
        self._wheel.set(self, max(now, min(due, self._session.due(now, wall))))

    def send_reconnect_hint(self, within: float) -> None:
        """Ask the client to reconnect, to any gateway, within so many seconds."""
        self._say(frame_codec.encode(wire.Moving(within=within)))

    def close_for_restart(self) -> None:
        """Close, because this gateway shuts down."""
        self._close(Close.RESTART, "the gateway restarts")

    def _say(self, frame: Frame) -> None:
        if not self._closed:
            self.give(FrameBatch((frame,)))

    def _obey(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Say(frame):
                    self._say(frame)
                case End(code, reason):
                    self._close(code, reason)
                case Carry(request):
                    self._carry(request)

    def _carry(self, request: Watch | Unwatch | Send | Stop | Retry) -> None:
        if len(self._requests) >= MAX_WAITING:
            self._say(frame_codec.refusal(request, "too_fast", "Too many requests at once.", 1.0))
            return
        self._requests.append(request)
        if self._task is None:
            self._task = asyncio.create_task(self._carry_out())
            self._task.add_done_callback(self._carried_out)

    def _carried_out(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        # The frames without the message: that may hold what somebody wrote.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("a connection failed (%s)\n%s", type(error).__name__, where)
        self._close(Close.RESTART, "the gateway failed")

    def _close(self, code: Close, reason: str) -> None:
        if not self._closed:
            metrics.REFUSED.labels(str(int(code))).inc()
            self._leave()
            self._socket.close(int(code), reason)

    def _leave(self) -> None:
        self._closed = True
        self._requests.clear()
        self._wheel.drop(self)
        self._hub.leave(self)

    async def _carry_out(self) -> None:
        try:
            while self._requests:
                await self._fulfil(self._requests.popleft())
        finally:
            # Here and not when the task is known to be done: what comes in between would wait for nobody.
            self._task = None

    async def _fulfil(self, request: Watch | Unwatch | Send | Stop | Retry) -> None:
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
                    self._say(frame_codec.encode(wire.Status(response=result.response, state="ended")))
                else:
                    self._say(frame_codec.refusal(request, result.code, result.message, result.retry_after))

    def _answer(self, key: str, result: Accepted | Failure) -> None:
        if isinstance(result, Failure):
            self._say(frame_codec.error(result.code, result.message, key=key, retry_after=result.retry_after))
        else:
            accepted = wire.Accepted(
                key=key, message=result.message, response=result.response, duplicate=result.duplicate
            )
            self._say(frame_codec.encode(accepted))

    async def _watch(self, request: Watch) -> None:
        name = request.conversation
        if name not in self._rooms and len(self._rooms) >= wire.MAX_WATCHED:
            self._say(
                frame_codec.refusal(request, "too_many", f"At most {wire.MAX_WATCHED} conversations on one socket.")
            )
            return
        while self._drained is not None:
            # Who asks for one snapshot after another, and takes none, has one of them waiting and not all.
            await self._drained.wait()
        named = dict(request.responses)
        try:
            room = await self._feed.enter(name, named, request.after)
        except StoreError:
            self._say(
                frame_codec.refusal(request, "unavailable", "The conversation can not be read for a moment.", 2.0)
            )
            return
        if self._closed:
            return
        self._unwatch(name)
        identity = self._session.identity
        if identity is None or not identity.opens(name):
            # A fresh token came while the logs were read.
            self._say(frame_codec.refusal(request, "forbidden", "This conversation is not open to you."))
            return
        frames, position = self._feed.begin(room, request.after, named)
        self.give(FrameBatch(frames))
        self._rooms[name] = room
        self._hub.join(room, self, position)
        self._feed.schedule()

    def _shut(self) -> None:
        """Follow no longer what a fresh token does not open."""
        identity = self._session.identity
        assert identity is not None
        for name in [name for name in self._rooms if not identity.opens(name)]:
            self._unwatch(name)
            text = "This conversation is not open to you any more."
            self._say(frame_codec.encode(wire.ErrorFrame(code="forbidden", message=text, conversation=name)))

    def _unwatch(self, name: str) -> None:
        room = self._rooms.pop(name, None)
        if room is not None:
            self._hub.leave(self, room)
