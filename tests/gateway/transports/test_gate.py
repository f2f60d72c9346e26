"""What every request passes before its route: one `Host` that is served, its client's address, connection limits."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from starlette.middleware.cors import CORSMiddleware

from gateway.addresses import Proxies
from gateway.admission import Admission
from gateway.auth import Identity
from gateway.connections import Limit
from gateway.origins import Hosts
from gateway.rate_limits import BURST_S, RateLimits, subject_of
from gateway.streams.log_throttle import LogThrottle
from gateway.token_limits import TokenLimits
from gateway.transports import refusals
from gateway.transports.client_transport import CONNECTION
from gateway.transports.gate import DENIAL, PROBES, Gate
from gateway.transports.http_api import ADMITTED, SOCKET_PATH
from gateway.transports.turns import MAX_STARTS

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

NO_LIMITS: Final = RateLimits(0)
NO_TOKENS: Final = TokenLimits(NO_LIMITS)
LOCAL: Final = Hosts(("127.0.0.1", "chat.example.com"))


class Connection:
    """A connection that is beyond a limit, or none."""

    def __init__(self, beyond: Limit | None) -> None:
        self.beyond = beyond


class Passed:
    """An application that records the scopes that reach it."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)


async def asked(
    scope: dict[str, Any],
    *,
    hosts: Hosts = LOCAL,
    proxies: str = "",
    limits: RateLimits = NO_LIMITS,
    tokens: TokenLimits = NO_TOKENS,
) -> tuple[Scope | None, list[Message]]:
    """Return the scope that passed, or what was sent instead."""
    passed, sent = Passed(), list[Any]()
    full = {"type": "http", "method": "GET", "path": "/v1/ws", "headers": [], "client": ("203.0.113.9", 1), **scope}

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    admission = Admission(10, None, 0, lambda: 0.5)
    gate = Gate(passed, admission=admission, proxies=Proxies(proxies), hosts=hosts, limits=limits, tokens=tokens)
    await gate(full, receive, send)
    return (passed.scopes[0] if passed.scopes else None), sent


def headers(**values: str | list[str]) -> list[tuple[bytes, bytes]]:
    return [
        (name.replace("_", "-").encode(), each.encode())
        for name, value in values.items()
        for each in ([value] if isinstance(value, str) else value)
    ]


def status(sent: list[Message]) -> tuple[int, str]:
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]


@pytest.mark.parametrize("path", ["/", "/v1/conversations/c1", "/metrics", "/kill", "/live"])
async def test_host_that_is_not_served_is_refused(path: str) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
        passed, sent = await asked({"path": path, "headers": headers(host=host)})
        assert passed is None
        assert status(sent) == (403, "forbidden")
    for host in ("localhost", "127.0.0.1:8000", "chat.example.com"):
        assert (await asked({"path": path, "headers": headers(host=host)}))[0]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_load_balancers_may_use_any_host(path: str) -> None:
    assert (await asked({"path": path, "headers": headers(host="10.1.2.3:8000")}))[0]


async def test_any_host_is_served_where_tokens_are_needed() -> None:
    assert (await asked({"headers": headers(host="evil.example")}, hosts=Hosts(None)))[0]


@pytest.mark.parametrize("hosts", [LOCAL, Hosts(None)])
@pytest.mark.parametrize("path", ["/", "/healthz"])
async def test_request_has_one_host(path: str, hosts: Hosts) -> None:
    for values in ([], ["localhost", "localhost"], ["localhost", "evil.example"]):
        passed, sent = await asked({"path": path, "headers": headers(host=values)}, hosts=hosts)
        assert passed is None
        assert status(sent) == (400, "bad_frame")
    assert (await asked({"path": path, "http_version": "1.0"}, hosts=hosts))[0]


