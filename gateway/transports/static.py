"""Static pages of the gateway, with a content security policy that allows only its own files."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket

from gateway.transports.memory_file import MemoryFile

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: wss:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Page:
    """The files of one page, an ASGI application. They are read once: a change needs a restart."""

    def __init__(self, directory: Path, *, html: bool = False) -> None:
        """`html`: `index.html` is the page of the folder itself."""
        self._files = {
            path.relative_to(directory).as_posix(): MemoryFile(
                path.read_bytes(), {**HEADERS, "content-type": _content_type(path)}
            )
            for path in directory.rglob("*")
            if path.is_file()
        }
        if html and "index.html" in self._files:
            self._files[""] = self._files["index.html"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification. Safe to cancel."""
        if scope["type"] != "http":
            await WebSocket(scope, receive, send).close()
            return
        request = Request(scope)
        file = self._files.get(_path_in_folder(scope))
        response: Response
        if request.method not in ("GET", "HEAD"):
            response = PlainTextResponse("Method Not Allowed", 405, {"allow": "GET, HEAD"})
        elif file is None:
            response = PlainTextResponse("Not Found", 404)
        else:
            response = file.answer(request)
        await response(scope, receive, send)


def _path_in_folder(scope: Scope) -> str:
    """Return the path of a request below where this application is mounted."""
    path, mounted = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(mounted).removeprefix("/")


def _content_type(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def folder(name: str) -> Path | None:
    """Return the folder of a page: in this package if installed, in web/ in a checkout. None if it is not built."""
    package = Path(__file__).parents[1]
    candidates = (package / "static" / name, package.parent / "web" / name)
    return next((path for path in candidates if path.is_dir()), None)
