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
FOLDERS: Final = (Path(__file__).parents[1] / "static" / "served", Path(__file__).parents[2] / "web" / "served")

HEADERS: Final = {
    "content-type": "text/javascript; charset=utf-8",
    "x-content-type-options": "nosniff",
    "vary": "accept-encoding",
}
ANY_PAGE: Final = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
# A chunk has the hash of its content in its name; the launcher, which names the chunks, is asked for again each time.
FOR_GOOD: Final = "public, max-age=31536000, immutable"
EACH_TIME: Final = "no-cache"


def widget_routes(folders: tuple[Path, ...] = FOLDERS) -> list[Route]:
    """`/widget.js` and what it loads. No routes where nothing was built."""
    folder = next((folder for folder in folders if (folder / "widget.js").is_file()), None)
    if folder is None:
        return []
    launcher = _File((folder / "widget.js").read_bytes(), EACH_TIME)
    chunks = {path.name: _File(path.read_bytes(), FOR_GOOD) for path in (folder / "widget").glob("*.js")}

    async def widget(request: Request) -> Response:
        return launcher.answer(request)

    async def chunk(request: Request) -> Response:
        file = chunks.get(request.path_params["file"])
        return Response(status_code=404, headers=ANY_PAGE) if file is None else file.answer(request)

    return [Route("/widget.js", widget), Route("/widget/{file}", chunk)]


def integrity(folders: tuple[Path, ...] = FOLDERS) -> str:
    """The value of a script tag's `integrity` for `/widget.js` (W3C Subresource Integrity, section 3).

    Raises FileNotFoundError where nothing was built.
    """
    for folder in folders:
        if (folder / "widget.js").is_file():
            digest = hashlib.sha384((folder / "widget.js").read_bytes()).digest()
            return f"sha384-{base64.b64encode(digest).decode()}"
    raise FileNotFoundError("the widget is not built: run `npm ci && npm run build` in web/")


class _File:
    """One file in memory, as it is and gzipped."""

    def __init__(self, content: bytes, cache: str) -> None:
        self.content = content
        self.small = gzip.compress(content, 9, mtime=0)
        self.tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self.headers = {**HEADERS, **ANY_PAGE, "cache-control": cache, "etag": self.tag}

    def answer(self, request: Request) -> Response:
        """The file, or that the browser has it already."""
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=self.headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.small, headers={**self.headers, "content-encoding": "gzip"})
        return Response(self.content, headers=self.headers)