async def test_websocket_is_refused_during_its_handshake() -> None:
    scope = {"type": "websocket", "headers": headers(host="evil.example")}
    passed, sent = await asked({**scope, "extensions": {DENIAL: {}}})
    assert passed is None
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 403)
    passed, sent = await asked(scope)
    assert passed is None
    assert sent[0]["type"] == "websocket.close"


async def test_client_behind_a_proxy_has_its_own_address() -> None:
    local = headers(host="localhost", x_forwarded_for="1.1.1.1, 198.51.100.7", x_forwarded_proto="https")
    for proxies in ("203.0.113.9", "*"):
        passed, _ = await asked({"headers": local}, proxies=proxies)
        assert passed is not None
        assert (passed["client"], passed["scheme"]) == (("198.51.100.7", 0), "https")
    passed, _ = await asked({"type": "websocket", "headers": local}, proxies="*")
    assert passed is not None
    assert passed["scheme"] == "wss"
    passed, _ = await asked({"headers": local, "scheme": "http"})
    assert passed is not None
    assert (passed["client"], passed["scheme"]) == (("203.0.113.9", 1), "http")


@pytest.mark.parametrize("limit", Limit)
async def test_connection_beyond_a_limit_may_only_ask_probes(limit: Limit) -> None:
    scope = {"headers": headers(host="localhost"), "extensions": {CONNECTION: Connection(limit)}}
    for path in PROBES:
        assert (await asked({**scope, "path": path}))[0]
    passed, sent = await asked(scope)
    assert passed is None
    assert status(sent) == {Limit.TOTAL: (503, "overloaded"), Limit.ADDRESS: (429, "too_many")}[limit]
    assert dict(sent[0]["headers"])[b"retry-after"] == b"8"
    # The socket gets an error frame: browsers hide the status of a handshake.
    assert (await asked({**scope, "type": "websocket"}))[0]
    assert (await asked({**scope, "extensions": {CONNECTION: Connection(None)}}))[0]


async def test_other_scopes_pass() -> None:
    assert (await asked({"type": "lifespan"}))[0]


def test_refusals_are_logged_at_a_bounded_rate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_throttle", LogThrottle())
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            refusals.refused("host")
        refusals.refused("not_http")
    assert [(record.message, vars(record)["reason"]) for record in caplog.records] == [
        ("request_refused", "host"),
        ("request_refused", "not_http"),
    ]


def empty_bucket(name: str) -> RateLimits:
    limits = RateLimits(0.001)
    limits.spend(name, time.monotonic(), 0.001 * BURST_S)
    return limits


@pytest.mark.parametrize(
    "path", ["/page.js", "/v1/conversations/c1", "/v1/conversations/c1/no/route", "/v1/responses/"]
)
@pytest.mark.parametrize("sent", [{}, {"authorization": "Bearer x"}, {"authorization": "Basic x"}])
async def test_requests_without_a_valid_token_are_limited_by_address(path: str, sent: dict[str, str]) -> None:
    """Whatever the route answers: the gate asks before it."""
    tokens = TokenLimits(empty_bucket("address 203.0.113.9"))
    ask = {"path": path, "headers": headers(host="localhost", **sent)}
    passed, answer = await asked(ask, tokens=tokens)
    assert passed is None
    assert status(answer) == (429, "too_fast")
    assert (b"connection", b"close") in answer[0]["headers"]
    # Others are served: another address, a program of this machine, and a probe.
    assert (await asked({**ask, "client": ("203.0.114.1", 1)}, tokens=TokenLimits(RateLimits(1))))[0]
    assert (await asked({**ask, "client": ("127.0.0.1", 1)}, tokens=tokens))[0]
    assert (await asked({**ask, "path": "/readyz"}, tokens=tokens))[0]


async def test_handshakes_without_a_route_are_limited_by_address() -> None:
    tokens = TokenLimits(empty_bucket("address 203.0.113.9"))
    ask = {"type": "websocket", "headers": headers(host="localhost"), "extensions": {DENIAL: {}}}
    passed, answer = await asked({**ask, "path": "/v1/other"}, tokens=tokens)
    assert passed is None
    assert answer[0]["status"] == 429
    assert (await asked({**ask, "path": SOCKET_PATH}, tokens=tokens))[0]
    assert (await asked({**ask, "path": "/v1/other"}, tokens=TokenLimits(RateLimits(1))))[0]


