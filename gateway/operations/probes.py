"""`/healthz`, `/readyz`, `/metrics` and `/kill` on the port of the clients."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gateway.operations.metrics_server import metrics_response
from gateway.operations.operator_auth import has_operator_token, is_local
from gateway.transports.http_api import error_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from gateway.origins import Hosts


class Probes:
    """The routes for load balancers, operators, and the page that demonstrates a failover."""

    def __init__(
        self,
        *,
        ready: Callable[[], Awaitable[Response]],
        operator_token: str | None,
        metrics_port: int | None,
        killable: Callable[[], bool],
        own_page: Callable[[str | None], bool],
        hosts: Hosts,
    ) -> None:
        """`ready` returns the response of `/readyz`. `metrics_port`: another port that serves the metrics, if any.

        `killable`: the page may kill this process. `own_page` tells whether an origin is that of this gateway's page.
        `hosts`: the names under which programs of this machine address the gateway.
        """
        self._ready = ready
        self._operator_token = operator_token
        self._metrics_port = metrics_port
        self._killable = killable
        self._own_page = own_page
        self._hosts = hosts

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            Route("/kill", self.kill, methods=["GET", "POST"]),
        ]

    async def healthz(self, _: Request) -> Response:
        """Return 200: the event loop runs. Safe to cancel."""
        return PlainTextResponse("ok\n")

    async def readyz(self, _: Request) -> Response:
        """Return 200 if the process accepts clients and the store is available, otherwise 503. Safe to cancel."""
        return await self._ready()

    async def metrics(self, request: Request) -> Response:
        """Return the metrics to operators, and to this machine if no other port serves them. Safe to cancel."""
        local = self._metrics_port is None and is_local(request) and self._hosts.allows(request.headers.get("host"))
        if local or has_operator_token(request, self._operator_token):
            return metrics_response()
        return PlainTextResponse("metrics are for operators: see TOKENWIRE_METRICS_PORT\n", 404)

    async def kill(self, request: Request) -> Response:
        """GET: return the process that the page may kill, 204 for none. POST: kill it. Safe to cancel."""
        if not self._killable():
            return Response(status_code=204)
        if request.method == "POST":
            if not self._own_page(request.headers.get("origin")):
                return error_response("forbidden", "Only the page of this gateway may kill it.")
            os.kill(os.getpid(), signal.SIGKILL)
        return JSONResponse({"gateway": os.getpid()})
