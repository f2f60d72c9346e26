"""`/live`: the fleet as a page for operators. It is read-only and shows ids, counts and times, never a text."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from gateway.operations.operator_auth import has_operator_token
from gateway.operations.overview import overview
from gateway.streams import keys, log_entries, response_log
from gateway.streams.store.errors import StoreError
from gateway.transports import static

if TYPE_CHECKING:
    from starlette.requests import Request

    from gateway.streams.log_entries import LogId
    from gateway.streams.store.store import Store

CACHE_S: Final = 0.5
"""How long one overview serves all requests."""

PRIVATE: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class LivePage:
    """The routes of the page, for requests with the operator token."""

    def __init__(self, store: Store, token: str) -> None:
        self._store = store
        self._token = token
        self._lock = asyncio.Lock()
        self._cached = b""
        self._cached_at = float("-inf")

    def routes(self) -> list[Any]:
        """Return the routes of the page and of its data."""
        routes: list[Any] = [
            Route("/live/fleet", self.fleet),
            Route("/live/responses/{response}", self.response),
        ]
        if (folder := static.folder("live")) is not None:
            routes.append(Route("/live", _redirect_to_page))
            routes.append(Mount("/live", static.Page(directory=folder, html=True)))
        return routes

    async def fleet(self, request: Request) -> Response:
        """`GET /live/fleet`: see `gateway.operations.fleet.Fleet`. Safe to cancel."""
        if not has_operator_token(request, self._token):
            return _unauthorized()
        async with self._lock:
            if time.monotonic() - self._cached_at > CACHE_S:
                try:
                    self._cached = msgspec.json.encode(await overview(self._store))
                except StoreError:
                    return PlainTextResponse("the store does not answer\n", 503, PRIVATE)
                self._cached_at = time.monotonic()
        return Response(self._cached, headers=PRIVATE, media_type="application/json")

    async def response(self, request: Request) -> Response:
        """`GET /live/responses/{id}?after=CURSOR`: entries of a log, without texts. Safe to cancel."""
        if not has_operator_token(request, self._token):
            return _unauthorized()
        response = request.path_params["response"]
        after = log_entries.parse_log_id(request.query_params.get("after", ""))
        if not keys.is_response(response):
            return JSONResponse({"entries": []}, 404, PRIVATE)
        try:
            entries = await response_log.read(self._store, response, after)
        except StoreError:
            return PlainTextResponse("the store does not answer\n", 503, PRIVATE)
        shown = [entry(cursor, value) for cursor, value in entries if after is None or cursor > after]
        return JSONResponse({"entries": shown}, 200 if entries else 404, PRIVATE)


def entry(cursor: LogId, value: bytes) -> dict[str, Any]:
    """Return a log entry for operators: its kind and size, and for some kinds a detail such as the worker."""
    kind = value[:1]
    shown: dict[str, Any] = {
        "cursor": str(cursor),
        "kind": log_entries.KINDS.get(kind, "unknown"),
        "size": len(value) - 1,
    }
    match log_entries.decode_response_entry(value):
        case log_entries.Queued(model=model):
            shown["about"] = model
        case log_entries.Start(worker=worker):
            shown["about"] = worker
        case log_entries.Waiting(retry_in=seconds):
            shown["about"] = f"{seconds:g} s"
        case log_entries.End(reason=reason, error=error):
            shown["about"] = f"{reason} ({error.code})" if error is not None else reason
        case _:
            pass
    return shown


async def _redirect_to_page(_: Request) -> Response:
    return RedirectResponse("live/")


def _unauthorized() -> Response:
    return PlainTextResponse(
        "operators only: send TOKENWIRE_OPERATOR_TOKEN as a bearer token\n",
        401,
        {**PRIVATE, "www-authenticate": "Bearer"},
    )
