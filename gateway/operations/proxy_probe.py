"""How clients come to a gateway: through which proxies, and what these make of sockets and streams."""

from __future__ import annotations

import asyncio
import email.utils
import json
import secrets
import time
from typing import TYPE_CHECKING, Final

import httpx2
import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from gateway.operations.finding import Finding
from gateway.wire import Close

if TYPE_CHECKING:
    from gateway.settings import GatewaySettings

ANSWERS_WITHIN: Final = 5.0
STREAMS_WITHIN: Final = 3.0
"""Seconds in which the first event of a stream has to be here; a gateway sends it at once."""

CLOCKS_APART: Final = 2.0
"""Seconds by which two clocks may differ: tokens expire by them, and waits are measured."""

UPGRADE: Final = "let the proxy pass Upgrade and Connection on, over HTTP/1.1 (nginx: proxy_http_version 1.1)"
BUFFERING: Final = (
    "let the proxy pass on what it has at once (nginx: proxy_buffering off, no gzip for text/event-stream)"
)


async def examine(address: str, settings: GatewaySettings, token: str | None) -> list[Finding]:
    """Look at a gateway from where this runs; `address` is what clients have, `token` opens a conversation there.

    Without a token one is signed, where there is a secret to sign it with.
    """
    address = address.rstrip("/")
    conversation = f"doctor-{secrets.token_hex(6)}"
    token = token or _signed(settings, conversation)
    try:
        async with httpx2.AsyncClient(timeout=ANSWERS_WITHIN) as client:
            begun = time.time()
            health = await client.get(f"{address}/healthz")
            clock = health.headers.get("date")
            ready = await client.get(f"{address}/readyz")
            if health.text.strip() != "ok":
                text = f"{address}/healthz answers {health.status_code}: does the proxy lead elsewhere?"
                return [Finding("FAIL", "gateway", text)]
            found = [_readiness(ready)]
            if clock is not None and (finding := _clock(clock, begun)) is not None:
                found.append(finding)
            found.append(await _upgrade(address, token))
            found.append(await _stream(client, f"{address}/v1/conversations/{conversation}/events", token))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        text = f"nothing answers at {address} ({type(error).__name__}): start it, or look at the proxy's log"
        return [Finding("FAIL", "gateway", text)]
    return found


def _signed(settings: GatewaySettings, conversation: str) -> str | None:
    key = settings.key
    if key is None or "-----BEGIN" in key:
        return None
    claims = {"sub": "doctor", "exp": int(time.time()) + 60, "conversations": [conversation]}
    if settings.jwt_audience is not None:
        claims["aud"] = settings.jwt_audience
    return jwt.encode(claims, key, "HS256")


def _readiness(reply: httpx2.Response) -> Finding:
    if reply.status_code == 200:
        return Finding("ok", "gateway", "is ready")
    return Finding("FAIL", "gateway", f"is not ready: {reply.text.strip()[:100]}")


def _clock(date: str, now: float) -> Finding | None:
    try:
        there = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    # A date has whole seconds.
    return apart("gateway's clock", there + 0.5 - now, 1.0)


def apart(subject: str, difference: float, more: float = 0.0) -> Finding:
    """What to say of a clock that is ahead of this machine's by so many seconds, known to within `more`."""
    if abs(difference) <= CLOCKS_APART + more:
        return Finding("ok", subject, "agrees with this machine's")
    way = "ahead of" if difference > 0 else "behind"
    text = f"is {abs(difference):.0f} s {way} this machine's: set both by NTP, because tokens expire by them"
    return Finding("WARN", subject, text)


async def _upgrade(address: str, token: str | None) -> Finding:
    scheme, _, rest = address.partition("://")
    url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}/v1/ws"
    try:
        async with asyncio.timeout(ANSWERS_WITHIN), connect(url, compression=None, proxy=None) as socket:
            try:
                await socket.send(json.dumps({"type": "hello", **({"token": token} if token else {})}))
                answer = json.loads(await socket.recv())
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd is not None else 1006
                if code == Close.NOT_AUTHENTICATED:
                    return Finding("ok", "upgrade", "a WebSocket comes through, and is asked for a token")
                return Finding("WARN", "upgrade", f"a WebSocket comes through, and is closed with {code}")
            return Finding("ok", "upgrade", f"a WebSocket comes through ({answer.get('type')})")
    except InvalidStatus as error:
        text = f"a WebSocket is answered with {error.response.status_code}, not 101: {UPGRADE}"
        return Finding("FAIL", "upgrade", text)
    except (TimeoutError, InvalidHandshake, WebSocketException, OSError, ValueError) as error:
        return Finding("FAIL", "upgrade", f"no WebSocket comes through ({type(error).__name__}): {UPGRADE}")


async def _stream(client: httpx2.AsyncClient, url: str, token: str | None) -> Finding:
    headers = {"accept": "text/event-stream", **({"authorization": f"Bearer {token}"} if token else {})}
    try:
        async with asyncio.timeout(STREAMS_WITHIN), client.stream("GET", url, headers=headers) as reply:
            if reply.status_code in (401, 403):
                return Finding("WARN", "buffering", "is not looked at: say --token, for a conversation doctor-*")
            if reply.status_code != 200:
                return Finding("FAIL", "buffering", f"events are answered with {reply.status_code}")
            async for piece in reply.aiter_raw():
                if piece:
                    break
    except TimeoutError:
        return Finding("FAIL", "buffering", f"the first event is not here after {STREAMS_WITHIN:g} s: {BUFFERING}")
    return Finding("ok", "buffering", "events come as they are sent")
