"""Who is connecting, and to which conversations: JSON Web Tokens (RFC 7519) and exact origins (RFC 6454)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

LEEWAY: Final = 2.0
"""Seconds by which the clock of whoever signs tokens may be ahead of ours."""

MIN_SECRET: Final = 32
"""Bytes; RFC 7518 section 3.2 asks for as many as the hash has."""


class KeyUnusableError(ValueError):
    """The configured key can not verify tokens; the message says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who may connect until `expires` (seconds since 1970), and the conversations that are open to them."""

    subject: str
    expires: float
    conversations: tuple[str, ...]

    def opens(self, conversation: str) -> bool:
        """Tell whether a conversation is open to them: it is named, or it begins as a name that ends in `*`."""
        return any(
            conversation == name or (name.endswith("*") and conversation.startswith(name[:-1]))
            for name in self.conversations
        )


@dataclass(frozen=True, slots=True)
class Denied:
    """A token that opens nothing; `reason` may be told to the client."""

    reason: str


EVERYBODY: Final = Identity("anonymous", float("inf"), ("*",))


class Authenticator:
    """Checks tokens with one key. The key's kind fixes the algorithm, so a token can not choose another."""

    def __init__(self, key: str | None, audience: str | None = None) -> None:
        """`key` is a secret (HS256) or a public key as PEM (RS256, ES256); None lets everybody in."""
        self._audience = audience
        self._key: Any = None
        if key is None:
            return
        if "-----BEGIN" in key:
            try:
                self._key = load_pem_public_key(key.encode())
            except (ValueError, UnsupportedAlgorithm) as error:
                raise KeyUnusableError("the key is not a public key in PEM form") from error
            if isinstance(self._key, RSAPublicKey):
                self._algorithm = "RS256"
            elif isinstance(self._key, EllipticCurvePublicKey):
                if not isinstance(self._key.curve, SECP256R1):
                    raise KeyUnusableError("the elliptic-curve key is not on the curve of ES256, P-256")
                self._algorithm = "ES256"
            else:
                raise KeyUnusableError("the key is neither an RSA nor an elliptic-curve key")
        else:
            if len(key.encode()) < MIN_SECRET:
                raise KeyUnusableError(f"the secret has fewer than {MIN_SECRET} bytes")
            self._key, self._algorithm = key, "HS256"

    def check(self, token: str | None, now: float) -> Identity | Denied:
        """Read a token at the time `now` (seconds since 1970). Never raises, whatever the token."""
        if self._key is None:
            return EVERYBODY
        if not token:
            return Denied("a token is required")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[self._algorithm],
                audience=self._audience,
                # Times are compared here, with the caller's clock.
                options={
                    "require": ["exp", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": self._audience is not None,
                },
            )
            expires, begins = float(claims["exp"]), float(claims.get("nbf", 0))
            if isnan(expires) or isnan(begins):
                raise ValueError("no time comes before NaN, and none after it")
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            return Denied("the token is not valid")
        conversations = claims.get("conversations", [])
        if not isinstance(conversations, list) or not all(isinstance(name, str) for name in conversations):
            return Denied("the token's conversations are not a list of names")
        if now >= expires:
            return Denied("the token has expired")
        if now + LEEWAY < begins:
            return Denied("the token is not valid yet")
        return Identity(str(claims["sub"]), expires, tuple(conversations))


def origin_allowed(origin: str | None, allowed: tuple[str, ...], own: tuple[str, ...]) -> bool:
    """Tell whether a browser page of `origin` may connect: it is named exactly, or is served by this gateway (`own`).

    A request without an origin is no browser's and carries its own proof, a token; it passes. `*` allows every page.
    """
    if origin is None or "*" in allowed:
        return True
    normal = normal_origin(origin)
    return normal is not None and normal in {*allowed, *own}


def normal_origin(origin: str) -> str | None:
    """An origin as browsers spell it: lower case, without a default port; None for what is not one."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        return None
    if parts.query or parts.fragment or parts.username is not None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is None or port == {"http": 80, "https": 443}[parts.scheme.lower()]:
        return f"{parts.scheme.lower()}://{host}"
    return f"{parts.scheme.lower()}://{host}:{port}"
