"""Honest clients: conversations with several viewers each, whose answers carry the time when each piece was made."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from websockets.exceptions import WebSocketException

from tests.live.client import Client

VIEWERS: Final = 10
"""Viewers of each conversation."""

PIECES: Final = 100
"""Pieces of an answer; see `generators.timed`."""

ANSWER_WITHIN_S: Final = 120.0


@dataclass
class Measured:
    """What the honest clients noticed."""

    delays: list[float] = field(default_factory=list)
    """Seconds from the making of a piece to its arrival at a viewer."""
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    """Answers that did not arrive exactly."""
    interruptions: int = 0
    """Times that an honest client was refused or disconnected."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why."""


class Viewer(Client):
    """A client that records how late each piece arrives."""

    def __init__(self, conversation: str, token: str, measured: Measured) -> None:
        super().__init__(conversation, token)
        self._measured = measured

    async def _receive(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "delta":
            # The last piece is the newest of a coalesced delta.
            self._measured.delays.append(time.monotonic() - float(frame["text"].split()[-1]))
        await super()._receive(frame)


async def converse(url: str, key: str, name: str, measured: Measured, until: float) -> None:
    """Ask again and again in one conversation, with VIEWERS viewers, until the time `until`. Safe to cancel."""
    claims = {"sub": name, "exp": time.time() + 86_400, "conversations": [name]}
    viewers = [Viewer(name, jwt.encode(claims, key, "HS256"), measured) for _ in range(VIEWERS)]
    chance = random.Random(name)
    try:
        for viewer in viewers:
            await _connect(viewer, url, measured, until)
        while time.monotonic() < until:
            try:
                response = await chance.choice(viewers).ask("go on", model="timed")
                for viewer in viewers:
                    await viewer.ended(response, ANSWER_WITHIN_S)
            except (AssertionError, KeyError, OSError, WebSocketException) as error:
                measured.wrong.append(f"{name}: {type(error).__name__} {str(error)[:300]}")
                for viewer in viewers:
                    await viewer.close()
                    await _connect(viewer, url, measured, until)
                continue
            texts = [viewer.answer(response).text for viewer in viewers]
            measured.answers += 1
            if len(set(texts)) != 1 or len(texts[0].split()) != PIECES:
                measured.wrong.append(
                    f"{name}: the viewers have {[len(text) for text in texts]} characters of {response}"
                )
            for viewer in viewers:
                viewer.frames.clear()
    finally:
        for viewer in viewers:
            await viewer.close()


async def _connect(viewer: Viewer, url: str, measured: Measured, until: float) -> None:
    while time.monotonic() < until:
        try:
            await viewer.connect(url)
            await viewer.watches()
            return
        except (AssertionError, OSError, WebSocketException) as error:
            measured.interruptions += 1
            measured.reasons[f"{type(error).__name__} {viewer.close_code} {viewer.errors[-1:]}"[:200]] += 1
            await asyncio.sleep(1.0)
