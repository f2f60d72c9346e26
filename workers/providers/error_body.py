"""The body of a provider's error reply, of which only the beginning is read.

Both SDKs read an error reply whole. One of 300 kB that was compressed took 600 MB, and one without an end took memory
until the timeout.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import httpx2

MAX_BODY_BYTES: Final = 65_536
"""Of an error reply, before and after decompression."""

READ_WITHIN_S: Final = 5.0


async def limit(response: httpx2.Response) -> None:
    """Read the beginning of an error reply in place of all of it; a hook of the HTTP client.

    A body that has not ended by then, or is broken off, counts as empty. Safe to cancel.
    """
    if response.status_code < 400:
        return
    body = bytearray()
    whole = False
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    break
            else:
                whole = True
    except Exception:
        # Late, or broken off, in one of many ways. The status says enough.
        whole = False
    # What a client reads later is this: there is no public way to replace the body of a response.
    response._content = decompressed(bytes(body), response.headers.get("content-encoding", "")) if whole else b""
    if not whole:
        await response.aclose()


def decompressed(body: bytes, encoding: str) -> bytes:
    """Return the beginning of a body; empty if it is not in this encoding, or the encoding is another one."""
    if encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return b""
    try:
        # 47: gzip or zlib, whichever the header says.
        return zlib.decompressobj(47).decompress(body, MAX_BODY_BYTES)
    except zlib.error:
        return b""


def hooks() -> Any:
    """Return what the HTTP clients of the SDKs take as `event_hooks`."""
    return {"response": [limit]}