async def test_requests_with_a_known_token_are_limited_by_subject() -> None:
    """A token that was valid lately is served from a flooded address, as long as its subject has a unit."""
    tokens, ann = TokenLimits(empty_bucket("address 203.0.113.9")), Identity("ann", 0.0, ())
    tokens.checked("x", ann, "", time.monotonic())
    subject = subject_of(ann, "")
    assert subject is not None
    ask = {"path": "/v1/conversations/c1/no/route", "headers": headers(host="localhost", authorization="Bearer x")}
    passed, _ = await asked(ask, tokens=tokens, limits=RateLimits(1))
    assert passed is not None
    assert passed[ADMITTED] == subject
    passed, answer = await asked(ask, tokens=tokens, limits=empty_bucket(subject))
    assert passed is None
    assert status(answer) == (429, "too_fast")
    # For a page a token is none.
    assert status((await asked({**ask, "path": "/page.js"}, tokens=tokens))[1]) == (429, "too_fast")


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_pages_of_other_origins_can_read_a_refusal(method: str) -> None:
    sent: list[Any] = []

    async def send(message: Message) -> None:
        sent.append(message)

    gate = Gate(
        Passed(),
        admission=Admission(10, None, 0, lambda: 0.5),
        proxies=Proxies(""),
        hosts=LOCAL,
        limits=NO_LIMITS,
        tokens=TokenLimits(empty_bucket("address 203.0.113.9")),
        cors=partial(CORSMiddleware, allow_origins=["https://example.com"]),
    )
    asks = headers(host="localhost", origin="https://example.com", access_control_request_method="GET")
    scope = {"type": "http", "method": method, "path": "/", "headers": asks, "client": ("203.0.113.9", 1)}
    await gate(scope, None, send)  # type: ignore[arg-type]
    assert status(sent) == (429, "too_fast")
    allowed = dict(sent[0]["headers"]).get(b"access-control-allow-origin")
    # A preflight request that is refused allows nothing.
    assert allowed == (b"https://example.com" if method == "GET" else None)


async def test_request_waits_for_one_of_each_other_address() -> None:
    """A hundred requests of one address wait; one of another address starts among the next."""
    started: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        started.append(scope["client"][0])

    gate = Gate(
        application,
        admission=Admission(10, None, 0, lambda: 0.5),
        proxies=Proxies(""),
        hosts=LOCAL,
        limits=NO_LIMITS,
        tokens=NO_TOKENS,
    )

    async def request(address: str) -> None:
        scope = {"type": "http", "path": "/", "headers": headers(host="localhost"), "client": (address, 1)}
        await gate(scope, None, None)  # type: ignore[arg-type]

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(request("203.0.113.9"))
        group.create_task(request("203.0.113.10"))
    assert started.index("203.0.113.10") <= 2 * MAX_STARTS


async def test_failed_requests_are_logged_at_a_bounded_rate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_throttle", LogThrottle())

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise OSError

    gate = Gate(
        application,
        admission=Admission(10, None, 0, lambda: 0.5),
        proxies=Proxies(""),
        hosts=LOCAL,
        limits=NO_LIMITS,
        tokens=NO_TOKENS,
    )
    scope = {"type": "http", "path": "/", "headers": headers(host="localhost"), "client": ("203.0.113.9", 1)}
    with caplog.at_level(logging.INFO, refusals.logger.name):
        for _ in range(20):
            await gate(dict(scope), None, None)  # type: ignore[arg-type]
            refusals.slow_consumer_disconnected()
    assert sorted(record.message for record in caplog.records) == ["request_failed", "slow_consumer_disconnected"]
