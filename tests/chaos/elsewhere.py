"""Gateways that run already, whoever made them: only their clients' network can be hurt."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tests.chaos.house import House
from tests.chaos.link import Link

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT_FAULTS: Final = (
    "cut clients",
    "hole to clients",
    "half-close clients",
    "slow clients",
    "slices of clients",
    "limit clients",
)


class Place:
    """A gateway, and the link in front of it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.path = parts.path
        self.clients = Link((parts.hostname, parts.port or 80))


class Elsewhere(House):
    """What takes the place of a house: nothing of it is ours but the links to it."""

    speaks_words = False

    def __init__(self, urls: Sequence[str], model: str) -> None:
        """`urls`: of WebSockets (ws://). `model`: the alias that is asked for."""
        self.name = secrets.token_hex(3)
        self.model = model
        self.places = [Place(url) for url in urls]
        self.gateways: list[Any] = self.places
        self.workers = []
        self.lag = 0.0
        self.replacing = asyncio.Lock()
        self._beats = None

    @property
    def urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{place.clients.port}{place.path}" for place in self.places]

    async def __aenter__(self) -> Elsewhere:
        for place in self.places:
            await place.clients.open()
        self._beats = asyncio.create_task(self._watch_the_clock())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._beats is not None:
            self._beats.cancel()
        for place in self.places:
            await place.clients.close()

    async def mend(self) -> None:
        for place in self.places:
            place.clients.clears()

    async def set_clocks(self) -> None:
        """Their clocks are theirs."""

    def waited(self) -> dict[int, float]:
        return {}

    def output(self) -> str:
        return ""

    def problems(self) -> list[str]:
        return []

    def forget_output(self) -> None:
        """What they print is theirs."""
