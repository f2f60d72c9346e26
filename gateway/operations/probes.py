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


class Probes:
    """The routes for load balancers, operators, and the page that demonstrates a failover."""

    def __init__(
        self,
        *,
        ready: Callable[[], Awaitable[Response]],
        operator_token: str | None,
        metrics_port: int | None,
        killable: Callable[[], bool],
        allows: Callable[[str | None], bool],
    ) -> None:
        """`ready` returns the response of `/readyz`. `metrics_port`: another port that serves the metrics, if any.

        `killable`: the page may kill this process. `allows` tells whether a page of an origin may connect.
        """
        self._ready = ready
        self._operator_token = operator_token
        self._metrics_port = metrics_port
        self._killable = killable
        self._allows = allows

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
        if has_operator_token(request, self._operator_token) or (self._metrics_port is None and is_local(request)):
            return metrics_response()
        return PlainTextResponse("metrics are for operators: see TOKENWIRE_METRICS_PORT\n", 404)

    async def kill(self, request: Request) -> Response:
        """GET: return the process that the page may kill, 204 for none. POST: kill it. Safe to cancel."""
        if not self._killable():
            return Response(status_code=204)
        if request.method == "POST":
            origin = request.headers.get("origin")
            if origin is None or not self._allows(origin):
                return error_response("forbidden", "Only the page of this gateway may kill it.")
            os.kill(os.getpid(), signal.SIGKILL)
        return JSONResponse({"gateway": os.getpid()})
