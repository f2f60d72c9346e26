"""The port for operators' programs, where a process has one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.streams.settings import ProcessSettings


@asynccontextmanager
async def open_metrics_port(settings: ProcessSettings, ready: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    """Serve /metrics, /healthz and /readyz within the context, if the settings name a port; raises ClickException.

    `ready` returns the response of /readyz. Safe to cancel.
    """
    if settings.metrics_port is None:
        yield
        return
    # Imported here: a worker without this port starts without an HTTP server.
    from gateway.addresses import is_loopback
    from gateway.operations.metrics_server import MetricsServer, announce
    from gateway.origins import Hosts
    from gateway.process.listener import listen

    host = settings.metrics_host or settings.host
    listener = listen(host, settings.metrics_port, setting="METRICS_PORT")
    announce(host, listener.getsockname()[1])
    # Prometheus of another machine may use any name of this one; on loopback a foreign name is a rebound one.
    hosts = Hosts(() if host == "localhost" or is_loopback(host) else None)
    serving = asyncio.create_task(MetricsServer(ready, hosts).run_on(listener))
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
