"""One WebSocket client: its frames go through a session, the hub's frames go to its socket.

Backpressure: while the socket's write buffer is full, the client is a lagging viewer and its requests wait. A slow
consumer that makes no progress is disconnected; see `gateway.write_progress`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from gateway import frame_codec, metrics, wire
from gateway.feed.feed import MEMORY_RETRY_S
from gateway.feed.loader import MemoryFullError
from gateway.frame_batch import FrameBatch
from gateway.session import CloseSocket, Execute, SendFrame
from gateway.streams import log_entries
from gateway.streams.log_fields import error_fields
from gateway.streams.log_throttle import LogThrottle
from gateway.streams.store.errors import StoreError
from gateway.submissions import Failure, Stopped
from gateway.transports.refusals import refused, slow_consumer_disconnected
from gateway.watches import TOO_MUCH_WATCHED
from gateway.wire import Close, Older, Retry, Send, Stop, Unwatch, Watch
from gateway.write_progress import UnreadData, WriteProgress, unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.feed.feed import Feed
    from gateway.frame_codec import Frame
    from gateway.hub import Hub
    from gateway.room import Room, Write
    from gateway.session import Command, Request, Session
    from gateway.streams.history_log import Accepted
    from gateway.submissions import Submissions
    from gateway.timer_wheel import TimerWheel
    from gateway.watches import Watches

logger = logging.getLogger(__name__)

_throttle: Final = LogThrottle()

MAX_WAITING_REQUESTS: Final = 32
"""Requests of one client that wait; further ones get the error `too_fast`."""

HEARTBEAT_INTERVAL_S: Final = wire.HEARTBEAT_S - 1.0
"""Heartbeats are sent whether or not other frames are: recording the time of each frame would cost more."""


class Socket(Protocol):
    """An open WebSocket of any server. It calls the methods of a `Connection`."""

    @property
    def direct_write(self) -> Write | None:
        """Writes encoded frame batches; None if the socket needs single frames."""

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the client has not taken."""

    @property
    def silence(self) -> float:
        """Seconds for which the client has acknowledged nothing; 0 if all that was written is acknowledged."""

    @property
    def acknowledged(self) -> int:
        """Bytes that the client has acknowledged, or any number that changes with them."""

    def write(self, batch: FrameBatch) -> None:
        """Write frames whole and in order. Calls `Connection.pause_writing` when the write buffer is full."""

    def close(self, code: int, reason: str) -> None:
        """Flush the write buffer, then close with a closing handshake."""

    def abort(self) -> None:
        """Close immediately; the write buffer is lost."""


