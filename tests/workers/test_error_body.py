"""Error replies of providers: a bounded part of their bodies is read, and their codes are found all the same."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import json
import tracemalloc
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from workers.providers import ProviderError, Request, error_body
from workers.providers.error_body import MAX_BODY_BYTES, decompressed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUOTA = json.dumps({"error": {"message": "No credit.", "type": "insufficient_quota", "code": "insufficient_quota"}})


@asynccontextmanager
async def replying(head: bytes, piece: bytes, *, endless: bool = False) -> AsyncIterator[str]:
    """Run a server that answers every request with this reply; yield its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\n" + head + b"\r\n")
            writer.write(piece)
            await writer.drain()
            while endless:
                writer.write(piece)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def failure(url: str, monkeypatch: pytest.MonkeyPatch) -> ProviderError:
    monkeypatch.setenv("SSL_CERT_DIR", "/")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    provider = importlib.import_module("workers.providers.openai").connect("m")
    try:
        with pytest.raises(ProviderError) as caught:
            await anext(provider(Request("m", [{"role": "user", "content": "Hi"}])))
    finally:
        await provider.aclose()
    return caught.value


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
async def test_code_in_the_body_is_found(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = QUOTA.encode()
    packed = {"": quota, "gzip": gzip.compress(quota), "deflate": zlib.compress(quota)}[encoding]
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(packed)
    if encoding:
        head += b"Content-Encoding: %b\r\n" % encoding.encode()
    async with replying(head, packed) as url:
        assert (await failure(url, monkeypatch)).code == "provider_quota"


async def test_body_without_an_end_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with replying(b"", b" " * 10_000, endless=True) as url, asyncio.timeout(10):
        assert (await failure(url, monkeypatch)).code == "provider_rate_limited"


async def test_body_that_does_not_come_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_body, "READ_WITHIN_S", 0.05)
    async with replying(b"Content-Length: 100\r\n", b"{") as url, asyncio.timeout(10):
        assert (await failure(url, monkeypatch)).code == "provider_rate_limited"


async def test_compressed_body_is_decompressed_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(b" " * (40 << 20))
    assert len(packed) <= MAX_BODY_BYTES
    async with replying(b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % len(packed), packed) as url:
        tracemalloc.start()
        try:
            assert (await failure(url, monkeypatch)).code == "provider_rate_limited"
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 8 << 20


@pytest.mark.parametrize(
    ("body", "encoding", "expected"),
    [
        (b"x", " Identity ", b"x"),
        (b"x", "br", b""),
        (b"x", "gzip", b""),
        (gzip.compress(b"x" * MAX_BODY_BYTES, mtime=0), "gzip", b"x" * MAX_BODY_BYTES),
        (gzip.compress(b"x" * (MAX_BODY_BYTES + 1), mtime=0), "gzip", b"x" * MAX_BODY_BYTES),
    ],
    ids=["plain", "other", "invalid", "at the limit", "above it"],
)
def test_decompression_is_limited(body: bytes, encoding: str, expected: bytes) -> None:
    assert decompressed(body, encoding) == expected
