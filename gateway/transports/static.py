"""Pages of this gateway's own, under a policy that lets nothing in but itself."""

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
        """Starlette's response, with our headers."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def folder(name: str) -> Path | None:
    """Where the files of a page are: installed, in this package; in a checkout, in web/. None where there are none."""
    here = Path(__file__).parents[1]
    return next((place for place in (here / "static" / name, here.parent / "web" / name) if place.is_dir()), None)