class Connection:
    """One socket; it is a viewer of each conversation that it watches.

    Frames are handled synchronously. A task runs only while a request waits for the store.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_feed",
        "_heartbeat_at",
        "_hub",
        "_lost",
        "_progress",
        "_requests",
        "_rooms",
        "_session",
        "_socket",
        "_submissions",
        "_task",
        "_timers",
        "_unread",
        "_watches",
        "_writable",
        "direct_write",
    )

    def __init__(
        self,
        *,
        socket: Socket,
        session: Session,
        hub: Hub,
        feed: Feed,
        submissions: Submissions,
        timers: TimerWheel[Connection],
        watches: Watches,
        lost: Callable[[Connection], None],
    ) -> None:
        """`socket` is open. `timers` holds when to call `tick`. `lost` is called once, when the socket is closed."""
        self._socket = socket
        self.direct_write = socket.direct_write
        """See `gateway.room.Viewer`."""
        self._session = session
        self._hub = hub
        self._feed = feed
        self._submissions = submissions
        self._timers = timers
        self._watches = watches
        self._lost = lost
        self._rooms: dict[str, Room] = {}
        self._requests: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._writable: asyncio.Event | None = None
        """Set when writing resumes; None while it is not paused."""
        self._progress: WriteProgress | None = None
        """Whether the client reads, while writing is paused."""
        self._unread = UnreadData()
        self._heartbeat_at = timers.now + HEARTBEAT_INTERVAL_S
        self._set_timer(timers.now, time.time())

    def receive(self, data: str | bytes) -> None:
        """Handle one frame of the client."""
        if self._closed:
            return
        identity = self._session.identity
        now, wall = time.monotonic(), time.time()
        try:
            self._run(self._session.receive(data, now, wall))
            if self._session.identity is not identity:
                self._unwatch_forbidden()
                self._set_timer(now, wall)
        except Exception as error:
            self.fail(error)

    def pause_writing(self) -> None:
        """Stop writing (backpressure): the write buffer is full."""
        if self._closed:
            return
        if self._writable is None:
            self._writable = asyncio.Event()
            self._progress = WriteProgress(self._socket.unsent, self._timers.now)
            self._set_timer(self._timers.now, time.time())
        self._feed.pause(self)

    def resume_writing(self) -> None:
        """Continue writing: the write buffer has drained."""
        if self._writable is not None:
            self._writable.set()
            self._writable = self._progress = None
        self._feed.resume(self)

    def closing(self) -> None:
        """Write no more frames: a close frame was sent or received."""
        self._detach()

    def connection_lost(self) -> None:
        """Release everything: the socket is closed."""
        self._detach()
        if self._task is not None:
            self._task.cancel()
        self._session.ended()
        self._lost(self)

    def send(self, batch: FrameBatch) -> None:
        """Write frames; see `gateway.room.Viewer`."""
        self._socket.write(batch)

    def tick(self, now: float, wall: float) -> None:
        """Send a heartbeat or close, if it is due. `now` is monotonic, `wall` is seconds since 1970."""
        self._run(self._session.tick(now, wall))
        if self._closed:
            return
        if self._progress is not None and self._progress.stalled(self._socket.unsent, now):
            slow_consumer_disconnected()
            self._socket.abort()
            return
        if now >= self._heartbeat_at:
            if unreachable(self._socket.silence):
                self._socket.abort()
                return
            if self._unread.stalled(self._socket.unsent, self._socket.acknowledged, now):
                slow_consumer_disconnected()
                self._socket.abort()
                return
            self._heartbeat_at = now + HEARTBEAT_INTERVAL_S
            if self._progress is None:
                self._send_frame(frame_codec.HEARTBEAT_FRAME)
        self._set_timer(now, wall)

    def _set_timer(self, now: float, wall: float) -> None:
        due = min(self._heartbeat_at, self._session.due(now, wall))
        if self._progress is not None:
            due = min(due, self._progress.due)
        self._timers.set(self, max(now, due))

    def send_reconnect_hint(self, within: float) -> None:
        """Ask the client to reconnect within so many seconds (graceful shutdown)."""
        self._send_frame(frame_codec.encode(wire.Moving(within=within)))

    def close_for_restart(self) -> None:
        """Close the socket at the end of the graceful shutdown."""
        self._close(Close.RESTART, "the gateway restarts")

    def _send_frame(self, frame: Frame) -> None:
        if not self._closed:
            self.send(FrameBatch((frame,)))

    def _run(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case SendFrame(frame):
                    self._send_frame(frame)
                case CloseSocket(code, reason):
                    if code is Close.OVERLOADED:
                        refused("hello")
                    self._close(code, reason)
                case Execute(request):
                    self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        if len(self._requests) >= MAX_WAITING_REQUESTS:
            self._send_frame(frame_codec.refusal(request, "too_fast", "Too many requests at once.", 1.0))
            return
        self._requests.append(request)
        if self._task is None:
            self._task = asyncio.create_task(self._execute_all())
            self._task.add_done_callback(self._executed_all)

    def _executed_all(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Log a fault of this connection and close it."""
        suppressed = _throttle.admit(type(error).__name__, time.monotonic())
        if suppressed is not None:
            logger.error("connection_failed", extra={**error_fields(error), "suppressed": suppressed})
        self._close(Close.RESTART, "the gateway failed")

    def _close(self, code: Close, reason: str) -> None:
        if not self._closed:
            metrics.CLOSED.labels(str(int(code))).inc()
            self._detach()
            self._socket.close(int(code), reason)

    def _detach(self) -> None:
        self._closed = True
        self._requests.clear()
        self._timers.remove(self)
        for name in self._rooms:
            self._watches.remove(self._session.subject, name, self)
        self._rooms.clear()
        self._hub.unsubscribe(self)

    async def _execute_all(self) -> None:
        try:
            while self._requests:
                await self._execute(self._requests.popleft())
        finally:
            # Here and not in the done callback: a request that arrives between the two would never be executed.
            self._task = None

    async def _execute(self, request: Request) -> None:
        refusal = self._session.forbids(request)
        if refusal is not None:
            self._send_frame(refusal)
            return
        match request:
            case Watch():
                await self._watch(request)
            case Older():
                await self._older(request)
            case Unwatch(conversation):
                self._unwatch(conversation)
            case Send(key=key):
                assert self._session.identity is not None
                self._answer(key, await self._submissions.send(request, self._session.identity))
            case Retry(key=key):
                assert self._session.identity is not None
                self._answer(key, await self._submissions.retry(request, self._session.identity))
            case Stop():
                assert self._session.identity is not None
                result = await self._submissions.stop(request, self._session.identity)
                if isinstance(result, Stopped):
                    self._send_frame(frame_codec.encode(wire.Status(response=result.response, state="ended")))
                else:
                    self._send_frame(frame_codec.refusal(request, result.code, result.message, result.retry_after))

    def _answer(self, key: str, result: Accepted | Failure) -> None:
        if isinstance(result, Failure):
            self._send_frame(frame_codec.error(result.code, result.message, key=key, retry_after=result.retry_after))
        else:
            accepted = wire.Accepted(
                key=key, message=result.message, response=result.response, duplicate=result.duplicate
            )
            self._send_frame(frame_codec.encode(accepted))

    async def _watch(self, request: Watch) -> None:
        name = request.conversation
        if name not in self._rooms and len(self._rooms) >= wire.MAX_WATCHED:
            text = f"At most {wire.MAX_WATCHED} conversations on one socket."
            self._send_frame(frame_codec.refusal(request, "too_many", text))
            return
        if not self._watches.allows(self._session.subject, name):
            self._send_frame(frame_codec.refusal(request, "too_many", TOO_MUCH_WATCHED))
            return
        while self._writable is not None:
            # A client that requests snapshots without reading them has at most one in its write buffer.
            await self._writable.wait()
        named = dict(request.responses)
        try:
            room = await self._feed.open(name, named, request.after)
        except StoreError:
            text = "The conversation cannot be read at the moment."
            self._send_frame(frame_codec.refusal(request, "unavailable", text, 2.0))
            return
        except MemoryFullError:
            text = "This gateway holds too many conversations."
            self._send_frame(frame_codec.refusal(request, "overloaded", text, MEMORY_RETRY_S))
            return
        if self._closed:
            return
        self._unwatch(name)
        identity = self._session.identity
        if identity is None or not identity.opens(name):
            # The client sent a new token while the logs were read.
            self._send_frame(frame_codec.refusal(request, "forbidden", "This conversation is not open to you."))
            return
        frames, position = self._feed.begin(room, request.after, named)
        self._session.charge(self._feed.cost(room, frames, position), time.monotonic())
        self.send(FrameBatch(frames))
        self._rooms[name] = room
        self._watches.add(self._session.subject, name, room.size, self)
        self._hub.subscribe(room, self, position)
        self._feed.schedule_flush()

    async def _older(self, request: Older) -> None:
        while self._writable is not None:
            # As for a watch: at most one page is in the write buffer of a client that reads none.
            await self._writable.wait()
        before = log_entries.parse_history_id(request.before)
        assert before is not None
        try:
            frame = frame_codec.page(request, *await self._feed.page(request.conversation, before))
        except StoreError:
            text = "The conversation cannot be read at the moment."
            self._send_frame(frame_codec.refusal(request, "unavailable", text, 2.0))
            return
        self._session.charge(len(frame.body), time.monotonic())
        identity = self._session.identity
        if identity is not None and identity.opens(request.conversation):
            self._send_frame(frame)

    def _unwatch_forbidden(self) -> None:
        """Unsubscribe from the conversations that a new token does not open."""
        identity = self._session.identity
        assert identity is not None
        for name in [name for name in self._rooms if not identity.opens(name)]:
            self._unwatch(name)
            text = "This conversation is not open to you any more."
            self._send_frame(frame_codec.encode(wire.ErrorFrame(code="forbidden", message=text, conversation=name)))

    def end_watch(self, name: str) -> None:
        """Unsubscribe from a conversation; see `gateway.watches.Watcher`."""
        self._unwatch(name)
        self._send_frame(
            frame_codec.encode(
                wire.ErrorFrame(
                    code="too_many", message=TOO_MUCH_WATCHED, conversation=name, retry_after=MEMORY_RETRY_S
                )
            )
        )

    def _unwatch(self, name: str) -> None:
        room = self._rooms.pop(name, None)
        if room is not None:
            self._watches.remove(self._session.subject, name, self)
            self._hub.unsubscribe(self, room)
