"""Authentication: only a valid token of the configured key opens conversations; only listed origins may connect."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string
from typing import TYPE_CHECKING, Any, TypeAlias

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.auth import (
    ANONYMOUS,
    EXPIRED,
    LEEWAY,
    MAX_CLAIMS_BYTES,
    MAX_CONVERSATIONS,
    MAX_LIFETIME_S,
    MAX_PATTERN,
    MAX_SUBJECT,
    MAX_TOKEN_CHARACTERS,
    MIN_SECRET_BYTES,
    SEPARATORS,
    Authenticator,
    Denied,
    Identity,
    KeyUnusableError,
)
from gateway.origins import Hosts, host_name, normal_origin, origin_allowed
from gateway.streams import log_entries

if TYPE_CHECKING:
    from collections.abc import Callable

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

NOW = 1_800_000_000.0
SECRET = "s3cret-of-at-least-thirty-two-bytes"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def public(key: PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private(key: PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


KEYS: dict[str, tuple[Any, str]] = {"HS256": (SECRET, SECRET), "RS256": (RSA, public(RSA)), "ES256": (EC, public(EC))}
"""Each algorithm with its signing key and the key that a gateway is configured with."""


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a valid token; a change to None removes one."""
    good = {"sub": "ann", "exp": NOW + 60, "conversations": ["c1", "support-*"]}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def problem(checked: Identity | Denied) -> str:
    """Return the code of a denial."""
    assert isinstance(checked, Denied), checked
    return checked.problem


def signed(said: bytes, header: dict[str, Any] | None = None, secret: bytes = SECRET.encode()) -> str:
    """Return a token built by hand, because the library refuses to make an invalid one."""
    head = json.dumps(header or {"alg": "HS256", "typ": "JWT"}).encode()
    signing = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, said))
    digest = hmac.new(secret, signing, hashlib.sha256).digest()
    return (signing + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_of_the_configured_key_gives_an_identity(algorithm: str) -> None:
    signing, configured = KEYS[algorithm]
    token = jwt.encode(claims(), signing, algorithm)
    assert Authenticator(configured).check(token, NOW) == Identity("ann", NOW + 60, ("c1", "support-*"), {})


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_of_another_key_is_denied(algorithm: str) -> None:
    others: dict[str, Any] = {
        "HS256": SECRET + "!",
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
    }
    token = jwt.encode(claims(), others[algorithm], algorithm)
    assert problem(Authenticator(KEYS[algorithm][1]).check(token, NOW)) == "wrong_key"


@pytest.mark.parametrize("configured", KEYS)
@pytest.mark.parametrize("chosen", KEYS)
def test_a_token_cannot_choose_its_algorithm(configured: str, chosen: str) -> None:
    if configured != chosen:
        token = jwt.encode(claims(), KEYS[chosen][0], chosen)
        assert isinstance(Authenticator(KEYS[configured][1]).check(token, NOW), Denied)


@pytest.mark.parametrize("configured", ["RS256", "ES256"])
def test_a_public_key_is_not_accepted_as_a_secret(configured: str) -> None:
    """Algorithm confusion: the public key used as the secret of HS256."""
    pem = KEYS[configured][1]
    for secret in (pem, pem.strip(), pem.replace("\n", "")):
        token = signed(json.dumps(claims()).encode(), secret=secret.encode())
        assert isinstance(Authenticator(pem).check(token, NOW), Denied)


@pytest.mark.parametrize("configured", KEYS)
@pytest.mark.parametrize("name", ["none", "None", "NONE", "", "HS512", None, 5, ["HS256"]])
def test_a_token_without_a_valid_signature_is_denied(configured: str, name: Any) -> None:
    said = json.dumps(claims()).encode()
    token = signed(said, {"alg": name, "typ": "JWT"})
    for text in (token, token.rpartition(".")[0] + "."):
        assert isinstance(Authenticator(KEYS[configured][1]).check(text, NOW), Denied)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exp": NOW}, "expired"),
        ({"exp": NOW - 1e9}, "expired"),
        ({"exp": True}, "claims_invalid"),
        ({"exp": None}, "claims_invalid"),
        ({"exp": "tomorrow"}, "claims_invalid"),
        ({"exp": str(NOW + 60)}, "claims_invalid"),
        ({"exp": float("nan")}, "claims_invalid"),
        ({"exp": float("inf")}, "claims_invalid"),
        ({"exp": 10**400}, "claims_invalid"),
        ({"exp": NOW + MAX_LIFETIME_S + 1}, "lifetime_too_long"),
        ({"nbf": NOW + LEEWAY + 1}, "not_yet_valid"),
        ({"nbf": float("nan")}, "claims_invalid"),
        ({"nbf": [1]}, "claims_invalid"),
        ({"sub": None}, "claims_invalid"),
        ({"sub": ""}, "claims_invalid"),
        ({"sub": True}, "claims_invalid"),
        ({"sub": ["ann"]}, "claims_invalid"),
        ({"sub": "x" * (MAX_SUBJECT + 1)}, "claims_invalid"),
        ({"sub": "ann\n"}, "claims_invalid"),
        ({"sub": "\u202eann"}, "claims_invalid"),
        ({"conversations": None}, "no_conversations"),
        ({"conversations": []}, "no_conversations"),
        ({"conversations": "c1"}, "conversations_invalid"),
        ({"conversations": ["c1", 2]}, "conversations_invalid"),
        ({"conversations": {"c1": True}}, "conversations_invalid"),
        ({"conversations": [""]}, "conversations_invalid"),
        ({"conversations": ["a-*b"]}, "conversations_invalid"),
        ({"conversations": ["a-*-*"]}, "conversations_invalid"),
        ({"conversations": ["**"]}, "conversations_invalid"),
        ({"conversations": ["c"] * (MAX_CONVERSATIONS + 1)}, "conversations_invalid"),
        ({"conversations": ["c" * (MAX_PATTERN + 1)]}, "conversations_invalid"),
    ],
)
def test_a_token_with_invalid_claims_is_denied(changes: dict[str, Any], expected: str) -> None:
    token = signed(json.dumps(claims(**changes)).encode())
    assert problem(Authenticator(SECRET).check(token, NOW)) == expected


