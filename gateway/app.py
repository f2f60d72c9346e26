"""Routes, lifespan and wiring: the only place where objects meet."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import secrets
import signal
import sys
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from gateway import fleet, metrics, pages, wire
from gateway.admission import Admission, Refusal
from gateway.asgi_socket import AsgiSocket
from gateway.assets import widget_routes
from gateway.auth import Authenticator, Denied, Identity, origin_allowed
from gateway.burst import Burst
from gateway.connection import Connection
from gateway.dialects.sse import EventResponse, EventStream, Place, cursor_of
from gateway.exposition import bears, is_local, readiness, scraped
from gateway.feed import Feed
from gateway.hub import Hub, Position
from gateway.live import Live
from gateway.requests import Failure, Requests
from gateway.session import Session
from gateway.streams import jobs, keys, log, presence, records
from gateway.streams.errors import StoreError
from gateway.streams.tracing import HEADER
from gateway.uvicorn_protocol import TAKE_OVER
from gateway.wheel import STEP, Wheel
from gateway.wire import Close, Retry, Send, Stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope
    from starlette.types import Send as AsgiSend

    from gateway.hub import Room
    from gateway.settings import Settings
    from gateway.streams.store import Store
    from gateway.wire import Frame

logger = logging.getLogger(__name__)

SOCKET: Final = "/v1/ws"

DENIAL: Final = "websocket.http.response"
"""The extension of an ASGI scope by which a handshake can be refused with a status of one's own."""

FILES_TO_SPARE: Final = 64
"""Descriptors that are not for sockets: the store, requests, and those who have to be told that there is no room."""


