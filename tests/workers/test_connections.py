"""Connections to providers: TLS verification, proxies of the environment, and failures."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import ipaddress
import json
import socket
import ssl
import struct
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from workers.providers import Finish, ProviderError, Request, Text, anthropic, openai

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

Connected: TypeAlias = openai.ChatCompletions | anthropic.Messages
Serve: TypeAlias = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]"

REQUEST: Final = Request("model-1", [{"role": "user", "content": "Why?"}])
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DELTA: Final = {
    "type": "content_block_delta",
    "delta": {"text": "Because"},
    "choices": [{"delta": {"content": "Because"}, "finish_reason": "stop"}],
}
"""An event that both APIs can read."""

VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


REPLY: Final = HEAD + chunk(f"data: {json.dumps(DELTA)}\n\n".encode())
END: Final = chunk(b'data: {"type": "message_stop"}\n\n') + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    # As in test_providers: loading the machine's certificates takes long, and none is needed.
    monkeypatch.setenv("SSL_CERT_DIR", "/")


@pytest.fixture(params=["openai", "anthropic"])
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@asynccontextmanager
async def server(serve: Serve, certificate: Path | None = None) -> AsyncIterator[int]:
    """Run a server on a free port; `serve` is called with each connection."""
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            # The client disconnected, as some tests expect.
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=context)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read a whole request; return its first line and headers."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return head


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(REPLY + END)
    await writer.drain()


def connect(name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> Connected:
    monkeypatch.setenv(f"{name.upper()}_BASE_URL", address)
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-test")
    connected: Connected = importlib.import_module(f"workers.providers.{name}").connect("model-1")
    return connected


async def outcome(provider: Connected) -> list[Any]:
    """Return the texts, then the reason or the code of a failure."""
    found: list[Any] = []
    try:
        async with asyncio.timeout(20), aclosing(provider(REQUEST)) as events:
            async for event in events:
                found.append(event.reason if isinstance(event, Finish) else event.text)  # noqa: PERF401 - a failure ends it
    except ProviderError as error:
        found.append(error.code)
    finally:
        await provider.aclose()
    return found


async def test_unknown_certificate_is_rejected(name: str, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(answers, certificate) as port:
        assert await outcome(connect(name, f"https://localhost:{port}", monkeypatch)) == ["provider_unreachable"]


async def test_certificate_of_another_name_is_rejected(
    name: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with server(answers, certificate) as port:
        # 127.0.0.2 is this machine too, but not in the certificate.
        provider = connect(name, f"https://127.0.0.2:{port}", monkeypatch)
        assert await outcome(provider) == ["provider_unreachable"]


async def test_certificate_authority_of_the_operator_is_trusted(
    name: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with server(answers, certificate) as port:
        assert await outcome(connect(name, f"https://localhost:{port}", monkeypatch)) == ["Because", "complete"]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_cancelling_closes_the_connection_immediately(
    name: str, secure: bool, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disconnected = asyncio.Event()

    async def keeps_reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(REPLY)
        try:
            while await reader.read(1000):
                pass
        finally:
            disconnected.set()

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with server(keeps_reading, certificate if secure else None) as port:
        provider = connect(name, f"http{'s' if secure else ''}://localhost:{port}", monkeypatch)
        events = provider(REQUEST)
        assert await anext(events) == Text("Because")
        task = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        async with asyncio.timeout(1.0):
            await disconnected.wait()
        await events.aclose()
        await provider.aclose()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset (SO_LINGER with 0 seconds, socket(7))."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_reset_during_the_answer_is_incomplete(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    received = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(
            HEAD
            + chunk(
                b'data: {"type": "content_block_delta", "delta": {"text": "Be"}, '
                b'"choices": [{"delta": {"content": "Be"}}]}\n\n'
            )
        )
        await received.wait()
        reset(writer)

    async with server(serve) as port:
        provider = connect(name, f"http://localhost:{port}", monkeypatch)
        events = provider(REQUEST)
        assert await anext(events) == Text("Be")
        received.set()
        with pytest.raises(ProviderError, match="provider_incomplete"):
            await anext(events)
        await provider.aclose()


@pytest.mark.parametrize("how", ["reset", "closed"])
async def test_closed_before_the_answer_is_unreachable(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if how == "reset":
            reset(writer)

    async with server(serve) as port:
        assert await outcome(connect(name, f"http://localhost:{port}", monkeypatch)) == ["provider_unreachable"]


async def test_reply_that_is_not_http_is_unreachable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"SSH-2.0-whatever\r\n\r\n")
        await writer.drain()

    async with server(serve) as port:
        assert await outcome(connect(name, f"http://localhost:{port}", monkeypatch)) == ["provider_unreachable"]


class Proxy:
    """A proxy that answers instead of the requested host, and records the request lines."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.lines: list[bytes] = []
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if certificate is not None:
            self.context.load_cert_chain(certificate)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.lines.append(head.partition(b"\r\n")[0])
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.start_tls(self.context)
            await read_request(reader)
        else:
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
        writer.write(REPLY + END)
        await writer.drain()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
async def test_proxy_of_the_environment_is_used(name: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    async with server(proxy) as port:
        # Lower case: the upper case is ignored where a web server may have set it (httpoxy).
        monkeypatch.setenv(variable.lower(), f"http://127.0.0.1:{port}")
        assert await outcome(connect(name, "http://provider.invalid/v1", monkeypatch)) == ["Because", "complete"]
    assert proxy.lines[0].startswith(b"POST http://provider.invalid/v1/")


async def test_tls_is_tunnelled_through_a_proxy(name: str, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    proxy = Proxy(certificate)
    async with server(proxy) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        assert await outcome(connect(name, "https://localhost:9", monkeypatch)) == ["Because", "complete"]
    assert proxy.lines == [b"CONNECT localhost:9 HTTP/1.1"]


async def test_no_proxy_hosts_are_connected_directly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    async with server(proxy) as proxy_port, server(answers) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy_port}")
        monkeypatch.setenv("NO_PROXY", "localhost")
        assert await outcome(connect(name, f"http://localhost:{port}", monkeypatch)) == ["Because", "complete"]
    assert proxy.lines == []
