"""Running gateways of any implementation: only the network of their clients can be disturbed."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tests.chaos.deployment import Deployment
from tests.chaos.link import Link

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT_FAULTS: Final = (
    "cut clients",
    "blackhole clients",
    "half-close clients",
    "throttle clients",
    "fragment client traffic",
    "reset clients after bytes",
)


class ExternalGateway:
    """A running gateway and the link in front of it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.path = parts.path
        self.clients = Link((parts.hostname, parts.port or 80))


class ExternalDeployment(Deployment):
    """A deployment that this program does not control, except for the links to its gateways."""

    expects_marked_text = False

    def __init__(self, urls: Sequence[str], model: str) -> None:
        """`urls`: WebSocket URLs (ws://). `model`: the alias to request."""
        self.name = secrets.token_hex(3)
        self.model = model
        self.externals = [ExternalGateway(url) for url in urls]
        self.gateways: list[Any] = self.externals
        self.workers = []
        self.max_stall_s = 0.0
        self.replacing = asyncio.Lock()
        self._stall_monitor = None

    @property
    def urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{gateway.clients.port}{gateway.path}" for gateway in self.externals]

    async def __aenter__(self) -> ExternalDeployment:
        for gateway in self.externals:
            await gateway.clients.open()
        self._stall_monitor = asyncio.create_task(self._measure_stalls())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stall_monitor is not None:
            self._stall_monitor.cancel()
        for gateway in self.externals:
            await gateway.clients.close()

    async def restore(self) -> None:
        for gateway in self.externals:
            gateway.clients.restore()

    async def fix_clocks(self) -> None:
        """Do nothing: the clocks are not under control."""

    def cpu_waits(self) -> dict[int, float]:
        return {}

    def output(self) -> str:
        return ""

    def problems(self) -> list[str]:
        return []

    def clear_output(self) -> None:
        """Do nothing: the output is not under control."""