class Gateway:
    """One gateway process: what its routes share."""

    def __init__(self, settings: Settings, store: Store, port: int, models: tuple[str, ...] | None) -> None:
        """`port` is the one listened on; `models` the aliases that may be asked for, None leaves it to the workers."""
        self.store = store
        self._pulse = presence.Pulse()
        self.hub = Hub()
        self.feed = Feed(store, self.hub, settings.memory << 20)
        self.authenticator = Authenticator(settings.key, settings.jwt_audience)
        self.models = models
        self.requests = Requests(store, models, self.feed.submitted)
        self.wheel: Wheel[Connection] = Wheel(time.monotonic())
        self.connections: set[Connection] = set()
        self.streams: set[EventStream] = set()
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

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Everything that goes on beside the routes."""
        tasks = [asyncio.create_task(self.feed.run()), asyncio.create_task(self._tick())]
        for task in tasks:
            task.add_done_callback(self._ended)
        # Whatever befalls it, those who are served do not notice.
        seen = asyncio.create_task(presence.keep_showing(self.store, self._record, self._look_around))
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
        logger.critical("the gateway can not go on (%s)", type(error).__name__)
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
        pulse.beat()
        watched = fleet.watched(self.hub.rooms.values())
        return records.Gateway(
            pulse.name,
            pulse.age,
            pulse.cpu,
            pulse.memory,
            len(self.connections) + len(self.streams),
            sum(room.viewers for room in self.hub.rooms.values()),
            sum(len(room.behind) for room in self.hub.rooms.values()),
            len(watched),
            self.feed.received,
            self.feed.delivered,
            watched,
            self.leaving,
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
                await socket.send_denial_response(_refusal(refusal))
                return
            again = wire.error("overloaded", "Too many connections.", retry_after=round(refusal.retry_after, 3))
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

    def _identify(self, request: Request) -> Identity | Response:
        if not self.allows(request.headers.get("origin")):
            return _error("forbidden", "This page may not connect.")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        identity = self.authenticator.check(token.strip() if scheme.lower() == "bearer" else None, time.time())
        if isinstance(identity, Denied):
            return _error("unauthenticated", f"{identity.reason[0].upper()}{identity.reason[1:]}.")
        return identity

    def _enter(self, request: Request) -> tuple[Identity, str] | Response:
        identity = self._identify(request)
        if isinstance(identity, Response):
            return identity
        name = request.path_params["conversation"]
        if not keys.is_conversation(name):
            return _error("bad_frame", "A conversation is 1 to 128 letters, digits and _ . : ~ -")
        if not identity.opens(name):
            return _error("forbidden", "This conversation is not open to you.")
        return identity, name

    async def send(self, request: Request) -> Response:
        """`POST /v1/conversations/{id}/messages`."""
        entered = self._enter(request)
        if isinstance(entered, Response):
            return entered
        body = await _body(request)
        if isinstance(body, Response):
            return body
        key = request.headers.get("idempotency-key") or secrets.token_hex(16)
        try:
            send = msgspec.convert(
                {**_traced(request, body), "type": "send", "conversation": entered[1], "key": key}, Send
            )
        except msgspec.ValidationError as error:
            return _error("bad_frame", str(error)[:200])
        result = await self.requests.send(send)
        if isinstance(result, Failure):
            return _error(result.code, result.message, result.retry_after)
        return JSONResponse(
            {"message": result.message, "response": result.response, "duplicate": result.duplicate},
            200 if result.duplicate else 202,
        )

    async def retry(self, request: Request) -> Response:
        """`POST /v1/responses/{id}/retry`."""
        identity = self._identify(request)
        if isinstance(identity, Response):
            return identity
        body = await _body(request)
        if isinstance(body, Response):
            return body
        key = request.headers.get("idempotency-key") or secrets.token_hex(16)
        fields = {**_traced(request, body), "type": "retry", "response": request.path_params["response"], "key": key}
        try:
            retry = msgspec.convert(fields, Retry)
        except msgspec.ValidationError as error:
            return _error("bad_frame", str(error)[:200])
        if not keys.is_response(retry.response):
            return _error("not_found", "There is no such response.")
        result = await self.requests.retry(retry, identity)
        if isinstance(result, Failure):
            return _error(result.code, result.message, result.retry_after)
        return JSONResponse(
            {"message": result.message, "response": result.response, "duplicate": result.duplicate},
            200 if result.duplicate else 202,
        )

    async def stop(self, request: Request) -> Response:
        """`POST /v1/responses/{id}/stop`."""
        identity = self._identify(request)
        if isinstance(identity, Response):
            return identity
        response = request.path_params["response"]
        if not keys.is_response(response):
            return _error("not_found", "There is no such response.")
        body = await _body(request) if request.headers.get("content-type") else {}
        if isinstance(body, Response):
            return body
        try:
            stop = msgspec.convert({**body, "type": "stop", "response": response}, Stop)
        except msgspec.ValidationError as error:
            return _error("bad_frame", str(error)[:200])
        result = await self.requests.stop(stop, identity)
        if isinstance(result, Failure):
            return _error(result.code, result.message, result.retry_after)
        return JSONResponse({"response": response, "stopped": result.now})

    async def conversation(self, request: Request) -> Response:
        """`GET /v1/conversations/{id}`: a snapshot frame."""
        entered = self._enter(request)
        if isinstance(entered, Response):
            return entered
        try:
            room = await self.feed.enter(entered[1], {})
        except StoreError:
            return _error("unavailable", "The conversation can not be read for a moment.", 2.0)
        frames, _ = room.begin(None, {})
        body = next(frame.body for frame in frames if frame.type == "snapshot")
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    async def conversation_events(self, request: Request) -> Response:
        """`GET /v1/conversations/{id}/events`: everything that a WebSocket's watch gives, as server-sent events."""
        entered = self._enter(request)
        if isinstance(entered, Response):
            return entered
        identity, name = entered
        place = Place.parse(request.headers.get("last-event-id"))

        async def begin() -> tuple[EventStream, Room, Position]:
            room = await self.feed.enter(name, place.responses, place.turns)
            frames, position = self.feed.begin(room, place.turns, place.responses)
            stream = EventStream(self.feed, place, identity.expires)
            stream.give(Burst(frames))
            return stream, room, position

        return await self._stream(request, begin)

    async def response_events(self, request: Request) -> Response:
        """`GET /v1/responses/{id}/events`: one answer as server-sent events, up to its end; 204 behind that."""
        identity = self._identify(request)
        if isinstance(identity, Response):
            return identity
        response = request.path_params["response"]
        if not keys.is_response(response):
            return _error("not_found", "There is no such response.")

        async def begin() -> tuple[EventStream, Room, Position] | Response:
            queued = await log.request(self.store, response)
            name = queued.conversation if queued else await jobs.conversation_of(self.store, response)
            if name is None or not identity.opens(name):
                return _error("not_found", "There is no such response.")
            last = request.headers.get("last-event-id")
            room = await self.feed.enter(name, {response: last or ""})
            after = cursor_of(last)
            replica = room.responses.get(response)
            if replica is not None and replica.end is not None and after == replica.tail:
                return Response(status_code=204)
            stream = EventStream(self.feed, None, identity.expires)
            return stream, room, Position(None, ((response, after),))

        return await self._stream(request, begin)

    async def _stream(
        self, request: Request, begin: Callable[[], Awaitable[tuple[EventStream, Room, Position] | Response]]
    ) -> Response:
        """The events of a viewer that `begin` makes, if there is room for one more."""
        address = request.client.host if request.client else ""
        refusal = self.admission.admit(address, time.monotonic())
        if refusal is not None:
            return _refusal(refusal)
        begun: tuple[EventStream, Room, Position] | Response | None = None
        try:
            begun = await begin()
        except StoreError:
            return _error("unavailable", "The log can not be read for a moment.", 2.0)
        finally:
            if not isinstance(begun, tuple):
                self.admission.dismiss(address)
        if isinstance(begun, Response):
            return begun
        stream, room, position = begun
        self.hub.join(room, stream, position)
        self.feed.schedule()
        self.streams.add(stream)

        def over() -> None:
            metrics.EVENT_STREAMS.dec()
            self.streams.discard(stream)
            self.hub.leave(stream)
            self.admission.dismiss(address)

        metrics.EVENT_STREAMS.inc()
        return EventResponse(stream, over)

    async def kill(self, request: Request) -> Response:
        """`/kill`: the page asks what it would kill (204: nothing), and with POST kills this process."""
        if not self.mortal:
            return Response(status_code=204)
        if request.method == "POST":
            origin = request.headers.get("origin")
            if origin is None or not self.allows(origin):
                return _error("forbidden", "Only the page of this gateway may kill it.")
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
        if bears(request, self._operator_token) or (not self._metrics_elsewhere and is_local(request)):
            return scraped()
        return PlainTextResponse("metrics are for operators: see TOKENWIRE_METRICS_PORT\n", 404)


