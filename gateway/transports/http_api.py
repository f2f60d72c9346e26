"""The HTTP API: send, stop and retry, a snapshot of a conversation, and event streams."""

from __future__ import annotations

import math
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import frame_codec, metrics, wire
from gateway.auth import ANONYMOUS, Denied, Identity
from gateway.feed.feed import MEMORY_RETRY_S
from gateway.feed.loader import MemoryFullError
from gateway.frame_batch import FrameBatch
from gateway.rate_limits import BYTES_PER_UNIT, NAMES_PER_UNIT, subject_of
from gateway.room import Position
from gateway.streams import keys, log_entries
from gateway.streams.store.errors import StoreError
from gateway.streams.tracing import HEADER
from gateway.submissions import Failure
from gateway.transports.event_stream import HEADERS, EventResponse, EventStream, StreamCursors, parse_response_cursor
from gateway.watches import TOO_MUCH_WATCHED
from gateway.wire import Older, Retry, Send, Stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from gateway.admission import Admission, Rejection
    from gateway.feed.feed import Feed
    from gateway.hub import Hub
    from gateway.rate_limits import RateLimits
    from gateway.room import Room
    from gateway.streams.history_log import Accepted
    from gateway.submissions import Submissions
    from gateway.watches import Watches
    from gateway.wire import TokenProblem

Keyed = TypeVar("Keyed", Send, Retry)
ClientRequest = TypeVar("ClientRequest", Send, Retry, Stop)


