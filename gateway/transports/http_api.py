"""What clients ask over HTTP: to send, stop and retry, for a conversation, and for events."""

from __future__ import annotations

import math
import secrets
import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import frame_codec, metrics, wire
from gateway.auth import Authenticator, Denied, Identity
from gateway.frame_batch import FrameBatch
from gateway.room import Position
from gateway.streams import keys
from gateway.streams.store.errors import StoreError
from gateway.streams.tracing import HEADER
from gateway.submissions import Failure
from gateway.transports.event_stream import HEADERS, EventResponse, EventStream, Place, cursor_of
from gateway.wire import Retry, Send, Stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from gateway.admission import Admission, Refusal
    from gateway.feed.feed import Feed
    from gateway.hub import Hub
    from gateway.room import Room
    from gateway.streams.history_log import Accepted
    from gateway.submissions import Submissions

Asked = TypeVar("Asked", Send, Retry)
Framed = TypeVar("Framed", Send, Retry, Stop)


class HttpApi:
    """The routes of one gateway."""

    def __init__(
        self,
        hub: Hub,
        feed: Feed,
        requests: Submissions,
        authenticator: Authenticator,
        admission: Admission,
        allows: Callable[[str | None], bool],
    ) -> None:
        """`allows` tells whether a page of an origin may connect."""
        self.streams: set[EventStream] = set()
        """Those who are being sent events."""
        self._hub = hub
        self._feed = feed
        self._requests = requests
        self._authenticator = authenticator
        self._admission = admission
        self._allows = allows

    def routes(self) -> list[Route]:
        """Where each of it is asked."""
        return [
            Route("/v1/conversations/{conversation}", self.conversation),
            Route("/v1/conversations/{conversation}/messages", self.send, methods=["POST"]),
            Route("/v1/conversations/{conversation}/events", self.conversation_events),
            Route("/v1/responses/{response}/events", self.response_events),
            Route("/v1/responses/{response}/stop", self.stop, methods=["POST"]),
            Route("/v1/responses/{response}/retry", self.retry, methods=["POST"]),
        ]

    def _identify(self, request: Request) -> Identity | Response:
        if not self._allows(request.headers.get("origin")):
            return failed("forbidden", "This page may not connect.")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        identity = self._authenticator.check(token.strip() if scheme.lower() == "bearer" else None, time.time())
        if isinstance(identity, Denied):
            return failed("unauthenticated", f"{identity.reason[0].upper()}{identity.reason[1:]}.")
        return identity

    def _enter(self, request: Request) -> tuple[Identity, str] | Response:
        identity = self._identify(request)
        if isinstance(identity, Response):
            return identity
        name = request.path_params["conversation"]
        if not keys.is_conversation(name):
            return failed("bad_frame", "A conversation is 1 to 128 letters, digits and _ . : ~ -")
        if not identity.opens(name):
            return failed("forbidden", "This conversation is not open to you.")
        return identity, name

    def _approach(self, request: Request) -> tuple[Identity, str] | Response:
        identity = self._identify(request)
        if isinstance(identity, Response):
            return identity
        response = request.path_params["response"]
        if not keys.is_response(response):
            return failed("not_found", "There is no such response.")
        return identity, response

    async def send(self, request: Request) -> Response:
        """`POST /v1/conversations/{id}/messages`."""
        entered = self._enter(request)
        if isinstance(entered, Response):
            return entered
        send = await _asked(request, Send, conversation=entered[1])
        if isinstance(send, Response):
            return send
        return _accepted(await self._requests.send(send))

    async def retry(self, request: Request) -> Response:
        """`POST /v1/responses/{id}/retry`."""
        entered = self._approach(request)
        if isinstance(entered, Response):
            return entered
        identity, response = entered
        retry = await _asked(request, Retry, response=response)
        if isinstance(retry, Response):
            return retry
        return _accepted(await self._requests.retry(retry, identity))

    async def stop(self, request: Request) -> Response:
        """`POST /v1/responses/{id}/stop`."""
        entered = self._approach(request)
        if isinstance(entered, Response):
            return entered
        identity, response = entered
        body = await _body(request) if request.headers.get("content-type") else {}
        if isinstance(body, Response):
            return body
        stop = _frame({**body, "response": response}, Stop)
        if isinstance(stop, Response):
            return stop
        result = await self._requests.stop(stop, identity)
        if isinstance(result, Failure):
            return failed(result.code, result.message, result.retry_after)
        return JSONResponse({"response": response, "stopped": result.now})

    async def conversation(self, request: Request) -> Response:
        """`GET /v1/conversations/{id}`: a snapshot frame."""
        entered = self._enter(request)
        if isinstance(entered, Response):
            return entered
        try:
            room = await self._feed.enter(entered[1], {})
        except StoreError:
            return failed("unavailable", "The conversation can not be read for a moment.", 2.0)
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
            room = await self._feed.enter(name, place.responses, place.turns)
            frames, position = self._feed.begin(room, place.turns, place.responses)
            stream = EventStream(self._feed, place, identity.expires)
            stream.give(FrameBatch(frames))
            return stream, room, position

        return await self._stream(request, begin)

    async def response_events(self, request: Request) -> Response:
        """`GET /v1/responses/{id}/events`: one answer as server-sent events, up to its end; 204 behind that."""
        entered = self._approach(request)
        if isinstance(entered, Response):
            return entered
        identity, response = entered

        async def begin() -> tuple[EventStream, Room, Position] | Response:
            name = await self._requests.conversation(response)
            if name is None or not identity.opens(name):
                return failed("not_found", "There is no such response.")
            last = request.headers.get("last-event-id")
            room = await self._feed.enter(name, {response: last or ""})
            after = cursor_of(last)
            replica = room.responses.get(response)
            if replica is not None and replica.end is not None and after == replica.tail:
                return Response(status_code=204)
            stream = EventStream(self._feed, None, identity.expires)
            return stream, room, Position(None, ((response, after),))

        return await self._stream(request, begin)

    async def _stream(
        self, request: Request, begin: Callable[[], Awaitable[tuple[EventStream, Room, Position] | Response]]
    ) -> Response:
        """The events of a viewer that `begin` makes, if there is room for one more."""
        if request.method == "HEAD":
            return Response(headers=HEADERS)
        address = request.client.host if request.client else ""
        refusal = self._admission.admit(address, time.monotonic())
        if refusal is not None:
            return refused(refusal)
        begun: tuple[EventStream, Room, Position] | Response | None = None
        try:
            begun = await begin()
        except StoreError:
            return failed("unavailable", "The log can not be read for a moment.", 2.0)
        finally:
            if not isinstance(begun, tuple):
                self._admission.dismiss(address)
        if isinstance(begun, Response):
            return begun
        stream, room, position = begun
        self._hub.join(room, stream, position)
        self._feed.schedule()
        self.streams.add(stream)

        def over() -> None:
            metrics.EVENT_STREAMS.dec()
            self.streams.discard(stream)
            self._hub.leave(stream)
            self._admission.dismiss(address)

        metrics.EVENT_STREAMS.inc()
        return EventResponse(stream, over)