@pytest.mark.parametrize(("more", "denied"), [(0, None), (1, "malformed")])
def test_a_token_has_a_bounded_length(more: int, denied: str | None) -> None:
    """As over HTTP, whose head is bounded; a signature is verified for shorter ones only."""
    rest = MAX_TOKEN_CHARACTERS - len(signed(json.dumps(claims(x="")).encode()))
    # Three bytes are four characters.
    token = signed(json.dumps(claims(x="x" * (rest * 3 // 4 - 3))).encode())
    assert MAX_TOKEN_CHARACTERS - 8 <= len(token) <= MAX_TOKEN_CHARACTERS
    checked = Authenticator(SECRET).check(token + "x" * (MAX_TOKEN_CHARACTERS + 1 - len(token)) * more, NOW)
    if denied is None:
        assert isinstance(checked, Identity)
    else:
        assert problem(checked) == denied
        assert isinstance(checked, Denied)
        assert str(MAX_TOKEN_CHARACTERS) in checked.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW + MAX_LIFETIME_S},
        {"sub": "x" * MAX_SUBJECT},
        {"conversations": ["c"] * MAX_CONVERSATIONS},
        {"conversations": ["c" * (MAX_PATTERN - 2) + "-*"]},
        {"conversations": ["*"]},
        {"conversations": [f"user-1{separator}*" for separator in SEPARATORS]},
    ],
)
def test_a_token_at_a_limit_is_accepted(changes: dict[str, Any]) -> None:
    token = signed(json.dumps(claims(**changes)).encode())
    assert isinstance(Authenticator(SECRET).check(token, NOW), Identity)


def test_a_subject_that_is_a_number_is_taken_as_text() -> None:
    checked = Authenticator(SECRET).check(signed(json.dumps(claims(sub=5)).encode()), NOW)
    assert isinstance(checked, Identity)
    assert checked.subject == "5"


def test_a_denial_is_a_sentence_for_the_client() -> None:
    assert EXPIRED.sentence == "The token has expired."


def test_a_token_is_valid_up_to_its_expiry() -> None:
    token = jwt.encode(claims(exp=NOW + 1), SECRET, "HS256")
    assert isinstance(Authenticator(SECRET).check(token, NOW + 0.9), Identity)
    assert isinstance(Authenticator(SECRET).check(token, NOW + 1), Denied)


def test_the_issuers_clock_may_be_slightly_ahead() -> None:
    token = jwt.encode(claims(nbf=NOW + LEEWAY, iat=NOW + LEEWAY), SECRET, "HS256")
    assert isinstance(Authenticator(SECRET).check(token, NOW), Identity)


def test_an_audience_is_required_where_configured() -> None:
    check = Authenticator(SECRET, "chat").check
    for audience in ("chat", ["shop", "chat"]):
        assert isinstance(check(jwt.encode(claims(aud=audience), SECRET, "HS256"), NOW), Identity)
    for wrong in ("shop", ["shop"], [], "", None, 5):
        token = signed(json.dumps(claims(aud=wrong)).encode())
        assert problem(check(token, NOW)) == "wrong_audience"
    assert problem(check(jwt.encode(claims(), SECRET, "HS256"), NOW)) == "wrong_audience"
    # Otherwise it is ignored: a token may serve several services.
    assert isinstance(Authenticator(SECRET).check(jwt.encode(claims(aud="shop"), SECRET, "HS256"), NOW), Identity)


def test_an_issuer_is_required_where_configured() -> None:
    check = Authenticator(SECRET, issuer="https://id.example").check
    assert isinstance(check(jwt.encode(claims(iss="https://id.example"), SECRET, "HS256"), NOW), Identity)
    for wrong in ("https://evil.example", "https://id.example.evil.example", "", ["https://id.example"], 5):
        assert problem(check(signed(json.dumps(claims(iss=wrong)).encode()), NOW)) == "wrong_issuer"
    assert problem(check(jwt.encode(claims(), SECRET, "HS256"), NOW)) == "wrong_issuer"


@pytest.mark.parametrize("token", [None, ""])
def test_a_missing_token_is_denied(token: str | None) -> None:
    assert problem(Authenticator(SECRET).check(token, NOW)) == "token_missing"


def test_a_token_of_another_form_or_algorithm_has_its_own_code() -> None:
    check = Authenticator(SECRET).check
    assert problem(check("no token", NOW)) == "malformed"
    assert problem(check(jwt.encode(claims(), SECRET * 2, "HS512"), NOW)) == "wrong_algorithm"


@given(
    st.text(st.characters(exclude_categories=()))
    | st.text(string.ascii_letters + string.digits + "-_.=")
    | st.binary().map(signed)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "aud"]), inner),
    ).map(lambda said: signed(json.dumps(said).encode()))
    | st.dictionaries(st.text(), st.text() | st.booleans() | st.lists(st.text())).map(lambda head: signed(b"{}", head))
)
@example(signed(b"[" * 100_000))
@example(signed(b'{"sub":"ann","exp":' + b"9" * 400 + b"}"))
@example(signed(b'{"sub":"ann","exp":' + b"9" * 5000 + b"}"))
@example(signed(b"{}", {"alg": "HS256", "crit": ["b64"], "b64": False}))
def test_any_text_is_denied_without_an_exception(token: str) -> None:
    for audience in (None, "chat"):
        assert isinstance(Authenticator(SECRET, audience).check(token, NOW), (Denied, Identity))


