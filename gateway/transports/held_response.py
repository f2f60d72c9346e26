"""An HTTP response whose body is in memory, and counted there, until its client has taken it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

PIECE_BYTES: Final = 32_768
"""Bytes of one write. The next one waits for the write buffer, which then holds at most about 96 kB."""


class HeldResponse(Response):
    """A JSON body, written in pieces: the server would take it whole at once, however slowly the client reads."""

    media_type = "application/json"

    def __init__(self, body: bytes, released: Callable[[], None]) -> None:
        """`released` is called once, when the last piece is written or the client is disconnected."""
        super().__init__(body, headers={"cache-control": "no-store"})
        self._released = released

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; see the ASGI specification. Safe to cancel."""
        body = memoryview(self.body)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for begin in range(0, len(body), PIECE_BYTES):
                piece = bytes(body[begin : begin + PIECE_BYTES])
                await send({"type": "http.response.body", "body": piece, "more_body": begin + PIECE_BYTES < len(body)})
        finally:
            self._released()
