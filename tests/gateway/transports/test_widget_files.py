"""The files of the widget over HTTP, requested by a page of another origin."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gateway.transports.widget_files import FOLDERS, integrity, widget_routes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=widget_routes()))


def test_launcher_is_revalidated_and_chunks_are_immutable(client: TestClient) -> None:
    launcher = client.get("/widget.js")
    assert launcher.status_code == 200
    assert launcher.headers["cache-control"] == "no-cache"
    files = re.findall(r'file:"([\w-]+\.js)",integrity:"(sha384-[\w+/=]+)"', launcher.text)
    assert [name.partition("-")[0] for name, _ in files] == ["panel"]
    for name, promised in files:
        chunk = client.get(f"/widget/{name}")
        assert "immutable" in chunk.headers["cache-control"]
        assert f"sha384-{base64.b64encode(hashlib.sha384(chunk.content).digest()).decode()}" == promised


def test_widget_files_allow_any_origin(client: TestClient) -> None:
    folder = next(folder for folder in FOLDERS if folder.is_dir())
    names = ["/widget.js", *(f"/widget/{path.name}" for path in (folder / "widget").glob("*.js"))]
    assert len(names) == 4
    for name in names:
        response = client.get(name, headers={"origin": "https://a.example"})
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["cross-origin-resource-policy"] == "cross-origin"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-type"].startswith("text/javascript")


def test_file_is_gzipped_on_request_and_revalidated(client: TestClient) -> None:
    plain = client.get("/widget.js", headers={"accept-encoding": "identity"})
    small = client.get("/widget.js", headers={"accept-encoding": "gzip, br"})
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert plain.content == small.content
    assert len(gzip.compress(plain.content, 9)) <= 3100
    again = client.get("/widget.js", headers={"if-none-match": plain.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_chunk_of_other_version_is_not_found(client: TestClient) -> None:
    for name in ("panel-00000000.js", "..%2fwidget.js", "%2e%2e/widget.js", ""):
        assert client.get(f"/widget/{name}").status_code == 404


def test_integrity_matches_the_launcher(client: TestClient) -> None:
    digest = hashlib.sha384(client.get("/widget.js").content).digest()
    assert integrity() == f"sha384-{base64.b64encode(digest).decode()}"


def test_missing_build_has_no_routes(tmp_path: Path) -> None:
    assert widget_routes((tmp_path,)) == []
    with pytest.raises(FileNotFoundError, match="npm run build"):
        integrity((tmp_path,))