@given(st.data())
def test_a_token_with_one_character_changed_is_denied(data: st.DataObject) -> None:
    token = jwt.encode(claims(), SECRET, "HS256")
    # The last character holds bits that decoders ignore.
    place = data.draw(st.integers(0, len(token) - 2))
    other = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_."))
    if other != token[place]:
        assert isinstance(Authenticator(SECRET).check(token[:place] + other + token[place + 1 :], NOW), Denied)


def test_without_a_key_every_client_is_accepted() -> None:
    assert Authenticator(None).check(None, NOW) == ANONYMOUS
    assert Authenticator(None).check("anything", NOW) == ANONYMOUS
    assert ANONYMOUS.opens("c1")
    assert ANONYMOUS.expires > 1e300


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", f"fewer than {MIN_SECRET_BYTES} bytes"),
        ("x" * (MIN_SECRET_BYTES - 1), f"fewer than {MIN_SECRET_BYTES} bytes"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "not a public key"),
        (private(RSA), "not a public key"),
        (private(EC), "not a public key"),
        (public(ed25519.Ed25519PrivateKey.generate()), "neither an RSA nor an elliptic-curve key"),
        (public(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (public(rsa.generate_private_key(65537, 1024)), "1024 bits; 2048 are needed"),
    ],
    ids=["empty", "short", "broken", "private RSA", "private EC", "Ed25519", "P-384", "RSA 1024"],
)
def test_an_unusable_key_is_refused_at_configuration(key: str, why: str) -> None:
    with pytest.raises(KeyUnusableError, match=why) as caught:
        Authenticator(key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("key", [RSA, EC], ids=["RSA", "EC"])
@pytest.mark.parametrize(
    "written",
    [
        lambda pem: pem,
        lambda pem: pem.strip(),
        lambda pem: pem.replace("\n", "\r\n"),
        lambda pem: pem.replace("\n", "\\n"),
        lambda pem: pem.replace("\n", "\\r\\n"),
        lambda pem: '"' + pem.replace("\n", "\\n") + '"',
        lambda pem: pem.replace("\n", " "),
        lambda pem: pem.replace("\n", ""),
        lambda pem: "".join(f"  {line}\n" for line in pem.splitlines()),
        lambda pem: base64.b64encode(pem.encode()).decode(),
    ],
    ids=["as it is", "stripped", "CRLF", "\\n", "\\r\\n", "quotes", "spaces", "one line", "indented", "base64"],
)
def test_a_public_key_may_be_written_on_one_line(key: Any, written: Callable[[str], str]) -> None:
    checker = Authenticator(written(public(key)))
    algorithm = "RS256" if key is RSA else "ES256"
    token = jwt.encode({"sub": "u", "exp": NOW + 60, "conversations": ["*"]}, private(key), algorithm)
    assert isinstance(checker.check(token, NOW), Identity)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "openssl x509 -pubkey"),
        (private(RSA), "openssl pkey -pubout"),
        ("-----BEGIN PUBLIC KEY and nothing else, which is long enough for a secret", "copy it whole"),
        (base64.b64encode(public(RSA).encode()).decode()[:-30] + "!", "copy it whole"),
        ("LS0tLS1CRUdJTi" + "A" * 51, "copy it whole"),
    ],
)
def test_another_kind_of_key_says_what_to_do(key: str, why: str) -> None:
    with pytest.raises(KeyUnusableError, match=why):
        Authenticator(key)


