"""A client on a real socket, which a test can disconnect at any moment."""

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
    """One client of one conversation: a transcript and a socket."""

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
        self._changed = asyncio.Condition()

    async def connect(self, url: str, *, watch: bool = True, origin: str | None = None) -> Self:
        """Connect, send hello, and resume from the cursors of the transcript."""
        self.close_code = None
        self._socket = await connect(url, max_size=None, compression=None, origin=origin)  # type: ignore[arg-type]
        await self.send({"type": "hello", **({"token": self._token} if self._token else {})})
        if watch:
            await self.send(self.transcript.watch())
        self._reader = asyncio.create_task(self._read())
        return self

    async def send(self, frame: dict[str, Any] | str | bytes) -> None:
        """Send a frame, or any text or bytes."""
        assert self._socket is not None
        await self._socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def ask(self, text: str, **fields: Any) -> str:
        """Send a message; return the id of its response."""
        key = fields.pop("key", None) or secrets.token_hex(8)
        conversation = self.transcript.conversation
        await self.send({"type": "send", "key": key, "conversation": conversation, "text": text, **fields})
        return await self.response_of(key)

    async def response_of(self, key: str) -> str:
        """Return the response that was accepted for a key."""
        await self.until(lambda: key in self.accepted or any(error.get("key") == key for error in self.errors))
        return str(self.accepted[key]["response"])

    async def stop(self, response: str) -> None:
        await self.send({"type": "stop", "response": response})

    def answer(self, response: str) -> Answer:
        """Return what the client shows of a response; an empty answer if it shows nothing."""
        return self.transcript.answers.get(response, Answer())

    async def until(self, condition: Callable[[], Any], seconds: float = TIMEOUT_S) -> Any:
        """Wait until the condition holds, checked after each frame; return its result."""
        async with self._changed:
            try:
                async with asyncio.timeout(seconds):
                    while not (result := condition()):
                        if self.broken is not None:
                            raise self.broken
                        await self._changed.wait()
            except TimeoutError:
                last = [{**frame, "text": "..."} if "text" in frame else frame for frame in self.frames[-5:]]
                raise AssertionError(f"not within {seconds} s; the last frames: {last}") from None
        if self.broken is not None:
            raise self.broken
        return result

    async def more(self, count: int, response: str) -> None:
        """Wait for so many more frames, or for the end of the response."""
        wanted = len(self.frames) + count
        await self.until(lambda: len(self.frames) >= wanted or self.answer(response).ends)

    async def sees(self, response: str) -> None:
        """Wait until the first frame of the response was received."""
        await self.until(lambda: response in self.transcript.answers)

    async def shows(self, response: str, characters: int = 1) -> Answer:
        """Wait until so many characters of the response are shown, and return it."""
        await self.until(lambda: len(self.answer(response).text) >= characters)
        return self.answer(response)

    async def attempted(self, response: str, attempt: int, seconds: float = TIMEOUT_S) -> Answer:
        """Wait until that attempt has begun, and return the response."""
        await self.until(lambda: self.answer(response).attempt == attempt, seconds)
        return self.answer(response)

    async def watches(self) -> None:
        """Wait for a snapshot."""
        await self.until(lambda: self.transcript.snapshots)

    async def closed(self) -> int | None:
        """Wait until the server closes the socket, and return the close code."""
        await self.until(lambda: self.close_code is not None)
        return self.close_code

    async def received_frames(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        """Wait for so many frames with these fields, and return them."""

        def found() -> list[dict[str, Any]]:
            return [frame for frame in self.frames if fields.items() <= frame.items()]

        await self.until(lambda: len(found()) >= count)
        return found()[:count]

    async def ended(self, response: str, seconds: float = TIMEOUT_S) -> Answer:
        """Wait for the end of the response, and return it."""
        await self.until(lambda: self.answer(response).ends, seconds)
        return self.answer(response)

    async def settled(self, response: str, seconds: float = TIMEOUT_S) -> str:
        """Wait until the response is settled, and return its text in the history."""
        message = await self.until(
            lambda: next((m for m in self.transcript.messages.values() if m.get("response") == response), None), seconds
        )
        return str(message["text"])

    def cut(self) -> None:
        """Disconnect without a close frame."""
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
                await self._receive(json.loads(data))
        except ConnectionClosed:
            pass
        except AssertionError as error:
            self.broken = error
        self.close_code = socket.close_code
        async with self._changed:
            self._changed.notify_all()

    async def _receive(self, frame: dict[str, Any]) -> None:
        self.frames.append(frame)
        if frame["type"] == "accepted":
            self.accepted[frame["key"]] = frame
        elif frame["type"] == "error":
            self.errors.append(frame)
        self.transcript.fold(frame)
        async with self._changed:
            self._changed.notify_all()
