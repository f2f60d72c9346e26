"""Routes, lifespan and wiring: the only place where objects meet."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import signal
import sys
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from gateway import frame_codec, metrics
from gateway.admission import Admission
from gateway.auth import Authenticator
from gateway.feed.feed import Feed
from gateway.hub import Hub
from gateway.operations import fleet
from gateway.operations.live_page import LivePage
from gateway.operations.metrics_server import metrics_response, readiness
from gateway.operations.operator_auth import has_operator_token, is_local
from gateway.origins import origin_allowed
from gateway.session import Session
from gateway.streams import presence, records
from gateway.streams.log_fields import error_fields
from gateway.submissions import Submissions
from gateway.timer_wheel import STEP, TimerWheel
from gateway.transports import static
from gateway.transports.asgi_socket import AsgiSocket
from gateway.transports.http_api import HttpApi, failed, refused
from gateway.transports.uvicorn_protocol import TAKE_OVER
from gateway.transports.websocket import Connection
from gateway.transports.widget_files import widget_routes
from gateway.wire import Close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope
    from starlette.types import Send as AsgiSend

    from gateway.frame_codec import Frame
    from gateway.settings import GatewaySettings
    from gateway.streams.store.store import Store

logger = logging.getLogger(__name__)

SOCKET: Final = "/v1/ws"

DENIAL: Final = "websocket.http.response"
"""The extension of an ASGI scope by which a handshake can be refused with a status of one's own."""

FILES_TO_SPARE: Final = 64
"""Descriptors that are not for sockets: the store, requests, and those who have to be told that there is no room."""