def test_a_secret_is_measured_in_bytes() -> None:
    Authenticator("éèêëàâäôöùû" * 2)


@pytest.mark.parametrize("secret", ["a" * 32, "password" * 4, "123456789" * 4])
def test_a_secret_of_few_characters_is_refused_where_asked(secret: str) -> None:
    with pytest.raises(KeyUnusableError, match="different characters") as caught:
        Authenticator(secret, refuse_weak=True)
    assert secret not in str(caught.value)
    Authenticator(secret)
    Authenticator("0123456789" * 4, refuse_weak=True)


@pytest.mark.parametrize(
    ("names", "conversation", "open_"),
    [
        (("c1",), "c1", True),
        (("c1",), "c10", False),
        (("c1",), "c", False),
        (("c1",), "C1", False),
        (("support-*",), "support-42", True),
        (("support-*",), "support-", True),
        (("support-*",), "support", False),
        (("support-*",), "my-support-42", False),
        (("*",), "anything", True),
        (("user-1*",), "user-10", False),
        (("user-1*",), "user-1", True),
        (("user-1*",), "user-1~a", True),
        (("user-1*",), "user-1-a", True),
        (("user-1*",), "user-2", False),
        (("user-1*",), "user-", False),
        (("user-1:*",), "user-1:a", True),
        (("user-1:*",), "user-10:a", False),
        (("a*b",), "acb", False),
        (("*b",), "ab", False),
        (("c1", "support-*"), "support-1", True),
        ((), "c1", False),
        (("",), "c1", False),
    ],
)
def test_a_conversation_is_open_by_name_or_prefix(names: tuple[str, ...], conversation: str, open_: bool) -> None:
    assert Identity("ann", NOW, names).opens(conversation) is open_


GOOD = ("https://good.com",)


@pytest.mark.parametrize(
    "origin", ["https://good.com", "https://GOOD.com", "HTTPS://good.com:443", "https://good.com/"]
)
def test_a_listed_origin_may_connect_in_any_spelling(origin: str) -> None:
    assert origin_allowed(origin, GOOD, ())


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "good.com",
        "//good.com",
        "http://good.com",
        "wss://good.com",
        "file://good.com",
        "https://good.com.evil.com",
        "https://evil-good.com",
        "https://evilgood.com",
        "https://evil.com/good.com",
        "https://evil.com/https://good.com",
        "https://evil.com?https://good.com",
        "https://evil.com#https://good.com",
        "https://sub.good.com",
        "https://good.com.",
        "https://good.com:444",
        "https://good.com:80",
        "https://good.com:0",
        "https://good.com:-1",
        "https://good.com:99999",
        "https://good.com:x",
        "https://good.com/path",
        "https://good.com?query",
        "https://good.com#fragment",
        "https://user@good.com",
        "https://user:password@good.com",
        "https://@good.com",
        "https://good.com@evil.com",
        "https://good.com\\@evil.com",
        "https://good.com\\.evil.com",
        "https://good.com%00.evil.com",
        "https://good.com https://evil.com",
        "https://good.com,https://evil.com",
        "https://g\u043e\u043ed.com",
        "https://good\u2044.com",
        "https://[good.com]",
        "https://[",
        "https://",
        "https:good.com",
        "*",
    ],
)
def test_an_unlisted_origin_may_not_connect(origin: str) -> None:
    assert not origin_allowed(origin, GOOD, ())
    assert not origin_allowed(origin, (), GOOD)
    assert not origin_allowed(origin, (), ())


