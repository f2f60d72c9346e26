"""The widget's files, which `<script async src="https://GATEWAY/widget.js">` loads into pages of any origin.

`web/build.js` builds them. They are kept in memory, plain and gzipped. The files are public: a client is authenticated
when its socket connects.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import Route

from gateway.transports.memory_file import MemoryFile

if TYPE_CHECKING:
    from starlette.requests import Request

# In this package if installed, in web/ in a checkout.
FOLDERS: Final = (Path(__file__).parents[1] / "static" / "served", Path(__file__).parents[2] / "web" / "served")

HEADERS: Final = {
    "content-type": "text/javascript; charset=utf-8",
    "x-content-type-options": "nosniff",
}
ANY_ORIGIN: Final = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
# The name of a chunk contains a hash of its content. The launcher names the chunks, so browsers revalidate it.
CACHE_FOREVER: Final = "public, max-age=31536000, immutable"
REVALIDATE: Final = "no-cache"


def widget_routes(folders: tuple[Path, ...] = FOLDERS) -> list[Route]:
    """Return the routes of `/widget.js` and its chunks; none if the widget is not built."""
    folder = next((folder for folder in folders if (folder / "widget.js").is_file()), None)
    if folder is None:
        return []
    launcher = _file(folder / "widget.js", REVALIDATE)
    chunks = {path.name: _file(path, CACHE_FOREVER) for path in (folder / "widget").glob("*.js")}

    async def widget(request: Request) -> Response:
        return launcher.answer(request)

    async def chunk(request: Request) -> Response:
        file = chunks.get(request.path_params["file"])
        return Response(status_code=404, headers=ANY_ORIGIN) if file is None else file.answer(request)

    return [Route("/widget.js", widget), Route("/widget/{file}", chunk)]


def integrity(folders: tuple[Path, ...] = FOLDERS) -> str:
    """Return the `integrity` of a script tag for `/widget.js` (W3C Subresource Integrity, section 3).

    Raises FileNotFoundError if the widget is not built.
    """
    for folder in folders:
        if (folder / "widget.js").is_file():
            digest = hashlib.sha384((folder / "widget.js").read_bytes()).digest()
            return f"sha384-{base64.b64encode(digest).decode()}"
    raise FileNotFoundError("the widget is not built: run `npm ci && npm run build` in web/")


def _file(path: Path, cache: str) -> MemoryFile:
    return MemoryFile(path.read_bytes(), {**HEADERS, **ANY_ORIGIN, "cache-control": cache})
