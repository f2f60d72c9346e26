"""What every request passes before its route: the address of its client, its `Host`, and limits of its address."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from starlette.websockets import WebSocket

from gateway.addresses import counted_as
from gateway.auth import ANONYMOUS
from gateway.rate_limits import subject_of
from gateway.transports.client_transport import CONNECTION
from gateway.transports.http_api import error_response, rejection_response
from gateway.transports.refusals import refused, request_failed
from gateway.transports.turns import Turns

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gateway.addresses import Proxies
    from gateway.admission import Admission
    from gateway.origins import Hosts
    from gateway.rate_limits import RateLimits

DENIAL: Final = "websocket.http.response"
"""Extension of an ASGI scope: the application may reject a handshake with an HTTP status."""

HEALTH: Final = ("/healthz", "/readyz")
"""Paths for load balancers, which address a gateway by any name."""

PROBES: Final = (*HEALTH, "/metrics")
"""Paths that a connection beyond a limit may request."""

API: Final = ("/v1/conversations/", "/v1/responses/")
"""How paths begin whose routes check a token."""

SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Gate:
    """An ASGI application in front of all others."""

    def __init__(
        self, application: ASGIApp, *, admission: Admission, proxies: Proxies, hosts: Hosts, limits: RateLimits
    ) -> None:
        """`hosts`: the names that requests may address. `proxies`: whose `X-Forwarded-For` is used.

        `limits`: the rate limit of addresses, for requests without a token.
        """
        self._application = application
        self._admission = admission
        self._proxies = proxies
        self._hosts = hosts
        self._limits = limits
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
            await refusal(scope, receive, send)
        elif DENIAL in scope.get("extensions", {}):
            await WebSocket(scope, receive, send).send_denial_response(refusal)
        else:
            await WebSocket(scope, receive, send).close()

    def _check(self, scope: Scope) -> Response | None:
        hosts: list[str] = []
        has_token = False
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value.decode("latin-1"))
            elif name == b"authorization":
                has_token = True
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
        if scope["type"] == "http" and path not in PROBES and not (has_token and path.startswith(API)):
            # Requests of the API with a token count for its subject, or for the address if it is not valid.
            address = _host_of(scope.get("client")) or ""
            retry_after = self._limits.admit(subject_of(ANONYMOUS, address), time.monotonic())
            if retry_after is not None:
                refused("too_fast")
                response = error_response("too_fast", "Too many requests without a token.", retry_after)
                # Each further request then costs its client a connection.
                response.headers["connection"] = "close"
                return response
        return None


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