def test_a_request_without_an_origin_passes() -> None:
    assert origin_allowed(None, (), ())


def test_a_star_allows_every_origin() -> None:
    assert origin_allowed("null", ("*",), ())
    assert origin_allowed("https://evil.com", (*GOOD, "*"), ())


def test_only_the_exact_own_origin_may_connect() -> None:
    own = ("http://127.0.0.1:8000", "http://[::1]:8000")
    assert origin_allowed("http://127.0.0.1:8000", (), own)
    assert origin_allowed("http://[::1]:8000", (), own)
    assert not origin_allowed("http://127.0.0.1:8001", (), own)
    assert not origin_allowed("http://localhost:8000", (), own)


@pytest.mark.parametrize(
    ("origin", "normal"),
    [
        ("http://Example.COM", "http://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:443", "http://example.com:443"),
        ("https://example.com:80", "https://example.com:80"),
        ("https://example.com:", "https://example.com"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[::1]", "http://[::1]"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("Chrome-Extension://abcdef", "chrome-extension://abcdef"),
        ("tauri://localhost:80", "tauri://localhost:80"),
    ],
)
def test_an_origin_is_normalized(origin: str, normal: str) -> None:
    assert normal_origin(origin) == normal


@given(
    st.text()
    | st.lists(st.sampled_from(["https:", "//", "good.com", ":", "443", "@", "/", "[", "]", "?", "#", "\\", "."])).map(
        "".join
    )
)
def test_normalizing_an_origin_is_idempotent(text: str) -> None:
    normal = normal_origin(text)
    assert normal is None or normal_origin(normal) == normal


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("example.com", "example.com"),
        ("Example.COM.:8000", "example.com"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        *((host, None) for host in ("", ":80", "a/b", "a?b", "a#b", "u@a", "a:b", "[::1", "a:99999", "a" * 271)),
        *((host, None) for host in ("[::1].evil.example", "[::1]x:80")),
    ],
)
def test_host_name_is_without_port_and_brackets(host: str, name: str | None) -> None:
    assert host_name(host) == name


OWN_HOSTS = Hosts(("0.0.0.0", "chat.example.com:8000", "not/valid"))


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "127.9.9.9", "[::1]", "chat.example.com", "0.0.0.0:80", None]
)
def test_host_of_this_machine_or_of_the_setting_is_allowed(host: str | None) -> None:
    assert OWN_HOSTS.allows(host)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1", "a/b", ""])
def test_other_host_is_refused(host: str) -> None:
    assert not OWN_HOSTS.allows(host, "192.168.1.5")
    assert Hosts(None).allows(host)


def test_address_at_which_a_request_arrived_is_allowed() -> None:
    assert OWN_HOSTS.allows("192.168.1.5:8000", "192.168.1.5")


# Further claims


def further(**more: Any) -> Any:
    said = json.dumps(claims(iss="i", jti="j", iat=NOW, **more)).encode()
    found = Authenticator(SECRET).check(signed(said), NOW)
    assert isinstance(found, Identity)
    return found.claims


def test_further_claims_are_those_that_the_gateway_does_not_use() -> None:
    assert further() == {}
    assert further(plan="gold", roles=["a", "b"]) == {"plan": "gold", "roles": ["a", "b"]}


@pytest.mark.parametrize(("size", "kept"), [(MAX_CLAIMS_BYTES - len('{"x":""}'), True), (MAX_CLAIMS_BYTES, False)])
def test_further_claims_are_bounded(*, size: int, kept: bool) -> None:
    assert (further(x="x" * size) is not None) is kept


def test_further_claims_that_an_entry_cannot_hold_are_left_out() -> None:
    assert further(x="\ud800") is None


@given(
    st.dictionaries(
        st.text(max_size=9),
        st.recursive(st.none() | st.booleans() | st.floats() | st.integers(), st.lists, max_leaves=9),
        max_size=9,
    )
)
def test_further_claims_can_be_stored_and_read(found: dict[str, Any]) -> None:
    kept = further(x=found)
    value = log_entries.encode(log_entries.QUEUED, log_entries.Queued("c", "m", "default", claims=kept))
    assert isinstance(log_entries.decode_response_entry(value), log_entries.Queued)