class HttpApi:
    """The routes of one gateway."""

    def __init__(
        self,
        *,
        hub: Hub,
        feed: Feed,
        submissions: Submissions,
        authenticate: Callable[[str | None, float], Identity | Denied],
        admission: Admission,
        allows: Callable[[str | None], bool],
        limits: RateLimits,
        limits_without_token: RateLimits,
        watches: Watches,
    ) -> None:
        """`authenticate`: see `Session`. `allows` tells whether a page of an origin may connect.

        `limits`: the rate limit of subjects. `limits_without_token`: of addresses, for tokens that are not valid.
        """
        self.streams: set[EventStream] = set()
        """The open event streams."""
        self._hub = hub
        self._feed = feed
        self._submissions = submissions
        self._check_token = authenticate
        self._admission = admission
        self._allows = allows
        self._limits = limits
        self._limits_without_token = limits_without_token
        self._watches = watches

    def routes(self) -> list[Route]:
        """Return the routes of the API."""
        return [
            Route("/v1/conversations/{conversation}", self.conversation),
            Route("/v1/conversations/{conversation}/messages", self.send, methods=["POST"]),
            Route("/v1/conversations/{conversation}/messages", self.messages),
            Route("/v1/conversations/{conversation}/events", self.conversation_events),
            Route("/v1/responses/{response}/events", self.response_events),
            Route("/v1/responses/{response}/stop", self.stop, methods=["POST"]),
            Route("/v1/responses/{response}/retry", self.retry, methods=["POST"]),
        ]

    def _authenticate(self, request: Request) -> Identity | Response:
        if not self._allows(request.headers.get("origin")):
            return error_response("forbidden", "The origin of this page is not allowed: see TOKENWIRE_ORIGINS.")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        identity = self._check_token(token.strip() if scheme.lower() == "bearer" else None, time.time())
        if isinstance(identity, Denied):
            # A request without the header was counted before its route.
            if "authorization" in request.headers:
                address = subject_of(ANONYMOUS, request.client.host if request.client else "")
                retry_after = self._limits_without_token.admit(address, time.monotonic())
                if retry_after is not None:
                    return error_response("too_fast", "Too many requests without a valid token.", retry_after)
            return error_response("unauthenticated", identity.sentence, problem=identity.problem)
        retry_after = self._limits.admit(_subject_of(request, identity), time.monotonic())
        if retry_after is not None:
            return error_response("too_fast", "Too many requests.", retry_after)
        return identity

    def _charge(self, request: Request, identity: Identity, size: int, names: int = 0) -> None:
        """Count the bytes that a request brought, and the responses that it named, against its subject's limit."""
        units = size / BYTES_PER_UNIT + names / NAMES_PER_UNIT
        self._limits.spend(_subject_of(request, identity), time.monotonic(), units)

    def _authorize_conversation(self, request: Request) -> tuple[Identity, str] | Response:
        identity = self._authenticate(request)
        if isinstance(identity, Response):
            return identity
        name = request.path_params["conversation"]
        if not keys.is_conversation(name):
            return error_response("bad_frame", "A conversation is 1 to 128 letters, digits and _ . : ~ -")
        if not identity.opens(name):
            return error_response("forbidden", "This conversation is not open to you.")
        return identity, name

    def _authorize_response(self, request: Request) -> tuple[Identity, str] | Response:
        identity = self._authenticate(request)
        if isinstance(identity, Response):
            return identity
        response = request.path_params["response"]
        if not keys.is_response(response):
            return error_response("not_found", "There is no such response.")
        return identity, response

    async def send(self, request: Request) -> Response:
        """`POST /v1/conversations/{id}/messages`: accept a message. Safe to cancel; see `Submissions.send`."""
        authorized = self._authorize_conversation(request)
        if isinstance(authorized, Response):
            return authorized
        identity, name = authorized
        send = await _keyed_request(request, Send, conversation=name)
        if isinstance(send, Response):
            return send
        return _submission_response(await self._submissions.send(send, identity))

    async def retry(self, request: Request) -> Response:
        """`POST /v1/responses/{id}/retry`: accept a retry. Safe to cancel; see `Submissions.retry`."""
        authorized = self._authorize_response(request)
        if isinstance(authorized, Response):
            return authorized
        identity, response = authorized
        retry = await _keyed_request(request, Retry, response=response)
        if isinstance(retry, Response):
            return retry
        return _submission_response(await self._submissions.retry(retry, identity))

    async def stop(self, request: Request) -> Response:
        """`POST /v1/responses/{id}/stop`: end a response. Safe to cancel."""
        authorized = self._authorize_response(request)
        if isinstance(authorized, Response):
            return authorized
        identity, response = authorized
        body = await _body(request) if request.headers.get("content-type") else {}
        if isinstance(body, Response):
            return body
        stop = _parse({**body, "response": response}, Stop)
        if isinstance(stop, Response):
            return stop
        result = await self._submissions.stop(stop, identity)
        if isinstance(result, Failure):
            return error_response(result.code, result.message, result.retry_after)
        return JSONResponse({"response": response, "stopped": result.now})

    async def conversation(self, request: Request) -> Response:
        """`GET /v1/conversations/{id}`: a snapshot frame. Safe to cancel."""
        authorized = self._authorize_conversation(request)
        if isinstance(authorized, Response):
            return authorized
        try:
            room = await self._feed.open(authorized[1], {})
        except StoreError:
            return error_response("unavailable", "The conversation cannot be read at the moment.", 2.0)
        except MemoryFullError:
            return _memory_full()
        frames, _ = room.begin(None, {})
        body = next(frame.body for frame in frames if frame.type == "snapshot")
        self._charge(request, authorized[0], len(body))
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    async def messages(self, request: Request) -> Response:
        """`GET /v1/conversations/{id}/messages?before=ID`: a page of older messages. Safe to cancel."""
        authorized = self._authorize_conversation(request)
        if isinstance(authorized, Response):
            return authorized
        identity, name = authorized
        older = Older(conversation=name, before=request.query_params.get("before", ""))
        before = log_entries.parse_history_id(older.before)
        if before is None:
            return error_response("bad_frame", "`before` must be the `earlier` of a snapshot or page.")
        try:
            frame = frame_codec.page(older, *await self._feed.page(name, before))
        except StoreError:
            return error_response("unavailable", "The conversation cannot be read at the moment.", 2.0)
        self._charge(request, identity, len(frame.body))
        return Response(frame.body, media_type="application/json", headers={"cache-control": "no-store"})

    async def conversation_events(self, request: Request) -> Response:
        """`GET /v1/conversations/{id}/events`: all that a WebSocket's watch sends. Safe to cancel."""
        authorized = self._authorize_conversation(request)
        if isinstance(authorized, Response):
            return authorized
        identity, name = authorized
        cursors = StreamCursors.parse(_last_event_id(request))
        if cursors is None:
            return error_response("bad_frame", "The event id has a name that is not the id of a response.")

        async def begin() -> tuple[EventStream, Room, Position] | Response:
            if not self._watches.allows(_subject_of(request, identity), name):
                return error_response("too_many", TOO_MUCH_WATCHED)
            room = await self._feed.open(name, cursors.responses, cursors.history)
            named = len(cursors.responses)
            frames, position = self._feed.begin(room, cursors.history, cursors.responses)
            if cursors.history is not None and log_entries.parse_history_id(cursors.history) != position.history:
                # Of another history: it must not be the id of the first events.
                cursors.history = None
            self._charge(request, identity, self._feed.cost(room, frames, position), named)
            stream = EventStream(self._feed, cursors, identity.expires)
            stream.send(FrameBatch(frames))
            return stream, room, position

        return await self._stream(request, identity, begin)

    async def response_events(self, request: Request) -> Response:
        """`GET /v1/responses/{id}/events`: one answer up to its end; 204 if the client has the end. Safe to cancel."""
        authorized = self._authorize_response(request)
        if isinstance(authorized, Response):
            return authorized
        identity, response = authorized

        async def begin() -> tuple[EventStream, Room, Position] | Response:
            name = await self._submissions.conversation(response)
            if name is None or not identity.opens(name):
                return error_response("not_found", "There is no such response.")
            if not self._watches.allows(_subject_of(request, identity), name):
                return error_response("too_many", TOO_MUCH_WATCHED)
            last = _last_event_id(request)
            room = await self._feed.open(name, {response: last or ""})
            after = parse_response_cursor(last)
            replica = room.responses.get(response)
            if replica is not None and replica.end is not None and after == replica.tail:
                return Response(status_code=204)
            stream = EventStream(self._feed, None, identity.expires)
            position = Position(None, ((response, after),))
            self._charge(request, identity, self._feed.cost(room, (), position))
            return stream, room, position

        return await self._stream(request, identity, begin)

    async def _stream(
        self,
        request: Request,
        identity: Identity,
        begin: Callable[[], Awaitable[tuple[EventStream, Room, Position] | Response]],
    ) -> Response:
        """Subscribe the viewer that `begin` creates, if the connection limits allow it."""
        if request.method == "HEAD":
            return Response(headers=HEADERS)
        address = request.client.host if request.client else ""
        rejection = self._admission.accept(address, time.monotonic())
        if rejection is not None:
            return rejection_response(rejection)
        begun: tuple[EventStream, Room, Position] | Response | None = None
        try:
            begun = await begin()
        except StoreError:
            return error_response("unavailable", "The log cannot be read at the moment.", 2.0)
        except MemoryFullError:
            return _memory_full()
        finally:
            if not isinstance(begun, tuple):
                self._admission.release(address)
        if isinstance(begun, Response):
            return begun
        stream, room, position = begun
        self._hub.subscribe(room, stream, position)
        self._feed.schedule_flush()
        self.streams.add(stream)
        subject = _subject_of(request, identity)
        self._watches.add(subject, room.name, room.size)

        def ended() -> None:
            metrics.EVENT_STREAMS.dec()
            self.streams.discard(stream)
            self._hub.unsubscribe(stream)
            self._watches.remove(subject, room.name)
            self._admission.release(address)

        metrics.EVENT_STREAMS.inc()
        return EventResponse(stream, ended)


