"""The widget's files: what `<script async src="https://GATEWAY/widget.js">` loads, for pages of any origin.

They are built by `web/build.js` and few enough to be kept in memory, each as it is and gzipped. Who may use the chat is
decided when its socket connects; that the files can be read by everybody tells nobody anything.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

# Installed, the files lie in this package; in a checkout, in web/.
FOLDERS: Final = (Path(__file__).parent / "dist", Path(__file__).parent.parent / "web" / "dist")

HEADERS: Final = {
    "content-type": "text/javascript; charset=utf-8",
    "access-control-allow-origin": "*",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
    "vary": "accept-encoding",
}
# A chunk has the hash of its content in its name; the launcher, which names the chunks, is asked for again each time.
FOR_GOOD: Final = "public, max-age=31536000, immutable"
EACH_TIME: Final = "no-cache"


def widget_routes(folders: tuple[Path, ...] = FOLDERS) -> list[Route]:
    """`/widget.js` and what it loads. No routes where nothing was built."""
    folder = next((folder for folder in folders if (folder / "widget.js").is_file()), None)
    if folder is None:
        return []
    chunks = sorted((folder / "widget").glob("*.js"))
    return [
        _route("/widget.js", (folder / "widget.js").read_bytes(), EACH_TIME),
        *(_route(f"/widget/{path.name}", path.read_bytes(), FOR_GOOD) for path in chunks),
    ]


def integrity(folders: tuple[Path, ...] = FOLDERS) -> str:
    """The value of a script tag's `integrity` for `/widget.js` (W3C Subresource Integrity, section 3).

    Raises FileNotFoundError where nothing was built.
    """
    for folder in folders:
        if (folder / "widget.js").is_file():
            digest = hashlib.sha384((folder / "widget.js").read_bytes()).digest()
            return f"sha384-{base64.b64encode(digest).decode()}"
    raise FileNotFoundError("the widget is not built: run `npm ci && npm run build` in web/")


def _route(path: str, content: bytes, cache: str) -> Route:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "cache-control": cache, "etag": tag}
    small = gzip.compress(content, 9, mtime=0)

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(small, headers={**headers, "content-encoding": "gzip"})
        return Response(content, headers=headers)

    return Route(path, serve)
