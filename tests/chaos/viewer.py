"""A WebSocket client that retries forever: it watches, sends messages, and resumes at any gateway."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.chaos.checker import Frame, ViewerState

RETRYABLE: frozenset[str] = frozenset({"unavailable", "store_full", "too_fast"})
"""Error codes after which the frame is sent again."""

OPEN_TIMEOUT_S = 3.0


class Viewer:
    """A client of any of the gateways. `state` holds what it shows."""

    def __init__(self, state: ViewerState, urls: Sequence[str], gateway: int, rng: random.Random) -> None:
        self.state = state
        self.urls = list(urls)
        self.gateway = gateway
        self.accepted: dict[str, str] = {}
        self.rejected: dict[str, str] = {}
        self.reconnects = 0
        self.active = True
        """Whether the client reconnects when it is disconnected."""
        self._rng = rng
        self._pending: dict[str, Frame] = {}
        self._stopping: set[str] = set()
        self._socket: ClientConnection | None = None
        self._awake = asyncio.Event()
        self._awake.set()
        self._task: asyncio.Task[None] | None = None
        self._timers: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        self.active = False
        for task in (self._task, *self._timers):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (self._task, *self._timers) if task), return_exceptions=True)

    async def ask(self, key: str, text: str, model: str = "fake") -> None:
        """Send a message, and send it again after each reconnect until it is answered."""
        frame = {
            "type": "send", "key": key, "conversation": self.state.conversation, "text": text, "model": model,
        }  # fmt: skip
        self._pending[key] = frame
        await self._send(frame)

    async def stop(self) -> None:
        """Stop all open responses."""
        for response in self.state.open:
            self._stopping.add(response)
            await self._send({"type": "stop", "response": response})

    async def rewatch(self) -> None:
        """Send another watch without a cursor on the same socket."""
        if self._socket is not None:
            await self._send({"type": "watch", "conversation": self.state.conversation})

    def cut(self) -> None:
        """Abort the connection without a close handshake."""
        if self._socket is not None:
            self._socket.transport.abort()

    def move(self) -> None:
        """Reconnect to the next gateway."""
        self.gateway += 1
        self.cut()

    def reload(self) -> None:
        """Reconnect without any state, like a reloaded page."""
        self.cut()
        self._reloads = True

    _reloads = False

    async def sleep(self, seconds: float, *, cut: bool) -> None:
        """Stop reading for `seconds`. `cut`: then abort the connection."""
        self._awake.clear()
        if self._socket is not None:
            self._socket.transport.pause_reading()
        await asyncio.sleep(seconds)
        self._awake.set()
        if self._socket is not None:
            try:
                self._socket.transport.resume_reading()
            except RuntimeError:
                # The transport was not paused.
                pass
            if cut:
                self.cut()

    @property
    def settled(self) -> bool:
        """Return whether nothing is pending."""
        shown = self.state.shown.values()
        return self.state.subscribed and not self._pending and all(each.over for each in shown)

    async def _run(self) -> None:
        pause = 0.05
        while self.active:
            await self._awake.wait()
            if self._reloads:
                self._reloads = False
                self.state.forget()
            url = self.urls[self.gateway % len(self.urls)]
            self.state.subscribed = False
            try:
                async with connect(
                    url, max_size=None, compression=None, open_timeout=OPEN_TIMEOUT_S, close_timeout=0.2,
                    ping_interval=None, proxy=None,
                ) as socket:  # fmt: skip
                    self._socket = socket
                    await self._handshake()
                    async for data in socket:
                        pause = 0.05
                        await self._handle(json.loads(data))
                        await self._awake.wait()
            except (OSError, WebSocketException, InvalidHandshake, TimeoutError, EOFError):
                # Retry, possibly at another gateway.
                if self._rng.random() < 0.5:
                    self.gateway += 1
            finally:
                self._socket = None
            self.reconnects += 1
            await asyncio.sleep(self._rng.uniform(0, pause))
            pause = min(pause * 2, 1.0)

    async def _handshake(self) -> None:
        await self._send({"type": "hello", "client": "chaos"})
        await self._send(self.state.watch())
        for frame in list(self._pending.values()):
            await self._send(frame)
        for response in self._stopping & set(self.state.open):
            await self._send({"type": "stop", "response": response})

    async def _send(self, frame: Frame) -> None:
        if self._socket is None:
            return
        try:
            await self._socket.send(json.dumps(frame))
        except (OSError, WebSocketException):
            # The reader detects the loss and reconnects.
            pass

    async def _handle(self, frame: dict[str, Any]) -> None:
        self.state.apply(frame)
        if frame["type"] == "accepted":
            self.accepted[frame["key"]] = frame["response"]
            self._pending.pop(frame["key"], None)
        elif frame["type"] == "error":
            self._rejected(frame)
        elif frame["type"] == "moving":
            self._schedule(self._rng.uniform(0, min(frame["within"], 0.5)), self.move)

    def _rejected(self, frame: Frame) -> None:
        key = frame.get("key")
        retryable = frame["code"] in RETRYABLE
        if key in self._pending and not retryable:
            self.rejected[key] = frame["code"]
            del self._pending[key]
        elif retryable:
            # Reconnecting sends all pending frames again; they are idempotent.
            self._schedule(min(frame.get("retry_after") or 0.3, 0.5), self.cut)

    def _schedule(self, seconds: float, do: Any) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            do()

        task = asyncio.create_task(wait())
        self._timers.add(task)
        task.add_done_callback(self._timers.discard)