class Gateway:
    """One gateway process: what its routes share."""

    def __init__(self, settings: GatewaySettings, store: Store, port: int, models: tuple[str, ...] | None) -> None:
        """`port` is the one listened on; `models` the aliases that may be asked for, None leaves it to the workers."""
        self.store = store
        self._pulse = presence.ProcessStats()
        self.hub = Hub()
        self.feed = Feed(store, self.hub, settings.memory << 20)
        self.authenticator = Authenticator(settings.key, settings.jwt_audience)
        self.models = models
        self.requests = Submissions(store, models, self.feed.submitted)
        self.wheel: TimerWheel[Connection] = TimerWheel(time.monotonic())
        self.connections: set[Connection] = set()
        self.leaving = False
        metrics.LEAVING.set_function(lambda: float(self.leaving))
        self.failed = asyncio.Event()
        """Set when the process is of no use any more and has to be started anew."""
        self.mortal = False
        """Whether its own page may kill it, where another one takes over."""
        token = settings.operator_token
        self._operator_token = token.get_secret_value() if token is not None else None
        self._metrics_elsewhere = settings.metrics_port is not None
        self._origins = settings.origins
        hosts = ("127.0.0.1", "localhost", "[::1]") if settings.loopback else ()
        self._own_origins = tuple(f"http://{host}:{port}" for host in hosts)
        self.admission = Admission(
            settings.sockets or most_sockets(), settings.sockets_per_address, settings.accepts, random.random
        )
        self.api = HttpApi(self.hub, self.feed, self.requests, self.authenticator, self.admission, self.allows)
        self.streams = self.api.streams

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Everything that goes on beside the routes."""
        tasks = [asyncio.create_task(self.feed.run()), asyncio.create_task(self._tick())]
        for task in tasks:
            task.add_done_callback(self._ended)
        # Whatever befalls it, those who are served do not notice.
        seen = asyncio.create_task(presence.heartbeat_loop(self.store, self._record, self._look_around))
        try:
            yield
        finally:
            for task in (*tasks, seen):
                task.cancel()
            await asyncio.gather(*tasks, seen, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        # Without it sockets would stay open and hear nothing: better none.
        error = task.exception()
        if error is not None:
            logger.critical("gateway_failed", extra=error_fields(error))
        self.leaving = True
        self.admission.close()
        self.failed.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(STEP)
            now, wall = time.monotonic(), time.time()
            for connection in self.wheel.due(now):
                connection.tick(now, wall)

    async def _look_around(self) -> None:
        """Look at the queue, and at who is there."""
        queue = await presence.queue(self.store)
        for state, count in (("waiting", queue.waiting), ("running", queue.running), ("behind", queue.behind)):
            metrics.QUEUE.labels(state).set(count)
        metrics.QUEUE_LAG.set(queue.lag)
        for kind, count in (await presence.counts(self.store)).items():
            metrics.FLEET.labels(kind).set(count)

    def _record(self) -> records.Gateway:
        pulse = self._pulse
        pulse.sample()
        watched = fleet.watched(self.hub.rooms.values())
        return records.Gateway(
            name=pulse.name,
            age=pulse.age,
            cpu=pulse.cpu,
            memory=pulse.memory,
            connections=len(self.connections) + len(self.streams),
            viewers=sum(room.viewers for room in self.hub.rooms.values()),
            behind=sum(len(room.behind) for room in self.hub.rooms.values()),
            open_logs=len(watched),
            received=self.feed.received,
            delivered=self.feed.delivered,
            responses=watched,
            leaving=self.leaving,
        )

    def allows(self, origin: str | None) -> bool:
        """Tell whether a page of this origin may connect."""
        return origin_allowed(origin, self._origins, self._own_origins)

    async def websocket(self, socket: WebSocket) -> None:
        """`/v1/ws`: accepted first and refused then, because a browser only sees the code of an accepted socket."""
        address = socket.client.host if socket.client else ""
        refusal = self.admission.admit(address, time.monotonic())
        if refusal is not None:
            if refusal.leaving and DENIAL in socket.scope.get("extensions", {}):
                # A proxy that is told so before the handshake asks another gateway, and the client never knows.
                await socket.send_denial_response(refused(refusal))
                return
            again = frame_codec.error("overloaded", "Too many connections.", retry_after=round(refusal.retry_after, 3))
            await self._refuse(socket, Close.OVERLOADED, refusal.reason, again)
            return
        connection: Connection | None = None
        try:
            if not self.allows(socket.headers.get("origin")):
                await self._refuse(socket, Close.FORBIDDEN_ORIGIN, "this page may not connect")
                return
            await socket.accept()
            take_over = socket.scope.get("extensions", {}).get(TAKE_OVER)
            opened = AsgiSocket(socket) if take_over is None else take_over()
            session = Session(secrets.token_hex(8), self.authenticator.check, self.models, time.monotonic())
            gone = partial(self._gone, address)
            connection = Connection(opened, session, self.hub, self.feed, self.requests, self.wheel, gone)
            self.connections.add(connection)
            metrics.WEBSOCKETS.inc()
            await opened.serve(connection)
        finally:
            if connection is None:
                self.admission.dismiss(address)

    def _gone(self, address: str, connection: Connection) -> None:
        self.connections.discard(connection)
        metrics.WEBSOCKETS.dec()
        self.admission.dismiss(address)

    async def _refuse(self, socket: WebSocket, code: Close, reason: str, last: Frame | None = None) -> None:
        metrics.REFUSED.labels(str(int(code))).inc()
        await socket.accept()
        if last is not None:
            await socket.send_text(last.body.decode())
        await socket.close(code, reason)

    async def kill(self, request: Request) -> Response:
        """`/kill`: the page asks what it would kill (204: nothing), and with POST kills this process."""
        if not self.mortal:
            return Response(status_code=204)
        if request.method == "POST":
            origin = request.headers.get("origin")
            if origin is None or not self.allows(origin):
                return failed("forbidden", "Only the page of this gateway may kill it.")
            os.kill(os.getpid(), signal.SIGKILL)
        return JSONResponse({"gateway": os.getpid()})

    async def healthz(self, _: Request) -> Response:
        """The process runs its loop."""
        return PlainTextResponse("ok\n")

    async def readyz(self, _: Request) -> Response:
        """The process can serve: the store answers, and it is not leaving."""
        return await self.ready()

    async def ready(self) -> Response:
        """The answer to `/readyz`."""
        if self.leaving:
            return PlainTextResponse("leaving\n", 503)
        return await readiness(self.store)

    async def metrics(self, request: Request) -> Response:
        """What this process counts: for this machine, where there is no other port for it, or for operators."""
        if has_operator_token(request, self._operator_token) or (not self._metrics_elsewhere and is_local(request)):
            return metrics_response()
        return PlainTextResponse("metrics are for operators: see TOKENWIRE_METRICS_PORT\n", 404)


def most_sockets() -> int:
    """How many connections the limit of open files allows, with some left for everything else."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return sys.maxsize
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(1, files - FILES_TO_SPARE)


def front(gateway: Gateway, application: Starlette) -> ASGIApp:
    """The same application, but a socket comes to the gateway at once: what stands before the routes is for pages, and
    takes a seventh of what it costs to accept one.
    """

    async def app(scope: Scope, receive: Receive, send: AsgiSend) -> None:
        if scope["type"] == "websocket" and scope["path"] == SOCKET:
            await gateway.websocket(WebSocket(scope, receive, send))
        else:
            await application(scope, receive, send)

    return app


def create(gateway: Gateway, settings: GatewaySettings) -> Starlette:
    """The ASGI application of one gateway."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway.run():
            yield

    routes: list[Any] = [
        WebSocketRoute(SOCKET, gateway.websocket),
        *gateway.api.routes(),
        Route("/healthz", gateway.healthz),
        Route("/readyz", gateway.readyz),
        Route("/metrics", gateway.metrics),
        Route("/kill", gateway.kill, methods=["GET", "POST"]),
        *widget_routes(),
    ]
    if settings.operator_token is not None:
        routes += LivePage(gateway.store, settings.operator_token.get_secret_value()).routes()
    if (folder := static.folder("served/client")) is not None:
        routes.append(Mount("/client", static.Page(directory=folder)))
    if (folder := static.folder("page")) is not None:
        routes.append(Mount("/", static.Page(directory=folder, html=True)))
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
        expose_headers=["retry-after"],
        max_age=600,
    )
    return Starlette(routes=routes, middleware=[cors], lifespan=lifespan)
