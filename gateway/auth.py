"""Authentication: which conversations a JSON Web Token (RFC 7519) opens, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

LEEWAY: Final = 2.0
"""Seconds by which the clock of the token's issuer may be ahead of this machine's."""

MIN_SECRET_BYTES: Final = 32
"""RFC 7518, section 3.2: a key of at least the size of the hash output."""


class KeyUnusableError(ValueError):
    """The configured key cannot verify tokens; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A subject that may connect until `expires` (seconds since 1970), and the conversations open to it."""

    subject: str
    expires: float
    conversations: tuple[str, ...]

    def opens(self, conversation: str) -> bool:
        """Tell whether a conversation is open: it is named, or it starts with a name that ends in `*`."""
        return any(
            conversation == name or (name.endswith("*") and conversation.startswith(name[:-1]))
            for name in self.conversations
        )


@dataclass(frozen=True, slots=True)
class Denied:
    """A rejected token; `reason` may be sent to the client."""

    reason: str


ANONYMOUS: Final = Identity("anonymous", float("inf"), ("*",))


class Authenticator:
    """Verifies tokens with one key. The kind of key fixes the algorithm, so a token cannot choose another."""

    def __init__(self, key: str | None, audience: str | None = None) -> None:
        """`key`: a secret (HS256) or a public key as PEM (RS256, ES256); None accepts every client.

        Raises KeyUnusableError.
        """
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
            if len(key.encode()) < MIN_SECRET_BYTES:
                raise KeyUnusableError(f"the secret has fewer than {MIN_SECRET_BYTES} bytes")
            self._key, self._algorithm = key, "HS256"

    def check(self, token: str | None, now: float) -> Identity | Denied:
        """Return what a token opens at the time `now` (seconds since 1970). Never raises, whatever the token."""
        if self._key is None:
            return ANONYMOUS
        if not token:
            return Denied("a token is required")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[self._algorithm],
                audience=self._audience,
                # PyJWT would compare times with its own clock; the caller passes one.
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
                raise ValueError("NaN compares false with every time")
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
