"""uvicorn under the gateway: its limits, and the graceful shutdown."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import uvicorn

from gateway import app, wire
from gateway.drain import DrainSchedule
from gateway.process.collection_policy import CollectionPolicy
from gateway.process.collector import CHECK_INTERVAL_S, collect_if_due, resident_bytes, settle_collector
from gateway.process.listener import BACKLOG
from gateway.transports.http_protocol import IDLE_WITHIN_S, http_protocol
from gateway.transports.uvicorn_protocol import WebSocketProtocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from gateway.app import Gateway
    from gateway.process.signals import Signals
    from gateway.settings import GatewaySettings
    from gateway.transports.event_stream import EventStream
    from gateway.transports.websocket import Connection

CLOSE_WITHIN_S: Final = 1
"""How long requests and sockets that are still open after the drain may take to close."""

DRAIN_STEP_S: Final = 0.02
"""Interval at which clients that are due in the drain are looked up."""


class Server(uvicorn.Server):
    """uvicorn with this product's limits. On shutdown every client gets a reconnect hint before it is closed."""

    def __init__(self, gateway: Gateway, settings: GatewaySettings, signals: Signals, drain: float) -> None:
        """`drain`: seconds of the graceful shutdown; 0 where clients have no other gateway to reconnect to."""
        super().__init__(
            uvicorn.Config(
                app.create(gateway, settings),
                lifespan="on",
                log_config=None,
                access_log=False,
                http=http_protocol(gateway.tcp_connections, gateway.proxies),
                ws=WebSocketProtocol,
                ws_max_size=wire.MAX_FRAME_BYTES,
                ws_per_message_deflate=False,
                # Heartbeats and the kernel's timeouts detect a dead client without two timers for each client.
                ws_ping_interval=None,
                # `gateway.transports.gate` does this: with `*` uvicorn believes what a client claims.
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=CLOSE_WITHIN_S,
                timeout_keep_alive=IDLE_WITHIN_S,
                # uvicorn calls listen() again, with this value.
                backlog=BACKLOG,
            )
        )
        self._gateway = gateway
        self._signals = signals
        self._drain = drain
        self._collections = CollectionPolicy(0, 0.0)
        self._pre_drain_delay = min(settings.notice, drain / 2)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server`, which raises a signal again after its shutdown.

        That would end the process before the worker has handed over its jobs and the embedded server has stopped.
        """
        yield

    async def on_tick(self, counter: int) -> bool:
        """See `uvicorn.Server`, which calls this ten times a second."""
        if counter % (10 * CHECK_INTERVAL_S) == 0:
            collect_if_due(self._collections)
        return await super().on_tick(counter) or self._signals.leave.is_set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        settle_collector()
        self._collections = CollectionPolicy(resident_bytes(), time.monotonic())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down gracefully: fail /readyz, then reject new clients, then drain; see `uvicorn.Server`.

        Not safe to cancel: clients would be cut without a reconnect hint.
        """
        gateway = self._gateway
        gateway.shutting_down = True
        begin = time.monotonic()
        if not gateway.failed.is_set():
            if not self._signals.interrupted:
                # Load balancers send new clients until a readiness check has failed, so these are still accepted.
                await self._wait_until(begin + self._pre_drain_delay)
            gateway.admission.close()
            await self._drain_clients(begin + self._drain)
        # uvicorn closes the remaining sockets with 1012.
        if self._signals.now.is_set():
            self.config.timeout_graceful_shutdown = 0
        await super().shutdown(sockets)

    async def _drain_clients(self, end: float) -> None:
        gateway = self._gateway
        clients: list[Connection | EventStream] = [*gateway.connections, *gateway.streams]
        now = time.monotonic()
        schedule = DrainSchedule(clients, now, max(0.0, end - now))
        while (gateway.connections or gateway.streams) and not schedule.over and not self._signals.now.is_set():
            now = time.monotonic()
            for client in schedule.notify(now):
                client.send_reconnect_hint(schedule.hint_s)
            for client in schedule.close(now):
                client.close_for_restart()
            await self._wait_until(now + DRAIN_STEP_S)

    async def _wait_until(self, moment: float) -> None:
        """Wait until a time of the monotonic clock, or until the process has to stop immediately."""
        try:
            async with asyncio.timeout(moment - time.monotonic()):
                await self._signals.now.wait()
        except TimeoutError:
            pass
