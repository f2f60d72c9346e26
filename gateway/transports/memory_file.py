"""A public file in memory, plain and gzipped: a file that is opened for each request takes descriptors of clients."""

from __future__ import annotations

import gzip
import hashlib
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request


class MemoryFile:
    """One file."""

    def __init__(self, content: bytes, headers: Mapping[str, str]) -> None:
        """`headers`: of its responses, with its content type."""
        self.content = content
        self.gzipped = gzip.compress(content, 9, mtime=0)
        self.tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self.headers = {**headers, "etag": self.tag, "vary": "accept-encoding"}

    def answer(self, request: Request) -> Response:
        """Return the file, or 304 if the browser has it."""
        tags = request.headers.get("if-none-match", "").split(",")
        if any(tag.strip().removeprefix("W/") == self.tag for tag in tags):
            return Response(status_code=304, headers=self.headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.gzipped, headers={**self.headers, "content-encoding": "gzip"})
        return Response(self.content, headers=self.headers)
