"""What every request passes before its route: the address of its client, its `Host`, and limits of its address."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from starlette.websockets import WebSocket

from gateway.addresses import counted_as
from gateway.transports.client_transport import CONNECTION
from gateway.transports.http_api import ADMITTED, SOCKET_PATH, bearer_token, error_response, rejection_response
from gateway.transports.refusals import refused, request_failed
from gateway.transports.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gateway.addresses import Proxies
    from gateway.admission import Admission
    from gateway.origins import Hosts
    from gateway.rate_limits import RateLimits
    from gateway.token_limits import TokenLimits

DENIAL: Final = "websocket.http.response"
"""Extension of an ASGI scope: the application may reject a handshake with an HTTP status."""

HEALTH: Final = ("/healthz", "/readyz")
"""Paths for load balancers, which address a gateway by any name."""

PROBES: Final = (*HEALTH, "/metrics")
"""Paths that a connection beyond a limit may request."""

API: Final = ("/v1/conversations/", "/v1/responses/")
"""How paths begin whose routes check a token."""

_REFUSAL: Final = "tokenwire.refusal"
"""Key of an ASGI scope: the response to a refused request."""

SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Gate:
    """An ASGI application in front of all others."""

    def __init__(
        self,
        application: ASGIApp,
        *,
        admission: Admission,
        proxies: Proxies,
        hosts: Hosts,
        limits: RateLimits,
        tokens: TokenLimits,
        cors: Callable[[ASGIApp], ASGIApp] = lambda application: application,
    ) -> None:
        """`hosts`: the names that requests may address. `proxies`: whose `X-Forwarded-For` is used.

        `limits`: the rate limit of subjects. `tokens`: of addresses, for requests without a token that is known to be
        valid. `cors`: adds what pages of other origins need to read a refusal.
        """
        self._application = application
        self._admission = admission
        self._proxies = proxies
        self._hosts = hosts
        self._limits = limits
        self._tokens = tokens
        self._refuse = cors(_send_refusal)
        self._turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification. Safe to cancel."""
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        _use_forwarded(scope, self._proxies)
        address = _host_of(scope.get("client")) or ""
        # The clients of a proxy that is not listed share one address; a probe of it does not wait for them.
        turn = self._turns.take((scope["path"] in HEALTH, counted_as(address)))
        if turn is not None:
            await turn
        refusal = self._check(scope)
        if refusal is None and scope["type"] == "http":
            try:
                await self._application(scope, receive, send)
            except Exception as error:
                # Starlette has sent the status 500. uvicorn would log a traceback for each request.
                request_failed(error)
        elif refusal is None:
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            scope[_REFUSAL] = refusal
            # A preflight request is refused without permission to send the request itself.
            refuse = _send_refusal if scope.get("method") == "OPTIONS" else self._refuse
            await refuse(scope, receive, send)
        elif DENIAL in scope.get("extensions", {}):
            await WebSocket(scope, receive, send).send_denial_response(refusal)
        else:
            await WebSocket(scope, receive, send).close()

    def _check(self, scope: Scope) -> Response | None:
        hosts: list[str] = []
        authorization: str | None = None
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value.decode("latin-1"))
            elif name == b"authorization":
                authorization = value.decode("latin-1")
        if len(hosts) > 1 or (not hosts and scope.get("http_version", "1.1") != "1.0"):
            refused("host_header")
            return error_response("bad_frame", "The request must have exactly one Host header.")
        path = scope["path"]
        if path not in HEALTH and not self._hosts.allows(hosts[0] if hosts else None, _host_of(scope.get("server"))):
            refused("host")
            return error_response("forbidden", "This host name is not served: see TOKENWIRE_HOSTS.")
        connection = scope.get("extensions", {}).get(CONNECTION)
        if scope["type"] == "http" and path not in PROBES and connection is not None:
            # A WebSocket is told in a frame: browsers hide the status of a handshake.
            beyond = connection.beyond
            if beyond is not None:
                return rejection_response(self._admission.rejection(beyond))
        # The endpoint of a WebSocket asks another rate; probes have none.
        if path != SOCKET_PATH if scope["type"] == "websocket" else path not in PROBES:
            return self._admit(scope, bearer_token(authorization) if path.startswith(API) else None)
        return None

    def _admit(self, scope: Scope, token: str | None) -> Response | None:
        """Take a unit for a request, whatever its route answers and before its token is verified."""
        now = time.monotonic()
        subject = self._tokens.subject(token) if token is not None else None
        if subject is not None:
            scope[ADMITTED] = subject
            retry_after = self._limits.admit(subject, now)
            if retry_after is None:
                return None
            refused("subject_rate")
            return error_response("too_fast", "Too many requests.", retry_after)
        retry_after = self._tokens.admit(token, _host_of(scope.get("client")) or "", now)
        if retry_after is None:
            return None
        refused("too_fast")
        response = error_response("too_fast", "Too many requests without a valid token.", retry_after)
        # Each further request then costs its client a connection.
        response.headers["connection"] = "close"
        return response


async def _send_refusal(scope: Scope, receive: Receive, send: Send) -> None:
    await scope[_REFUSAL](scope, receive, send)


def _use_forwarded(scope: Scope, proxies: Proxies) -> None:
    """Set the address and the scheme of the client, where a proxy names them."""
    peer = _host_of(scope.get("client"))
    if peer is None or not proxies.trusts(peer):
        return
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    schemes = [value.decode("latin-1").strip() for name, value in scope["headers"] if name == b"x-forwarded-proto"]
    client = proxies.client(peer, values)
    if client != peer:
        scope["client"] = (client, 0)
    scheme = SCHEMES.get(schemes[-1]) if schemes else None
    if scheme is not None:
        scope["scheme"] = scheme if scope["type"] == "http" else scheme.replace("http", "ws")


def _host_of(address: Any) -> str | None:
    return address[0] if address else None