def _last_event_id(request: Request) -> str | None:
    """Return the cursor of a client; those that cannot set a header have it in the query."""
    return request.headers.get("last-event-id") or request.query_params.get("lastEventId")


def _subject_of(request: Request, identity: Identity) -> str | None:
    return subject_of(identity, request.client.host if request.client else "")


async def _keyed_request(request: Request, kind: type[Keyed], **fields: str) -> Keyed | Response:
    """Return a request as the frame with the same meaning; `fields` are those that its body does not hold."""
    body = await _body(request)
    if isinstance(body, Response):
        return body
    fields["key"] = request.headers.get("idempotency-key") or secrets.token_hex(16)
    parent = request.headers.get(HEADER, "")
    if frame_codec.is_traceparent(parent):
        # A header in another form is ignored and not an error (W3C Trace Context, section 3.2).
        fields[HEADER] = parent
    return _parse({**body, **fields}, kind)


def _parse(fields: dict[str, Any], kind: type[ClientRequest]) -> ClientRequest | Response:
    try:
        return msgspec.convert({**fields, "type": kind.__struct_config__.tag}, kind)
    except msgspec.ValidationError as error:
        return error_response("bad_frame", str(error)[:200])


async def _body(request: Request) -> dict[str, Any] | Response:
    # Of any other origin, a page can post every content type but JSON without a preflight request.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return error_response("bad_frame", "The content type must be application/json.")
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > wire.MAX_FRAME_BYTES:
                text = f"The body has more than {wire.MAX_FRAME_BYTES} bytes."
                return error_response("bad_frame", text, status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    except ClientDisconnect:
        return error_response("bad_frame", "The body is incomplete.")
    try:
        fields = msgspec.json.decode(bytes(body) or b"{}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return error_response("bad_frame", "The body is not JSON.")
    if not isinstance(fields, dict):
        return error_response("bad_frame", "The body must be a JSON object.")
    return fields


def _submission_response(result: Accepted | Failure) -> Response:
    if isinstance(result, Failure):
        return error_response(result.code, result.message, result.retry_after)
    return JSONResponse(
        {"message": result.message, "response": result.response, "duplicate": result.duplicate},
        200 if result.duplicate else 202,
    )


def error_response(
    code: str,
    message: str,
    retry_after: float | None = None,
    problem: TokenProblem | None = None,
    status: HTTPStatus | None = None,
) -> Response:
    """Return an error; `code` is one of `wire.ERRORS`, `retry_after` in seconds; `problem`: see `ErrorFrame`.

    `status`: instead of the one that belongs to the code.
    """
    headers = {"retry-after": str(math.ceil(retry_after))} if retry_after else {}
    if code == "unauthenticated":
        # RFC 6750, section 3.1: a request without a token gets no error code.
        headers["www-authenticate"] = "Bearer" if problem == "token_missing" else 'Bearer error="invalid_token"'
    error = {"code": code, "message": message, **({"problem": problem} if problem else {})}
    return JSONResponse({"error": error}, status or wire.ERRORS[code], headers)


def _memory_full() -> Response:
    return error_response("overloaded", "This gateway holds too many conversations.", MEMORY_RETRY_S)


def rejection_response(rejection: Rejection) -> Response:
    """Return the response to a connection that admission control rejects."""
    code = "too_many" if rejection.address_full else "overloaded"
    return error_response(code, f"{rejection.reason[0].upper()}{rejection.reason[1:]}.", rejection.retry_after)
