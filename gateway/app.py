"""The composition of one gateway: it creates the objects, connects them, and lists the routes."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, WebSocketRoute

from gateway import metrics
from gateway.addresses import Proxies
from gateway.admission import Admission
from gateway.auth import Authenticator
from gateway.connections import MAX_RESERVED, Connections
from gateway.deadlines import Deadlines
from gateway.feed.feed import Feed
from gateway.hub import Hub
from gateway.operations.gateway_report import GatewayReport
from gateway.operations.live_page import LivePage
from gateway.operations.metrics_server import readiness
from gateway.operations.probes import Probes
from gateway.origins import Hosts, normal_origin, origin_allowed
from gateway.rate_limits import WITHOUT_TOKEN_PER_S, RateLimits
from gateway.streams.log_fields import error_fields
from gateway.streams.quota import Limits
from gateway.subject_connections import SubjectConnections
from gateway.submissions import Submissions
from gateway.timer_wheel import STEP_S, TimerWheel
from gateway.token_limits import TokenLimits
from gateway.transports import static
from gateway.transports.authentication import TokenCheck
from gateway.transports.gate import Gate
from gateway.transports.http_api import SOCKET_PATH, HttpApi
from gateway.transports.websocket_endpoint import WebSocketEndpoint
from gateway.transports.widget_files import widget_routes
from gateway.watches import Watches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp

    from gateway.settings import GatewaySettings
    from gateway.streams.store.store import Store
    from gateway.transports.client_transport import ClientTransport
    from gateway.transports.websocket import Connection

logger = logging.getLogger(__name__)

SPARE_FILES: Final = 64 + MAX_RESERVED
"""Open files that are not for clients within the limits: the store, the metrics port, and reserved connections."""


class Gateway:
    """One gateway process."""

    def __init__(self, settings: GatewaySettings, store: Store, port: int, models: tuple[str, ...] | None) -> None:
        """`port`: the port that clients connect to. `models`: the aliases they may request; None: workers decide."""
        self.store = store
        self.shutting_down = False
        self.failed = asyncio.Event()
        """Set when the process must be restarted."""
        self.killable = False
        """Whether the page may kill this process, because another gateway takes over."""
        self._origins = settings.origins
        hosts = ("127.0.0.1", "localhost", "[::1]") if settings.loopback else ()
        self._own_origins = tuple(f"http://{host}:{port}" for host in hosts)
        token = settings.operator_token
        self._timers: TimerWheel[Connection] = TimerWheel(time.monotonic())
        self.hub = Hub()
        watches = Watches(settings.memory << 20)
        self.feed = Feed(store, self.hub, settings.memory << 20, watches)
        queues_s = {alias: own.queue_timeout for alias, own in settings.timeouts().items() if own.queue_timeout}
        self._deadlines = Deadlines(
            store, self.hub, queue_s=settings.queue_timeout, lease_s=settings.lease, queues_s=queues_s
        )
        self.proxies = Proxies(settings.proxies)
        self.hosts = Hosts(None if settings.key is not None else (settings.host, *settings.hosts))
        max_connections = settings.sockets or max_sockets()
        self.tcp_connections: Connections[ClientTransport] = Connections(max_connections, settings.sockets_per_address)
        self.admission = Admission(
            max_connections=max_connections,
            max_per_address=settings.sockets_per_address,
            rate=settings.accepts,
            random=random.random,
        )
        self.limits = RateLimits(settings.requests)
        self.tokens = TokenLimits(RateLimits(WITHOUT_TOKEN_PER_S if settings.requests else 0.0))
        subject_connections = SubjectConnections(settings.sockets_per_subject)
        authenticator = Authenticator(settings.key, settings.jwt_audience, settings.jwt_issuer)
        authenticate = TokenCheck(authenticator).check
        quotas = Limits(
            open_responses=settings.open_per_subject,
            subject_bytes=settings.daily_per_subject << 20,
            conversation_bytes=settings.daily_per_conversation << 20,
        )
        submissions = Submissions(store, models, self.feed.response_submitted, quotas)
        self.sockets = WebSocketEndpoint(
            hub=self.hub,
            feed=self.feed,
            submissions=submissions,
            authenticate=authenticate,
            admission=self.admission,
            timers=self._timers,
            models=models,
            allows=self.allows,
            limits=self.limits,
            tokens=self.tokens,
            subject_connections=subject_connections,
            watches=watches,
        )
        self.connections = self.sockets.connections
        self.api = HttpApi(
            hub=self.hub,
            feed=self.feed,
            submissions=submissions,
            authenticate=authenticate,
            admission=self.admission,
            allows=self.allows,
            limits=self.limits,
            tokens=self.tokens,
            subject_connections=subject_connections,
            watches=watches,
        )
        self.streams = self.api.streams
        self.probes = Probes(
            ready=self.ready,
            operator_token=token.get_secret_value() if token is not None else None,
            metrics_port=settings.metrics_port,
            killable=lambda: self.killable,
            own_page=self.is_own_page,
            hosts=Hosts((settings.host, *settings.hosts)),
        )
        self._report = GatewayReport(
            store=store,
            hub=self.hub,
            feed=self.feed,
            count_connections=lambda: len(self.connections) + len(self.streams),
            is_shutting_down=lambda: self.shutting_down,
        )
        metrics.SHUTTING_DOWN.set_function(lambda: float(self.shutting_down))

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run the background tasks. Safe to cancel."""
        tasks = [asyncio.create_task(work) for work in (self.feed.run(), self._tick(), self._deadlines.run())]
        for task in tasks:
            task.add_done_callback(self._stop_if_failed)
        # Its failure does not affect clients.
        report = asyncio.create_task(self._report.run())
        try:
            yield
        finally:
            for task in (*tasks, report):
                task.cancel()
            await asyncio.gather(*tasks, report, return_exceptions=True)

    def _stop_if_failed(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        # Without the task, sockets would stay open and receive nothing, so the process is restarted.
        error = task.exception()
        if error is not None:
            logger.critical("gateway_failed", extra=error_fields(error))
        self.shutting_down = True
        self.admission.close()
        self.failed.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            now, wall = time.monotonic(), time.time()
            for connection in self._timers.due(now):
                try:
                    connection.tick(now, wall)
                except Exception as error:
                    # Without this, a fault of one connection would end the process.
                    connection.fail(error)

    def allows(self, origin: str | None) -> bool:
        """Tell whether a page of this origin may connect."""
        return origin_allowed(origin, self._origins, self._own_origins)

    def is_own_page(self, origin: str | None) -> bool:
        """Tell whether a page of this origin is one that this gateway serves; `TOKENWIRE_ORIGINS` does not matter."""
        return origin is not None and normal_origin(origin) in self._own_origins

    async def ready(self) -> Response:
        """Return the response of `/readyz`. Safe to cancel."""
        if self.shutting_down:
            return PlainTextResponse("shutting down\n", 503)
        return await readiness(self.store)


def max_sockets() -> int:
    """Return the number of connections that the limit of open files allows, less SPARE_FILES."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return sys.maxsize
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(1, files - SPARE_FILES)


def routes(gateway: Gateway, settings: GatewaySettings) -> list[Any]:
    """Return the routes of a gateway."""
    found: list[Any] = [
        WebSocketRoute(SOCKET_PATH, gateway.sockets.serve),
        *gateway.api.routes(),
        *gateway.probes.routes(),
        *widget_routes(),
    ]
    if settings.operator_token is not None:
        found += LivePage(gateway.store, settings.operator_token.get_secret_value()).routes()
    if (folder := static.folder("served/client")) is not None:
        found.append(Mount("/client", static.Page(directory=folder)))
    if (folder := static.folder("page")) is not None:
        found.append(Mount("/", static.Page(directory=folder, html=True)))
    return found


def create(gateway: Gateway, settings: GatewaySettings) -> ASGIApp:
    """Return the ASGI application of a gateway."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway.run():
            yield

    cors = partial(
        CORSMiddleware,
        allow_origins=list(settings.origins),
        allow_methods=["GET", "POST"],
        # Monitoring scripts add headers to the requests of a page, and no cookie is ever used.
        allow_headers=["*"],
        expose_headers=["retry-after", "www-authenticate"],
        max_age=600,
    )
    pages = Starlette(routes=routes(gateway, settings), middleware=[Middleware(cors)], lifespan=lifespan)
    application = gateway.sockets.in_front_of(pages)
    return Gate(
        application,
        admission=gateway.admission,
        proxies=gateway.proxies,
        hosts=gateway.hosts,
        limits=gateway.limits,
        tokens=gateway.tokens,
        cors=cors,
    )
