"""Authentication: which conversations a JSON Web Token (RFC 7519) opens, and until when."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.wire import TokenProblem

LEEWAY: Final = 2.0
"""Seconds by which the clock of the token's issuer may be ahead of this machine's."""

MIN_SECRET_BYTES: Final = 32
"""RFC 7518, section 3.2: a key of at least the size of the hash output."""

MIN_SECRET_CHARACTERS: Final = 10
"""Different characters of a secret. Random text of 32 hexadecimal digits has fewer once in a million times."""

MIN_RSA_BITS: Final = 2048
"""RFC 7518, section 3.3."""

MAX_LIFETIME_S: Final = 400 * 86_400.0
"""Time until a token may expire. Without a bound a leaked token opens its conversations forever."""

MAX_SUBJECT: Final = 255
"""Characters of a subject."""

MAX_TOKEN_CHARACTERS: Final = 24_576
"""Characters of a token: what the head of an HTTP request can hold beside other headers."""

MAX_CONVERSATIONS: Final = 1000
"""Names in a token; each request compares with all of them."""

MAX_PATTERN: Final = 129
"""Characters of one name in a token: a conversation's name and `*`."""

MAX_CLAIMS_BYTES: Final = 4096
"""Of the further claims of a token, as JSON: each response stores them."""

_OWN_CLAIMS: Final = frozenset(("sub", "exp", "nbf", "iat", "iss", "aud", "jti", "conversations"))

SEPARATORS: Final = "_.:~-"
"""Characters of a conversation's name at which a prefix ends: `user-1*` must not open `user-10`."""


class KeyUnusableError(ValueError):
    """The configured key cannot verify tokens; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A subject that may connect until `expires` (seconds since 1970), and the conversations open to it."""

    subject: str
    expires: float
    conversations: tuple[str, ...]
    claims: Mapping[str, Any] | None = None
    """The further claims of the token, for the operator's generator; None if they have more than MAX_CLAIMS_BYTES."""

    def opens(self, conversation: str) -> bool:
        """Tell whether a conversation is open: by its name, or by a prefix of it, a name that ends in `*`."""
        return any(
            conversation == name or (name.endswith("*") and _begins(conversation, name[:-1]))
            for name in self.conversations
        )


def _begins(conversation: str, prefix: str) -> bool:
    """Tell whether a conversation begins with a prefix that ends at a separator, or at the end of the name."""
    rest = conversation.removeprefix(prefix)
    return (
        not prefix
        or conversation == prefix
        or (rest != conversation and (prefix[-1] in SEPARATORS or rest[0] in SEPARATORS))
    )


@dataclass(frozen=True, slots=True)
class Denied:
    """A rejected token; both fields may be sent to the client."""

    problem: TokenProblem
    reason: str

    @property
    def sentence(self) -> str:
        """The reason as a sentence."""
        return f"{self.reason[0].upper()}{self.reason[1:]}."


ANONYMOUS: Final = Identity("anonymous", float("inf"), ("*",))

EXPIRED: Final = Denied("expired", "the token has expired")

_MISSING: Final = Denied("token_missing", "a token is required")
_MALFORMED: Final = Denied("malformed", "the token is not a JSON Web Token")
_TOO_LONG: Final = Denied("malformed", f"the token has more than {MAX_TOKEN_CHARACTERS} characters")
_CLAIMS: Final = Denied(
    "claims_invalid", "the token needs `exp`, a number, and `sub`, a text of at most 255 characters"
)
_NO_CONVERSATIONS: Final = Denied("no_conversations", "the token has no `conversations`")
_CONVERSATIONS: Final = Denied(
    "conversations_invalid",
    f"`conversations` must be a list of at most {MAX_CONVERSATIONS} names; `*` may only be at the end of one",
)

_LIBRARY_ERRORS: Final[tuple[tuple[type[Exception], Denied], ...]] = (
    (jwt.InvalidSignatureError, Denied("wrong_key", "the token is signed with another key")),
    (jwt.InvalidAlgorithmError, Denied("wrong_algorithm", "the token is signed with another algorithm")),
    (jwt.InvalidAudienceError, Denied("wrong_audience", "the token is for another audience")),
    (jwt.InvalidIssuerError, Denied("wrong_issuer", "the token is of another issuer")),
)
"""The errors of PyJWT that have a code of their own."""

_MISSING_CLAIMS: Final = {"aud": _LIBRARY_ERRORS[2][1], "iss": _LIBRARY_ERRORS[3][1]}


