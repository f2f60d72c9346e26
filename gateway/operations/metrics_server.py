"""What operators' programs ask a process for: its metrics and its health; and a port of its own for them."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from starlette.responses import PlainTextResponse, Response

from gateway.streams import metrics

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.requests import HTTPConnection
    from starlette.types import Receive, Scope, Send

    from gateway.streams.store.store import Store

FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers by which a proxy says that a request is somebody else's."""

ANSWERS_WITHIN: Final = 1.0
"""Seconds in which a store that can serve answers."""


def scraped() -> Response:
    """All that this process counts."""
    return Response(generate_latest(metrics.REGISTRY), headers={"content-type": CONTENT_TYPE_LATEST})


def bears(request: HTTPConnection, token: str | None) -> bool:
    """Tell whether a request bears the operators' token; never where there is none."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return (
        token is not None
        and scheme.lower() == "bearer"
        and hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    )


def is_local(request: HTTPConnection) -> bool:
    """Tell whether a program of this machine asks for itself: a proxy that says for whom it asks does not."""
    if request.client is None or any(header in request.headers for header in FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


async def readiness(store: Store) -> Response:
    """Whether the store answers."""
    try:
        async with asyncio.timeout(ANSWERS_WITHIN):
            await store.client.ping()
    except (TimeoutError, RedisError, OSError):
        return PlainTextResponse("the store does not answer\n", 503)
    return PlainTextResponse("ok\n")


class MetricsServer(uvicorn.Server):
    """`/metrics`, `/healthz` and `/readyz` on a port of their own, which need not be anybody else's to reach."""

    def __init__(self, ready: Callable[[], Awaitable[Response]]) -> None:
        """`ready` answers `/readyz`."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            match scope["path"]:
                case "/metrics":
                    response = scraped()
                case "/healthz":
                    response = PlainTextResponse("ok\n")
                case "/readyz":
                    response = await ready()
                case _:
                    response = PlainTextResponse("there are /metrics, /healthz and /readyz here\n", 404)
            await response(scope, receive, send)

        super().__init__(
            uvicorn.Config(
                answer,
                lifespan="off",
                log_config=None,
                access_log=False,
                ws="none",
                server_header=False,
                proxy_headers=False,
                limit_concurrency=16,
                timeout_graceful_shutdown=1,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See `uvicorn.Server`: signals are for the process that this is a part of."""
        yield

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until cancelled."""
        serving = asyncio.create_task(self.serve(sockets=[listener]))
        try:
            await asyncio.shield(serving)
        finally:
            self.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            listener.close()


def announce(host: str, port: int) -> None:
    """Say where."""
    click.echo(f"Metrics are at http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
