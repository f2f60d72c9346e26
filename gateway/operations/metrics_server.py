"""Metrics, health and readiness, and a separate port for them."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from starlette.responses import PlainTextResponse, Response

from gateway.connections import Connections
from gateway.streams import metrics
from gateway.transports.http_protocol import IDLE_WITHIN_S, http_protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.types import Receive, Scope, Send

    from gateway.origins import Hosts
    from gateway.streams.store.store import Store

READY_WITHIN_S: Final = 1.0
"""Time in which the store has to answer a ping for the process to be ready."""


MAX_CONNECTIONS: Final = 16
"""Connections of the port. Beyond it the longest silent one is closed, or a connection has one short request."""


def metrics_response() -> Response:
    """Return all metrics of this process in the Prometheus text format."""
    return Response(generate_latest(metrics.REGISTRY), headers={"content-type": CONTENT_TYPE_LATEST})


async def readiness(store: Store) -> Response:
    """Return 200 if the store answers, otherwise 503. Safe to cancel."""
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await store.client.ping()
    except (TimeoutError, RedisError, OSError):
        return PlainTextResponse("the store does not answer\n", 503)
    return PlainTextResponse("ok\n")


class MetricsServer(uvicorn.Server):
    """`/metrics`, `/healthz` and `/readyz` on a separate port, which only operators need to reach."""

    def __init__(self, ready: Callable[[], Awaitable[Response]], hosts: Hosts) -> None:
        """`ready` returns the response of `/readyz`. `hosts`: the names that requests may address."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            allowed = len(given) <= 1 and hosts.allows(given[0] if given else None)
            response: Response
            match scope["path"] if allowed else None:
                case None:
                    response = PlainTextResponse("forbidden: use the address of this port as the host\n", 403)
                case "/metrics":
                    response = metrics_response()
                case "/healthz":
                    response = PlainTextResponse("ok\n")
                case "/readyz":
                    response = await ready()
                case _:
                    response = PlainTextResponse("not found: use /metrics, /healthz or /readyz\n", 404)
            await response(scope, receive, send)

        super().__init__(
            uvicorn.Config(
                answer,
                lifespan="off",
                log_config=None,
                access_log=False,
                http=http_protocol(Connections(MAX_CONNECTIONS)),
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=IDLE_WITHIN_S,
                timeout_graceful_shutdown=1,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server`. The process that this server is a part of handles the signals."""
        yield

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until cancelled; then close the listener."""
        serving = asyncio.create_task(self.serve(sockets=[listener]))
        try:
            await asyncio.shield(serving)
        finally:
            self.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            listener.close()


def announce(host: str, port: int) -> None:
    """Print the address of the metrics."""
    click.echo(f"Metrics are at http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
