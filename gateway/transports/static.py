"""Static pages of the gateway, with a content security policy that allows only its own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from starlette.responses import Response

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: wss:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Page(StaticFiles):
    """The files of one page."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the response of Starlette with `HEADERS`."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def folder(name: str) -> Path | None:
    """Return the folder of a page: in this package if installed, in web/ in a checkout. None if it is not built."""
    package = Path(__file__).parents[1]
    candidates = (package / "static" / name, package.parent / "web" / name)
    return next((path for path in candidates if path.is_dir()), None)
