"""Which requests are an operator's: a bearer token, or a program of the same machine."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from gateway.addresses import is_loopback

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers that a proxy adds when it forwards a request of another machine."""


def has_operator_token(request: HTTPConnection, token: str | None) -> bool:
    """Tell whether a request carries the operator token; always False where none is set."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return (
        token is not None
        and scheme.lower() == "bearer"
        and hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    )


def is_local(request: HTTPConnection) -> bool:
    """Tell whether a program of this machine sent a request, and not a proxy for another machine."""
    if request.client is None or any(header in request.headers for header in FORWARDED):
        return False
    return is_loopback(request.client.host)
