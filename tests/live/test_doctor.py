"""The doctor names each of ten misconfigurations, planted for real, and says what to do."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.cli.settings import load
from gateway.operations.doctor import examine
from tests.live.processes import GatewayProcess
from tests.stores import RealServer
from tests.topologies import RealCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.operations.finding import Finding
    from tests.live.conftest import Operated

pytestmark = pytest.mark.live

KEY: Final = "planted-jwt-key-of-thirty-two-bytes-or-more"
NGINX: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
UPGRADE: Final = (
    'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
)
BUFFERS: Final = "proxy_ignore_headers X-Accel-Buffering; gzip on; gzip_types text/event-stream; gzip_proxied any;"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("TOKENWIRE_", "OPENAI_", "ANTHROPIC_")):
            monkeypatch.delenv(name)


async def examined(store: str, address: str | None = None, **given: Any) -> dict[str, Finding]:
    """Return the findings by subject."""
    return {finding.subject: finding for finding in await examine(load({"store": store, **given}), address)}


def wrong(found: dict[str, Finding], *besides: str) -> set[str]:
    """Return the findings that are not ok, without those about limits of this machine."""
    return {name for name, finding in found.items() if finding.mark != "ok"} - {"files", "latency", *besides}


def printed(*words: str, before: tuple[str, ...] = (), **variables: str) -> tuple[int, str]:
    """Return the exit status of the command, and its output."""
    command = [*before, sys.executable, "-m", "gateway", "doctor", *words]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout


@contextmanager
def nginx(gateway: str, sockets: str, rest: str = "") -> Iterator[str]:
    """Return the address of an nginx in front of a gateway, with directives for sockets and for other requests."""
    if NGINX is None:
        pytest.skip("there is no nginx on this machine")
    folder = Path(tempfile.mkdtemp(prefix="tw-nginx-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port}; location = /v1/ws {{ proxy_pass {gateway}; {sockets} }}\n"
        f"location / {{ proxy_pass {gateway}; {rest} }} }} }}\n"
    )
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 10.0
        while True:
            try:
                urllib.request.urlopen(f"{address}/healthz", timeout=1.0).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield address
    finally:
        process.terminate()
        process.wait(10.0)
        shutil.rmtree(folder, ignore_errors=True)


# The store


async def test_a_memory_store_has_no_failures() -> None:
    found = await examined("memory://")
    assert wrong(found) == {"persistence"}
    assert found["persistence"].mark == "WARN"
    assert "embedded://" in found["persistence"].text


@pytest.mark.parametrize("make", ["valkey", "redis"])
def test_a_good_store_has_no_findings(make: Any) -> None:
    with RealServer(make) as server:
        status, text = printed("--store", server.url)
        assert status == 0
        wrongs = {line.split()[1] for line in text.splitlines() if not line.startswith("ok ")}
        assert wrongs <= {"files:", "latency:"}
        assert make in text
        # It leaves nothing behind.
        assert server.command("KEYS", "*") == []


async def test_an_evicting_policy_fails() -> None:
    with RealServer("valkey", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        found = await examined(server.url)
    assert wrong(found) == {"eviction"}
    assert found["eviction"].mark == "FAIL"
    assert found["eviction"].text == (
        "allkeys-lru evicts open responses when memory is short: set maxmemory-policy noeviction"
    )


async def test_missing_persistence_warns() -> None:
    with RealServer("valkey", "--appendonly", "no") as server:
        found = await examined(server.url)
    assert wrong(found) == {"persistence"}
    assert found["persistence"].mark == "WARN"
    assert "set appendonly yes" in found["persistence"].text


async def test_a_replica_address_fails() -> None:
    with RealServer() as primary, RealServer() as replica:
        replica.command("REPLICAOF", "127.0.0.1", primary.port)
        found = await examined(replica.url)
    assert wrong(found) == {"role"}
    assert found["role"].mark == "FAIL"
    assert "use the primary's address" in found["role"].text


class Aged:
    """A fake server whose INFO has an old version: no test machine has such an old server."""

    def __init__(self, server: RealServer) -> None:
        self._server = server
        version = str(server.command("INFO", "server")["valkey_version"])
        self._told = f"valkey_version:{version}".encode()
        # As many bytes, because the reply says how many.
        self._old = b"valkey_version:" + b"7.0.15"[: len(version)].ljust(len(version), b"0")

    async def __aenter__(self) -> str:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        return f"redis://127.0.0.1:{port}/0"

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._listener.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_it = await asyncio.open_connection("127.0.0.1", self._server.port)

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 20):
                target.write(data.replace(self._told, self._old))
                await target.drain()
            target.close()

        await asyncio.gather(pass_on(reader, to_it), pass_on(there, writer), return_exceptions=True)


async def test_an_old_server_fails() -> None:
    with RealServer() as server:
        async with Aged(server) as address:
            found = await examined(address)
    assert wrong(found) == {"version"}
    assert found["version"].mark == "FAIL"
    assert found["version"].text.endswith("is too old: use 7.2 or newer")


# This machine


async def test_a_low_file_limit_is_reported() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        found = await examined("memory://")
        promised = await examined("memory://", sockets=20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found["files"].mark == "WARN"
    assert "ulimit -n 65536" in found["files"].text
    assert promised["files"].mark == "FAIL"
    assert "fewer than TOKENWIRE_SOCKETS=20000: ulimit -n 40000" in promised["files"].text


# The way to a gateway


async def test_a_buffering_proxy_fails(operated: Operated) -> None:
    with nginx(operated.gateway.url, UPGRADE, BUFFERS) as address:
        found = await examined(operated.server.url, address)
    assert wrong(found) == {"buffering"}
    assert found["buffering"].mark == "FAIL"
    assert "proxy_buffering off" in found["buffering"].text


async def test_a_proxy_without_upgrade_fails(operated: Operated) -> None:
    with nginx(operated.gateway.url, "") as address:
        found = await examined(operated.server.url, address)
    assert wrong(found) == {"upgrade"}
    assert found["upgrade"].mark == "FAIL"
    assert "proxy_http_version 1.1" in found["upgrade"].text


async def test_a_good_proxy_passes_and_a_foreign_server_fails(operated: Operated) -> None:
    with nginx(operated.gateway.url, UPGRADE) as address:
        found = await examined(operated.server.url, address)
        assert wrong(found) == set()
        assert found["upgrade"].text == "a WebSocket connects (ready)"
        elsewhere = await examined(operated.server.url, f"{address}/elsewhere")
    assert elsewhere["gateway"].mark == "FAIL"
    assert "does the proxy forward to another server" in elsewhere["gateway"].text


async def test_the_doctor_signs_a_token_where_it_has_the_secret(
    operated: Operated,
) -> None:
    with GatewayProcess(operated.server.url, TOKENWIRE_JWT_KEY=KEY) as gateway:
        assert wrong(await examined(operated.server.url, gateway.url, jwt_key=KEY)) == set()
        found = await examined(operated.server.url, gateway.url)
        assert wrong(found) == {"buffering"}
        assert "pass --token-file" in found["buffering"].text
        assert "a token is required" in found["upgrade"].text


def test_a_wrong_clock_warns(operated: Operated) -> None:
    if shutil.which("faketime") is None:
        pytest.skip("there is no faketime on this machine")
    ahead = ("faketime", "-f", "+1h")
    status, text = printed(
        *("--store", operated.server.url, "--url", operated.gateway.url),
        before=ahead,
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    assert status == 0
    wrongs = [line for line in text.splitlines() if "clock" in line]
    assert [line.split(":")[0] for line in wrongs] == ["WARN  store's clock", "WARN  gateway's clock"]
    # A second more or less, on a machine that is busy.
    assert all(re.search(r"3(59|60)\d s behind this machine's: synchronize both with NTP", line) for line in wrongs), (
        wrongs
    )


async def test_a_missing_provider_key_fails() -> None:
    found = await examined("memory://", models='{"default": "demo", "fast": "openai/gpt-4o-mini"}')
    assert found["model fast"].mark == "FAIL"
    assert "OPENAI_API_KEY" in found["model fast"].text


async def test_an_unreachable_store_or_gateway_fails() -> None:
    found = await examined("redis://127.0.0.1:1/0", "http://127.0.0.1:1")
    assert found["store"].mark == found["gateway"].mark == "FAIL"
    assert "start it, or correct TOKENWIRE_STORE" in found["store"].text
    assert "nothing answers at http://127.0.0.1:1" in found["gateway"].text


async def test_a_dead_cluster_node_is_named() -> None:
    with RealCluster() as cluster:
        one = cluster.primaries()[0]
        one.command("CONFIG", "SET", "maxmemory", "100mb")
        one.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        found = await examined(f"{cluster.url},127.0.0.1:1")
    assert wrong(found) == {"node", f"eviction of 127.0.0.1:{one.port}"}
    assert found["node"].mark == "WARN"
    assert found["node"].text.startswith("127.0.0.1:1 does not answer")
    assert found["scripts"].mark == found["publish"].mark == "ok"


# What is not permitted


async def test_a_missing_permission_is_named() -> None:
    with RealServer() as server:
        server.command("ACL", "SETUSER", "tw", "on", ">pw", "~*", "&*", "+@all", "-eval", "-evalsha", "-info")
        address = f"redis://tw:pw@127.0.0.1:{server.port}/0"
        assert (await examined(address))["scripts"].mark == "FAIL"
        server.command("ACL", "SETUSER", "tw", "+eval", "+evalsha", "+info", "resetchannels")
        found = await examined(address)
    assert found["publish"].mark == "FAIL"
    assert "SUBSCRIBE" in found["publish"].text


def test_a_failed_check_fails_the_command() -> None:
    status, text = printed("--store", "redis://127.0.0.1:1/0")
    assert status == 1
    assert text.startswith("FAIL  store: no store answers at redis://127.0.0.1:1")