class Authenticator:
    """Verifies tokens with one key. The kind of key fixes the algorithm, so a token cannot choose another."""

    def __init__(
        self, key: str | None, audience: str | None = None, issuer: str | None = None, *, refuse_weak: bool = False
    ) -> None:
        """`key`: a secret (HS256) or a public key as PEM (RS256, ES256); None accepts every client.

        `audience`, `issuer`: required in each token where given. `refuse_weak`: a secret of few different characters is
        unusable.

        Raises KeyUnusableError.
        """
        self._audience = audience
        self._issuer = issuer
        self._key: Any = None
        self._algorithm = ""
        if key is None:
            return
        if (pem := _pem(key)) is not None:
            self._key, self._algorithm = _public_key(pem)
            return
        if len(key.encode()) < MIN_SECRET_BYTES:
            raise KeyUnusableError(f"the secret has fewer than {MIN_SECRET_BYTES} bytes")
        if refuse_weak and is_weak(key):
            raise KeyUnusableError(
                f"the secret has fewer than {MIN_SECRET_CHARACTERS} different characters, so it can be guessed; "
                "create one with `openssl rand -hex 32`"
            )
        self._key, self._algorithm = key, "HS256"

    def check(self, token: str | None, now: float) -> Identity | Denied:
        """Return what a token opens at the time `now` (seconds since 1970). Never raises, whatever the token."""
        if self._key is None:
            return ANONYMOUS
        if not token:
            return _MISSING
        if len(token) > MAX_TOKEN_CHARACTERS:
            return _TOO_LONG
        claims = self._verify(token)
        return claims if isinstance(claims, Denied) else _identity(claims, now)

    def _verify(self, token: str) -> dict[str, Any] | Denied:
        required = ["exp", "sub", *(["aud"] if self._audience else []), *(["iss"] if self._issuer else [])]
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[self._algorithm],
                audience=self._audience,
                issuer=self._issuer,
                # PyJWT would compare times with its own clock; the caller passes one. A subject may be a number.
                options={
                    "require": required,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                    "verify_aud": self._audience is not None,
                    "verify_iss": self._issuer is not None,
                },
            )
        except jwt.MissingRequiredClaimError as error:
            return _MISSING_CLAIMS.get(error.claim, _CLAIMS)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            return next((denied for kind, denied in _LIBRARY_ERRORS if isinstance(error, kind)), _MALFORMED)
        return claims


_PEM: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)(?:-----END [A-Z0-9 ]+-----|$)", re.DOTALL)
_PEM_LINE: Final = 64
_INCOMPLETE: Final = "the key is not a public key in PEM form: copy it whole, with its first and last line"
_ENCODED_PEM: Final = "LS0tLS1CRUdJTi"
"""How a PEM begins that is encoded in base64 once more. As a secret, everyone who has the public key would have it."""


def _pem(key: str) -> str | None:
    r"""Return a key in PEM form with its line ends; None if it is a secret.

    Consoles and .env files keep it on one line, with `\n` or spaces for the line ends, or encoded in base64.
    """
    if key.startswith(_ENCODED_PEM):
        try:
            key = base64.b64decode(key).decode()
        except ValueError as error:
            raise KeyUnusableError(_INCOMPLETE) from error
    if "-----BEGIN" not in key:
        return None
    found = _PEM.search(key)
    if found is None:
        raise KeyUnusableError(_INCOMPLETE)
    if "PRIVATE" in found[1]:
        raise KeyUnusableError(
            "the key is not a public key: it is a private one, which only the issuer may have; "
            "`openssl pkey -pubout` prints the public one"
        )
    if "CERTIFICATE" in found[1]:
        raise KeyUnusableError("the key is a certificate; `openssl x509 -pubkey -noout` prints its public key")
    body = "".join(found[2].replace("\\r", "").replace("\\n", "").split())
    lines = [body[start : start + _PEM_LINE] for start in range(0, len(body), _PEM_LINE)]
    return "\n".join([f"-----BEGIN {found[1]}-----", *lines, f"-----END {found[1]}-----", ""])


def _public_key(pem: str) -> tuple[RSAPublicKey | EllipticCurvePublicKey, str]:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnusableError(_INCOMPLETE) from error
    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise KeyUnusableError(f"the RSA key has {key.key_size} bits; {MIN_RSA_BITS} are needed")
        return key, "RS256"
    if isinstance(key, EllipticCurvePublicKey):
        if not isinstance(key.curve, SECP256R1):
            raise KeyUnusableError("the elliptic-curve key is not on the curve of ES256, P-256")
        return key, "ES256"
    raise KeyUnusableError("the key is neither an RSA nor an elliptic-curve key")


def is_weak(secret: str) -> bool:
    """Tell whether a secret has so few different characters that it can be guessed."""
    return len(set(secret)) < MIN_SECRET_CHARACTERS


def _identity(claims: dict[str, Any], now: float) -> Identity | Denied:
    subject, expires, begins = _text(claims["sub"]), _number(claims["exp"]), _number(claims.get("nbf", 0))
    if (
        not subject.strip()
        or len(subject) > MAX_SUBJECT
        or not subject.isprintable()
        or expires is None
        or begins is None
    ):
        return _CLAIMS
    if now >= expires:
        return EXPIRED
    if now + LEEWAY < begins:
        return Denied("not_yet_valid", "the token is not valid yet")
    if expires - now > MAX_LIFETIME_S:
        return Denied("lifetime_too_long", f"the token expires in more than {MAX_LIFETIME_S / 86_400:.0f} days")
    names = claims.get("conversations")
    if names is None or names == []:
        return _NO_CONVERSATIONS
    if not isinstance(names, list) or len(names) > MAX_CONVERSATIONS or not all(_is_name(name) for name in names):
        return _CONVERSATIONS
    return Identity(subject, expires, tuple(names), _further(claims))


def _further(claims: Mapping[str, Any]) -> Mapping[str, Any] | None:
    further = {name: value for name, value in claims.items() if name not in _OWN_CLAIMS}
    try:
        size = len(msgspec.json.encode(further))
    except (ValueError, OverflowError, RecursionError):
        # Lone surrogates, numbers beyond 64 bits, deep nesting: a log entry could not hold them.
        return None
    return further if size <= MAX_CLAIMS_BYTES else None


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_PATTERN:
        return False
    # A `*` elsewhere than at the end would open nothing, and its issuer believes that it does.
    return "*" not in name[:-1]


def _text(value: Any) -> str:
    """Return a subject as text: RFC 7519 wants a string, and many issuers send the number of a row."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _number(value: Any) -> float | None:
    """Return a NumericDate (RFC 7519, section 2): a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None