async def _body(request: Request) -> dict[str, Any] | Response:
    # A page can post anything but JSON to another origin without asking first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return _error("bad_frame", "The content type must be application/json.")
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > wire.MOST_FRAME_BYTES:
                return _error("bad_frame", "The body is too large.")
    except ClientDisconnect:
        return _error("bad_frame", "The body did not come to its end.")
    try:
        fields = msgspec.json.decode(bytes(body) or b"{}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _error("bad_frame", "The body is not JSON.")
    if not isinstance(fields, dict):
        return _error("bad_frame", "The body must be a JSON object.")
    return fields


def _traced(request: Request, body: dict[str, Any]) -> dict[str, Any]:
    parent = request.headers.get(HEADER, "")
    # One that is none of ours is no mistake of the request's (W3C Trace Context, section 3.2).
    return {**body, HEADER: parent} if wire.is_traceparent(parent) else body


def _error(code: str, message: str, retry_after: float | None = None) -> Response:
    headers = {"retry-after": str(math.ceil(retry_after))} if retry_after else {}
    if code == "unauthenticated":
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": {"code": code, "message": message}}, wire.ERRORS[code], headers)


def _refusal(refusal: Refusal) -> Response:
    code = "too_many" if refusal.crowded else "overloaded"
    return _error(code, f"{refusal.reason[0].upper()}{refusal.reason[1:]}.", refusal.retry_after)


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


def create(gateway: Gateway, settings: Settings) -> Starlette:
    """The ASGI application of one gateway."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway.run():
            yield

    routes: list[Any] = [
        WebSocketRoute(SOCKET, gateway.websocket),
        Route("/v1/conversations/{conversation}", gateway.conversation),
        Route("/v1/conversations/{conversation}/messages", gateway.send, methods=["POST"]),
        Route("/v1/conversations/{conversation}/events", gateway.conversation_events),
        Route("/v1/responses/{response}/events", gateway.response_events),
        Route("/v1/responses/{response}/stop", gateway.stop, methods=["POST"]),
        Route("/v1/responses/{response}/retry", gateway.retry, methods=["POST"]),
        Route("/healthz", gateway.healthz),
        Route("/readyz", gateway.readyz),
        Route("/metrics", gateway.metrics),
        Route("/kill", gateway.kill, methods=["GET", "POST"]),
        *widget_routes(),
    ]
    if settings.operator_token is not None:
        routes += Live(gateway.store, settings.operator_token.get_secret_value()).routes()
    if (folder := pages.folder("page")) is not None:
        routes.append(Mount("/", pages.Page(directory=folder, html=True)))
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.origins),
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
        expose_headers=["retry-after"],
        max_age=600,
    )
    return Starlette(routes=routes, middleware=[cors], lifespan=lifespan)
