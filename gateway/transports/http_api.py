"""The HTTP API: send, stop and retry, a snapshot of a conversation, and event streams."""

from __future__ import annotations

import math
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import frame_codec, metrics, wire
from gateway.auth import Denied, Identity
from gateway.feed.feed import MEMORY_RETRY_S
from gateway.feed.loader import MemoryFullError
from gateway.frame_batch import FrameBatch
from gateway.rate_limits import BYTES_PER_UNIT, NAMES_PER_UNIT, subject_of
from gateway.room import Position
from gateway.streams import keys, log_entries
from gateway.streams.store.errors import StoreError
from gateway.streams.tracing import HEADER
from gateway.subject_connections import RETRY_S, TOO_MANY
from gateway.submissions import Failure
from gateway.transports.event_stream import HEADERS, EventResponse, EventStream, StreamCursors, parse_response_cursor
from gateway.transports.held_response import HeldResponse
from gateway.transports.refusals import refused
from gateway.watches import TOO_MUCH_SENT, TOO_MUCH_WATCHED
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
    from gateway.subject_connections import SubjectConnections
    from gateway.submissions import Submissions
    from gateway.token_limits import TokenLimits
    from gateway.watches import Watches
    from gateway.wire import TokenProblem

SOCKET_PATH: Final = "/v1/ws"
"""Path of the WebSocket."""

ADMITTED: Final = "tokenwire.admitted"
"""Key of an ASGI scope: the bucket from which `Gate` took a unit for this request."""

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
        tokens: TokenLimits,
        subject_connections: SubjectConnections,
        watches: Watches,
    ) -> None:
        """`authenticate`: see `Session`. `allows` tells whether a page of an origin may connect.

        `limits`: the rate limit of subjects. `tokens`: of tokens that are not known, which `Gate` asked.
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
        self._tokens = tokens
        self._subject_connections = subject_connections
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
            refused("origin")
            return error_response("forbidden", "The origin of this page is not allowed: see TOKENWIRE_ORIGINS.")
        token = bearer_token(request.headers.get("authorization"))
        identity = self._check_token(token, time.time())
        if token is not None:
            address = request.client.host if request.client else ""
            self._tokens.checked(token, identity, address, time.monotonic())
        if isinstance(identity, Denied):
            return error_response("unauthenticated", identity.sentence, problem=identity.problem)
        subject = _subject_of(request, identity)
        if request.scope.get(ADMITTED) != subject:
            retry_after = self._limits.admit(subject, time.monotonic())
            if retry_after is not None:
                refused("subject_rate")
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
        identity, name = authorized

        async def snapshot() -> bytes:
            room = await self._feed.open(name, {})
            frames, _ = room.begin(None, {})
            return next(frame.body for frame in frames if frame.type == "snapshot")

        return await self._hold(request, identity, snapshot)

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

        async def page() -> bytes:
            return frame_codec.page(older, *await self._feed.page(name, before)).body

        return await self._hold(request, identity, page)

    async def _hold(self, request: Request, identity: Identity, read: Callable[[], Awaitable[bytes]]) -> Response:
        """Return the response with the body that `read` returns; it counts for its subject until it is sent."""
        if not self._subject_connections.open(identity):
            return _too_many_connections()
        response: Response | None = None
        try:
            body = await read()
            self._charge(request, identity, len(body))
            response = self._held_response(request, identity, body)
        except StoreError:
            return error_response("unavailable", "The conversation cannot be read at the moment.", 2.0)
        except MemoryFullError:
            return _memory_full()
        finally:
            if not isinstance(response, HeldResponse):
                self._subject_connections.close(identity)
        return response

    def _held_response(self, request: Request, identity: Identity, body: bytes) -> Response:
        subject, size = _subject_of(request, identity), len(body)
        refusal = self._watches.hold(subject, size)
        if refusal == "too_many":
            return error_response(refusal, TOO_MUCH_SENT, MEMORY_RETRY_S)
        if refusal is not None:
            return _memory_full()

        def released() -> None:
            self._watches.release(subject, size)
            self._subject_connections.close(identity)

        return HeldResponse(body, released)

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
        if not self._subject_connections.open(identity):
            return _too_many_connections()
        address = request.client.host if request.client else ""
        rejection = self._admission.accept(address, time.monotonic())
        if rejection is not None:
            self._subject_connections.close(identity)
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
                self._subject_connections.close(identity)
        if isinstance(begun, Response):
            return begun
        stream, room, position = begun
        self._hub.subscribe(room, stream, position)
        self._feed.schedule_flush()
        self.streams.add(stream)
        subject = _subject_of(request, identity)
        self._watches.add(subject, room.name, room.size, stream)

        def ended() -> None:
            metrics.EVENT_STREAMS.dec()
            self.streams.discard(stream)
            self._hub.unsubscribe(stream)
            self._watches.remove(subject, room.name, stream)
            self._admission.release(address)
            self._subject_connections.close(identity)

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


def bearer_token(authorization: str | None) -> str | None:
    """Return the token of an `Authorization` header (RFC 6750, section 2.1); None without one."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _too_many_connections() -> Response:
    refused("subject_connections")
    return error_response("too_many", TOO_MANY, RETRY_S)


def _memory_full() -> Response:
    return error_response("overloaded", "This gateway holds too many conversations.", MEMORY_RETRY_S)


def rejection_response(rejection: Rejection) -> Response:
    """Return the response to a connection that admission control rejects."""
    code = "too_many" if rejection.address_full else "overloaded"
    refused("address_connections" if rejection.address_full else "connections")
    return error_response(code, f"{rejection.reason[0].upper()}{rejection.reason[1:]}.", rejection.retry_after)