async def _asked(request: Request, kind: type[Asked], **fields: str) -> Asked | Response:
    """What a request asks for, as the frame of the same meaning; `fields` are those that are not in its body."""
    body = await _body(request)
    if isinstance(body, Response):
        return body
    fields["key"] = request.headers.get("idempotency-key") or secrets.token_hex(16)
    parent = request.headers.get(HEADER, "")
    if frame_codec.is_traceparent(parent):
        # One that is none of ours is no mistake of the request's (W3C Trace Context, section 3.2).
        fields[HEADER] = parent
    return _frame({**body, **fields}, kind)


def _frame(fields: dict[str, Any], kind: type[Framed]) -> Framed | Response:
    try:
        return msgspec.convert({**fields, "type": kind.__struct_config__.tag}, kind)
    except msgspec.ValidationError as error:
        return failed("bad_frame", str(error)[:200])


async def _body(request: Request) -> dict[str, Any] | Response:
    # A page can post anything but JSON to another origin without asking first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return failed("bad_frame", "The content type must be application/json.")
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > wire.MAX_FRAME_BYTES:
                return failed("bad_frame", "The body is too large.")
    except ClientDisconnect:
        return failed("bad_frame", "The body did not come to its end.")
    try:
        fields = msgspec.json.decode(bytes(body) or b"{}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return failed("bad_frame", "The body is not JSON.")
    if not isinstance(fields, dict):
        return failed("bad_frame", "The body must be a JSON object.")
    return fields


def _accepted(result: Accepted | Failure) -> Response:
    if isinstance(result, Failure):
        return failed(result.code, result.message, result.retry_after)
    return JSONResponse(
        {"message": result.message, "response": result.response, "duplicate": result.duplicate},
        200 if result.duplicate else 202,
    )


def failed(code: str, message: str, retry_after: float | None = None) -> Response:
    """The response to what can not be done; `code` is one of `wire.ERRORS`, `retry_after` in seconds."""
    headers = {"retry-after": str(math.ceil(retry_after))} if retry_after else {}
    if code == "unauthenticated":
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": {"code": code, "message": message}}, wire.ERRORS[code], headers)


def refused(refusal: Refusal) -> Response:
    """The response to whom there is no room for."""
    code = "too_many" if refusal.crowded else "overloaded"
    return failed(code, f"{refusal.reason[0].upper()}{refusal.reason[1:]}.", refusal.retry_after)
