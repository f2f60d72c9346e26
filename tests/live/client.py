"""A client on a real socket, which a test can cut off at any moment."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.transcript import Answer, Transcript

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 30.0


class Client:
    """One client of one conversation: a transcript, and a socket that brings it frames."""

    def __init__(self, conversation: str, token: str | None = None) -> None:
        self.transcript = Transcript(conversation)
        self.frames: list[dict[str, Any]] = []
        self.accepted: dict[str, dict[str, Any]] = {}
        self.errors: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.broken: BaseException | None = None
        self._token = token
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    async def connect(self, url: str, *, watch: bool = True, origin: str | None = None) -> Self:
        """Say hello, and go on from what the transcript has."""
        self.close_code = None
        self._socket = await connect(url, max_size=None, compression=None, origin=origin)  # type: ignore[arg-type]
        await self.send({"type": "hello", **({"token": self._token} if self._token else {})})
        if watch:
            await self.send(self.transcript.watch())
        self._reader = asyncio.create_task(self._read())
        return self

    async def send(self, frame: dict[str, Any] | str | bytes) -> None:
        """Send a frame, or what is to look like one."""
        assert self._socket is not None
        await self._socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def ask(self, text: str, **fields: Any) -> str:
        """Send a message; return the id of its response."""
        key = fields.pop("key", None) or secrets.token_hex(8)
        conversation = self.transcript.conversation
        await self.send({"type": "send", "key": key, "conversation": conversation, "text": text, **fields})
        return await self.response_of(key)

    async def response_of(self, key: str) -> str:
        """The response that was accepted for a key."""
        await self.until(lambda: key in self.accepted or any(error.get("key") == key for error in self.errors))
        return str(self.accepted[key]["response"])

    async def stop(self, response: str) -> None:
        await self.send({"type": "stop", "response": response})

    def answer(self, response: str) -> Answer:
        """What is shown of a response; an empty one while nothing is."""
        return self.transcript.answers.get(response, Answer())

    async def until(self, condition: Callable[[], Any], seconds: float = TIMEOUT_S) -> Any:
        """Wait until the condition holds, looking at each frame; return what it returned."""
        async with self._news:
            try:
                async with asyncio.timeout(seconds):
                    while not (result := condition()):
                        if self.broken is not None:
                            raise self.broken
                        await self._news.wait()
            except TimeoutError:
                last = [{**frame, "text": "..."} if "text" in frame else frame for frame in self.frames[-5:]]
                raise AssertionError(f"not within {seconds} s; the last frames: {last}") from None
        if self.broken is not None:
            raise self.broken
        return result

    async def more(self, count: int, response: str) -> None:
        """Wait for so many more frames, or for the response's end."""
        wanted = len(self.frames) + count
        await self.until(lambda: len(self.frames) >= wanted or self.answer(response).ends)

    async def sees(self, response: str) -> None:
        """Wait until anything at all is known of the response."""
        await self.until(lambda: response in self.transcript.answers)

    async def shows(self, response: str, characters: int = 1) -> Answer:
        """The response once more than so many characters of it are shown."""
        await self.until(lambda: len(self.answer(response).text) >= characters)
        return self.answer(response)

    async def attempted(self, response: str, attempt: int, seconds: float = TIMEOUT_S) -> Answer:
        """The response once that attempt has begun."""
        await self.until(lambda: self.answer(response).attempt == attempt, seconds)
        return self.answer(response)

    async def watches(self) -> None:
        """Wait until the watch has been answered with a snapshot."""
        await self.until(lambda: self.transcript.snapshots)

    async def closed(self) -> int | None:
        """The close code, once the other side has closed the socket."""
        await self.until(lambda: self.close_code is not None)
        return self.close_code

    async def received_frames(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        """The first so many frames that have these fields."""

        def found() -> list[dict[str, Any]]:
            return [frame for frame in self.frames if fields.items() <= frame.items()]

        await self.until(lambda: len(found()) >= count)
        return found()[:count]

    async def ended(self, response: str, seconds: float = TIMEOUT_S) -> Answer:
        """The response once it has its end."""
        await self.until(lambda: self.answer(response).ends, seconds)
        return self.answer(response)

    async def settled(self, response: str, seconds: float = TIMEOUT_S) -> str:
        """The text of the response in the history."""
        message = await self.until(
            lambda: next((m for m in self.transcript.messages.values() if m.get("response") == response), None), seconds
        )
        return str(message["text"])

    def cut(self) -> None:
        """The network is gone: nothing is said to the other side."""
        if self._socket is not None:
            self._socket.transport.abort()
        if self._reader is not None:
            self._reader.cancel()
        self._socket = self._reader = None

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
        self._socket = self._reader = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _read(self) -> None:
        socket = self._socket
        assert socket is not None
        try:
            async for data in socket:
                await self._take(json.loads(data))
        except ConnectionClosed:
            pass
        except AssertionError as error:
            self.broken = error
        self.close_code = socket.close_code
        async with self._news:
            self._news.notify_all()

    async def _take(self, frame: dict[str, Any]) -> None:
        self.frames.append(frame)
        if frame["type"] == "accepted":
            self.accepted[frame["key"]] = frame
        elif frame["type"] == "error":
            self.errors.append(frame)
        self.transcript.fold(frame)
        async with self._news:
            self._news.notify_all()
