"""`/live`: the fleet on a page, for operators. It only reads, and shows ids, counts and times, never a text."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from gateway.operations.metrics_server import bears
from gateway.operations.overview import overview
from gateway.streams import keys, log_entries, response_log
from gateway.streams.store.errors import StoreError
from gateway.transports import static

if TYPE_CHECKING:
    from starlette.requests import Request

    from gateway.streams.log_entries import LogId
    from gateway.streams.store.store import Store

KEPT: Final = 0.5
"""Seconds for which an overview is given to all who ask, however many look on."""

PRIVATE: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class LivePage:
    """What the page shows, for whoever bears the operators' token."""

    def __init__(self, store: Store, token: str) -> None:
        self._store = store
        self._token = token
        self._reading = asyncio.Lock()
        self._read = b""
        self._read_at = float("-inf")

    def routes(self) -> list[Any]:
        """The page, and what it asks for."""
        found: list[Any] = [
            Route("/live/fleet", self.fleet),
            Route("/live/responses/{response}", self.response),
        ]
        if (folder := static.folder("live")) is not None:
            found.append(Route("/live", _to_the_page))
            found.append(Mount("/live", static.Page(directory=folder, html=True)))
        return found

    async def fleet(self, request: Request) -> Response:
        """`GET /live/fleet`: see `gateway.operations.fleet.Fleet`."""
        if not bears(request, self._token):
            return _stranger()
        async with self._reading:
            if time.monotonic() - self._read_at > KEPT:
                try:
                    self._read = msgspec.json.encode(await overview(self._store))
                except StoreError:
                    return PlainTextResponse("the store does not answer\n", 503, PRIVATE)
                self._read_at = time.monotonic()
        return Response(self._read, headers=PRIVATE, media_type="application/json")

    async def response(self, request: Request) -> Response:
        """`GET /live/responses/{id}?after=CURSOR`: the entries of a log behind `after`, without what they say."""
        if not bears(request, self._token):
            return _stranger()
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
    """An entry of a log as operators see it: what kind it is of and how long, and of some what they are about."""
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


async def _to_the_page(_: Request) -> Response:
    return RedirectResponse("live/")


def _stranger() -> Response:
    return PlainTextResponse("this is for operators\n", 401, {**PRIVATE, "www-authenticate": "Bearer"})
