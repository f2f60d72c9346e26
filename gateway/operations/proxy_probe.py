"""Probe the way to a gateway: do the proxies in front pass WebSockets and unbuffered event streams?"""

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

if TYPE_CHECKING:
    from gateway.settings import GatewaySettings

ANSWER_WITHIN_S: Final = 5.0
FIRST_EVENT_WITHIN_S: Final = 3.0
"""Time in which the first event of a stream has to arrive; a gateway sends it immediately."""

MAX_CLOCK_DIFFERENCE_S: Final = 2.0
"""How far two clocks may differ: tokens expire by the clock."""

UPGRADE: Final = "the proxy must forward Upgrade and Connection, over HTTP/1.1 (nginx: proxy_http_version 1.1)"
BUFFERING: Final = "the proxy must not buffer (nginx: proxy_buffering off, no gzip for text/event-stream)"


async def examine(address: str, settings: GatewaySettings, token: str | None) -> list[Finding]:
    """Return the findings for the gateway at `address`, the address that clients use.

    `token` opens a conversation there. Without one, a token is signed with the secret of these settings, if any.
    Safe to cancel.
    """
    address = address.rstrip("/")
    conversation = f"doctor-{secrets.token_hex(6)}"
    token = token or _signed(settings, conversation)
    try:
        async with httpx2.AsyncClient(timeout=ANSWER_WITHIN_S) as client:
            begun = time.time()
            health = await client.get(f"{address}/healthz")
            clock = health.headers.get("date")
            ready = await client.get(f"{address}/readyz")
            if health.text.strip() != "ok":
                text = f"{address}/healthz answers {health.status_code}: does the proxy forward to another server?"
                return [Finding("FAIL", "gateway", text)]
            found = [_readiness(ready)]
            if clock is not None and (finding := _clock(clock, begun)) is not None:
                found.append(finding)
            found.append(await _upgrade(address, token))
            found.append(await _stream(client, f"{address}/v1/conversations/{conversation}/events", token))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        text = f"nothing answers at {address} ({type(error).__name__}): start it, or read the proxy's log"
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
    # A Date header has whole seconds, so the difference is known to half a second.
    return clock_finding("gateway's clock", there + 0.5 - now, 1.0)


def clock_finding(subject: str, difference: float, more: float = 0.0) -> Finding:
    """Return the finding for a clock that is `difference` seconds ahead of this machine's, with an error of `more`."""
    if abs(difference) <= MAX_CLOCK_DIFFERENCE_S + more:
        return Finding("ok", subject, "agrees with this machine's")
    way = "ahead of" if difference > 0 else "behind"
    text = f"is {abs(difference):.0f} s {way} this machine's: synchronize both with NTP; tokens expire by them"
    return Finding("WARN", subject, text)


async def _upgrade(address: str, token: str | None) -> Finding:
    scheme, _, rest = address.partition("://")
    url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}/v1/ws"
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S), connect(url, compression=None, proxy=None) as socket:
            try:
                await socket.send(json.dumps({"type": "hello", **({"token": token} if token else {})}))
                answer = json.loads(await socket.recv())
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd is not None else 1006
                return Finding("WARN", "upgrade", f"a WebSocket connects, and is closed with {code}")
            if answer.get("problem") == "token_missing":
                return Finding("ok", "upgrade", "a WebSocket connects, and a token is required")
            if answer.get("code") == "unauthenticated":
                return Finding(
                    "WARN", "upgrade", f"a WebSocket connects, and the token is rejected ({answer['problem']})"
                )
            return Finding("ok", "upgrade", f"a WebSocket connects ({answer.get('type')})")
    except InvalidStatus as error:
        text = f"a WebSocket is answered with {error.response.status_code}, not 101: {UPGRADE}"
        return Finding("FAIL", "upgrade", text)
    except (TimeoutError, InvalidHandshake, WebSocketException, OSError, ValueError) as error:
        return Finding("FAIL", "upgrade", f"no WebSocket connects ({type(error).__name__}): {UPGRADE}")


async def _stream(client: httpx2.AsyncClient, url: str, token: str | None) -> Finding:
    headers = {"accept": "text/event-stream", **({"authorization": f"Bearer {token}"} if token else {})}
    try:
        async with asyncio.timeout(FIRST_EVENT_WITHIN_S), client.stream("GET", url, headers=headers) as reply:
            if reply.status_code in (401, 403):
                return Finding(
                    "WARN", "buffering", "not checked: pass --token-file with a token for conversations doctor-*"
                )
            if reply.status_code != 200:
                return Finding("FAIL", "buffering", f"events are answered with {reply.status_code}")
            async for piece in reply.aiter_raw():
                if piece:
                    break
    except TimeoutError:
        return Finding("FAIL", "buffering", f"no event arrived within {FIRST_EVENT_WITHIN_S:g} s: {BUFFERING}")
    return Finding("ok", "buffering", "events arrive as they are sent")
