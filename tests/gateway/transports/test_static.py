"""The files of a page, from memory: types, policy, revalidation, and no file outside of the folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gateway.transports.static import HEADERS, Page

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    folder = tmp_path / "page"
    (folder / "deep").mkdir(parents=True)
    (folder / "index.html").write_text("<p>page</p>")
    (folder / "page.js").write_text("let a;" * 100)
    (folder / "deep" / "icon.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("secret")
    mounts = [Mount("/client", Page(folder)), Mount("/", Page(folder, html=True))]
    return TestClient(Starlette(routes=mounts))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/deep/icon.svg", "image/svg+xml"),
        ("/client/page.js", "text/javascript"),
    ],
)
def test_file_has_its_type_and_the_policy(client: TestClient, path: str, kind: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith(kind)
    assert all(reply.headers[name] == value for name, value in HEADERS.items())
    assert client.head(path).status_code == 200


def test_file_is_revalidated_and_compressed(client: TestClient) -> None:
    plain = client.get("/page.js", headers={"accept-encoding": "identity"})
    assert client.get("/page.js", headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"
    for tag in (plain.headers["etag"], f"W/{plain.headers['etag']}", f'"other", {plain.headers["etag"]}'):
        again = client.get("/page.js", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page.js", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/none", "/client/", "/deep", "/deep/", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/page.js%00"]
)
def test_other_paths_are_not_found(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_other_methods_and_sockets_are_refused(client: TestClient) -> None:
    assert client.post("/page.js").status_code == 405
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/page.js"):
        pass


def test_request_opens_no_file(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    assert client.get("/page.js").status_code == 200
