"""A client that never gives up: it watches, asks, is cut off, and goes on wherever a gateway answers."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.chaos.checker import Frame, Watcher

AGAIN: frozenset[str] = frozenset({"unavailable", "store_full", "too_fast"})
"""Refusals after which the same frame is sent again."""

OPEN_WITHIN = 3.0


class Viewer:
    """One client, on any of the gateways; `watcher` has what it shows."""

    def __init__(self, watcher: Watcher, urls: Sequence[str], gateway: int, chance: random.Random) -> None:
        self.watcher = watcher
        self.urls = list(urls)
        self.gateway = gateway
        self.accepted: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.reconnects = 0
        self.follows = True
        """Whether it is to have a connection."""
        self._chance = chance
        self._asked: dict[str, Frame] = {}
        self._stopping: set[str] = set()
        self._socket: ClientConnection | None = None
        self._awake = asyncio.Event()
        self._awake.set()
        self._task: asyncio.Task[None] | None = None
        self._later: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._live())

    async def close(self) -> None:
        self.follows = False
        for task in (self._task, *self._later):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (self._task, *self._later) if task), return_exceptions=True)

    async def ask(self, key: str, text: str, model: str = "fake") -> None:
        """Send a message, again after every reconnect, until it is answered."""
        frame = {
            "type": "send", "key": key, "conversation": self.watcher.conversation, "text": text, "model": model,
        }  # fmt: skip
        self._asked[key] = frame
        await self._say(frame)

    async def stop(self) -> None:
        """Stop whatever is being answered."""
        for response in self.watcher.open:
            self._stopping.add(response)
            await self._say({"type": "stop", "response": response})

    async def rewatch(self) -> None:
        """Watch on the same socket, without a cursor."""
        if self._socket is not None:
            await self._say({"type": "watch", "conversation": self.watcher.conversation})

    def cut(self) -> None:
        """The network is gone: nothing is said to the other side."""
        if self._socket is not None:
            self._socket.transport.abort()

    def move(self) -> None:
        """Go to another gateway."""
        self.gateway += 1
        self.cut()

    def reload(self) -> None:
        """Know nothing any more, and begin anew."""
        self.cut()
        self._reloads = True

    _reloads = False

    async def sleep(self, seconds: float, *, cut: bool) -> None:
        """Read nothing for so long; and be cut off in the meantime, if it is to be."""
        self._awake.clear()
        if self._socket is not None:
            self._socket.transport.pause_reading()
        await asyncio.sleep(seconds)
        self._awake.set()
        if self._socket is not None:
            try:
                self._socket.transport.resume_reading()
            except RuntimeError:
                # It read on all the same.
                pass
            if cut:
                self.cut()

    @property
    def settled(self) -> bool:
        """Whether it waits for nothing."""
        shown = self.watcher.shown.values()
        return self.watcher.watches and not self._asked and all(each.over for each in shown)

    async def _live(self) -> None:
        pause = 0.05
        while self.follows:
            await self._awake.wait()
            if self._reloads:
                self._reloads = False
                self.watcher.forget()
            url = self.urls[self.gateway % len(self.urls)]
            self.watcher.watches = False
            try:
                async with connect(
                    url, max_size=None, compression=None, open_timeout=OPEN_WITHIN, close_timeout=0.2,
                    ping_interval=None, proxy=None,
                ) as socket:  # fmt: skip
                    self._socket = socket
                    await self._greet()
                    async for data in socket:
                        pause = 0.05
                        await self._take(json.loads(data))
                        await self._awake.wait()
            except (OSError, WebSocketException, InvalidHandshake, TimeoutError, EOFError):
                # Another try, perhaps elsewhere.
                if self._chance.random() < 0.5:
                    self.gateway += 1
            finally:
                self._socket = None
            self.reconnects += 1
            await asyncio.sleep(self._chance.uniform(0, pause))
            pause = min(pause * 2, 1.0)

    async def _greet(self) -> None:
        await self._say({"type": "hello", "client": "chaos"})
        await self._say(self.watcher.watch())
        for frame in list(self._asked.values()):
            await self._say(frame)
        for response in self._stopping & set(self.watcher.open):
            await self._say({"type": "stop", "response": response})

    async def _say(self, frame: Frame) -> None:
        if self._socket is None:
            return
        try:
            await self._socket.send(json.dumps(frame))
        except (OSError, WebSocketException):
            # The reader notices too.
            pass

    async def _take(self, frame: dict[str, Any]) -> None:
        self.watcher.take(frame)
        if frame["type"] == "accepted":
            self.accepted[frame["key"]] = frame["response"]
            self._asked.pop(frame["key"], None)
        elif frame["type"] == "error":
            self._refused(frame)
        elif frame["type"] == "moving":
            self._later_on(self._chance.uniform(0, min(frame["within"], 0.5)), self.move)

    def _refused(self, frame: Frame) -> None:
        key = frame.get("key")
        again = frame["code"] in AGAIN
        if key in self._asked and not again:
            self.refused[key] = frame["code"]
            del self._asked[key]
        elif again:
            # Whatever it was, all of it is said again: that changes nothing where it had arrived.
            self._later_on(min(frame.get("retry_after") or 0.3, 0.5), self.cut)

    def _later_on(self, seconds: float, do: Any) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            do()

        task = asyncio.create_task(wait())
        self._later.add(task)
        task.add_done_callback(self._later.discard)
