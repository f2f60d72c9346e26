"""The sample backends, run as processes: a gateway accepts their tokens; each opens its own conversations only."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import time
import urllib.request
from contextlib import contextmanager
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Final

import pytest

from gateway.auth import Authenticator, Identity
from tests import web
from tests.core_coverage import ROOT
from tests.deploy.services import Service, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = ROOT / "deploy" / "backends"
KEY: Final = secrets.token_hex(32)
TOKEN_LIFE_S: Final = 900


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def running(argv: list[str], port: int, **environment: str) -> Iterator[str]:
    clean = {"PATH": os.environ["PATH"], "TOKENWIRE_JWT_KEY": KEY, "PYTHONDONTWRITEBYTECODE": "1"}
    with Service(argv, {**clean, **environment}, str(FOLDER)) as backend:
        url = f"http://127.0.0.1:{port}/token"
        backend.until(lambda: fetch(url) is not None)
        yield url


@pytest.fixture(scope="module", params=["fastapi_backend.py", "express_backend.cjs"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of the running sample's /token."""
    port = free_port()
    if request.param == "fastapi_backend.py":
        with running([sys.executable, "-m", "uvicorn", "--port", str(port), "fastapi_backend:app"], port) as url:
            yield url
        return
    if reason := web.missing():
        pytest.skip(reason)
    assert web.install()
    node = shutil.which("node")
    assert node is not None
    packages = str(web.WEB / "node_modules")
    with running([node, request.param], port, PORT=str(port), NODE_PATH=packages) as url:
        yield url


def ask(url: str, cookies: str = "") -> tuple[Identity, SimpleCookie]:
    """Return what the gateway makes of the token, and the cookies that the reply sets."""
    request = urllib.request.Request(url, headers={"cookie": cookies} if cookies else {})
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.headers["cache-control"] == "no-store"
        set_cookies = SimpleCookie("; ".join(reply.headers.get_all("set-cookie", [])))
        identity = Authenticator(KEY).check(reply.read().decode(), time.time())
    assert isinstance(identity, Identity)
    return identity, set_cookies


def test_user_token_opens_own_conversations_only(backend: str) -> None:
    identity, cookies = ask(backend, "session=session-of-ann")
    subject = "user." + b"ann".hex()
    assert identity.subject == subject
    assert identity.opens(f"{subject}.default")
    for other in (subject, f"{subject}61.default", "user." + b"anna".hex() + ".default", "visitor.0.default", "c1"):
        assert not identity.opens(other)
    assert not cookies


def test_token_expires_within_a_quarter_of_an_hour(backend: str) -> None:
    identity, _ = ask(backend)
    assert 0 < identity.expires - time.time() <= TOKEN_LIFE_S


def test_visitor_keeps_subject_by_cookie(backend: str) -> None:
    first, cookies = ask(backend)
    visitor = cookies["visitor"]
    assert first.subject == f"visitor.{visitor.value}"
    assert first.opens(f"{first.subject}.default")
    assert visitor["httponly"]
    assert visitor["secure"]
    assert visitor["samesite"].lower() == "lax"
    again, _ = ask(backend, f"visitor={visitor.value}")
    assert again == Identity(first.subject, again.expires, first.conversations, {})


def test_visitors_get_different_subjects(backend: str) -> None:
    assert ask(backend)[0].subject != ask(backend)[0].subject


@pytest.mark.parametrize(
    "cookie",
    ["visitor=*", "visitor=616e6e", "visitor=", "visitor=" + "A" * 32, "visitor=" + "0" * 33, "session=guessed"],
)
def test_forged_cookie_gets_new_visitor(backend: str, cookie: str) -> None:
    identity, cookies = ask(backend, cookie)
    value = cookies["visitor"].value
    assert len(value) == 32
    assert value not in cookie
    assert identity.subject == f"visitor.{value}"


@pytest.mark.parametrize("name", ["__proto__", "constructor", "toString"])
def test_session_named_like_an_object_property_gets_visitor(backend: str, name: str) -> None:
    identity, _ = ask(backend, f"session={name}")
    assert identity.subject.startswith("visitor.")
