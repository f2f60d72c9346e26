"""The command line: start, shutdown and error messages."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from gateway.streams import log_entries
from gateway.streams.store.store import open_store
from tests.live.client import Client
from tests.live.conftest import Deployment, entries, text_of
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.stores import RealServer
from workers.providers import demo

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

SHUTDOWN_WITHIN_S: Final = 8.0
"""Seconds in which a process has to end after a signal."""

EXIT_WITHIN_S: Final = 60.0


def tokenwire(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in an environment without settings."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TOKENWIRE_", "OPENAI_", "ANTHROPIC_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=EXIT_WITHIN_S,
    )


def refused(*words: str, **variables: str) -> str:
    """Return the error of a command that does not start: a sentence without a traceback."""
    done = tokenwire(*words, **variables)
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    return done.stderr.removeprefix("Error: ").strip()


# run


async def test_run_answers_and_shuts_down_on_sigterm(conversation: str) -> None:
    """On memory://: a whole answer; then SIGTERM during another answer closes every client with 1012."""
    with GatewayProcess("memory://", "--demo-rate", "200", command="run") as process:
        clients = [Client(conversation) for _ in range(5)]
        for client in clients:
            await client.connect(process.socket_url)
        response = await clients[0].ask("Why is the sky blue?")
        for client in clients:
            assert await client.settled(response) == demo.answer("Why is the sky blue?")
        running = await clients[0].ask("/long 4000")
        for client in clients:
            await client.until(lambda client=client: client.answer(running).text)  # type: ignore[misc]
        begun = time.monotonic()
        process.terminate()
        for client in clients:
            await client.until(lambda client=client: client.close_code is not None)  # type: ignore[misc]
            assert client.close_code == 1012
            moving = [frame for frame in client.frames if frame["type"] == "moving"]
            assert [frame["within"] for frame in moving] == [0.0]
        status = await asyncio.to_thread(process.wait, SHUTDOWN_WITHIN_S)
        print(f"gone {time.monotonic() - begun:.2f} s after SIGTERM, with status {status}")
        assert status == 0
        assert "Traceback" not in process.text
        for client in clients:
            await client.close()


@pytest.mark.parametrize("command", ["gateway", "run"])
async def test_open_streams_do_not_delay_a_shutdown(deployment: Deployment, conversation: str, command: str) -> None:
    """A kept-alive connection, an event stream and a socket without hello do not delay it."""
    with GatewayProcess(deployment.server.url, "--drain", "1", command=command) as process:
        port = int(process.url.rsplit(":", 1)[1])
        writers = []
        for request in (
            b"",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            f"GET /v1/conversations/{conversation}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
            b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            if request:
                assert b"HTTP/1.1 " in await asyncio.wait_for(reader.readline(), SHUTDOWN_WITHIN_S)
            writers.append(writer)
        process.terminate()
        assert await asyncio.to_thread(process.wait, SHUTDOWN_WITHIN_S) == 0
        assert "Traceback" not in process.text
        for writer in writers:
            writer.transport.abort()


def children(process: GatewayProcess) -> set[int]:
    return {int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}


async def test_processes_share_a_port_and_a_dead_one_restarts(deployment: Deployment, conversation: str) -> None:
    async with AsyncExitStack() as stack:
        process = stack.enter_context(GatewayProcess(deployment.server.url, "--processes", "2"))
        clients = [await stack.enter_async_context(Client(conversation)) for _ in range(12)]
        for client in clients:
            await client.connect(process.socket_url)
        born = children(process)
        assert len(born) == 2
        first = await clients[0].ask("to all of you", model="fake")
        for client in clients:
            assert (await client.ended(first)).text == clients[0].answer(first).text
        victim = min(born)
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(SHUTDOWN_WITHIN_S):
            while len(children(process) - {victim}) < 2:
                await asyncio.sleep(0.05)
        for client in clients:
            await client.close()
            await client.connect(process.socket_url)
        second = await clients[0].ask("and once more", model="fake")
        for client in clients:
            await client.ended(second)
        process.terminate()
        assert await asyncio.to_thread(process.wait, SHUTDOWN_WITHIN_S) == 0
        assert "Traceback" not in process.text


def test_processes_that_cannot_start_print_the_reason() -> None:
    result = tokenwire("gateway", "--processes", "2", "--port", "0", "--store", "redis://127.0.0.1:1")
    assert result.returncode == 1
    assert "no store answers at redis://127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_worker_shuts_down_and_hands_over_on_a_signal(
    deployment_without_worker: Deployment, conversation: str, number: signal.Signals
) -> None:
    worker = deployment_without_worker.worker("--drain", "0.2")
    async with Client(conversation) as client:
        await client.connect(deployment_without_worker.urls()[0])
        response = await client.ask("/long 4000")
        await client.until(lambda: client.answer(response).text)
        os.kill(worker.pid, number)
        assert await asyncio.to_thread(worker.wait, SHUTDOWN_WITHIN_S) == 0
        assert "Traceback" not in worker.text
        # The job is handed over, and another worker continues it immediately.
        deployment_without_worker.worker()
        await client.until(lambda: client.answer(response).attempt == 2)
        await client.stop(response)
        await client.ended(response)


def test_a_worker_shuts_down_while_it_starts(deployment: Deployment) -> None:
    with WorkerProcess(deployment.server.url) as worker:
        worker.terminate()
        assert worker.wait(SHUTDOWN_WITHIN_S) == 0


# Settings


@pytest.mark.parametrize("command", ["gateway", "worker"])
def test_a_memory_store_is_refused_for_several_processes(command: str) -> None:
    error = refused(command, "--store", "memory://")
    assert "tokenwire run" in error
    assert "embedded://" in error
    assert "redis://" in error


def test_tail_refuses_a_memory_store() -> None:
    assert "tokenwire run" in refused("tail", "r00" + "0" * 16)


WRONG: Final[dict[str, tuple[dict[str, str], tuple[str, ...]]]] = {
    "port": ({"TOKENWIRE_PORT": "90000"}, ("TOKENWIRE_PORT", "'90000'", "65535")),
    "port-as-text": ({"TOKENWIRE_PORT": "http"}, ("TOKENWIRE_PORT", "'http'", "integer")),
    "auth": ({"TOKENWIRE_AUTH": "basic"}, ("TOKENWIRE_AUTH", "'basic'", "'none' or 'jwt'")),
    "lease": ({"TOKENWIRE_LEASE": "0"}, ("TOKENWIRE_LEASE", "'0'", "greater than 0.1")),
    "lease-that-is-no-number": ({"TOKENWIRE_LEASE": "nan"}, ("TOKENWIRE_LEASE", "'nan'", "finite")),
    "origin": ({"TOKENWIRE_ORIGINS": "https://a.example,b.example"}, ("TOKENWIRE_ORIGINS", "'b.example'", "https://")),
    "models": ({"TOKENWIRE_MODELS": "demo"}, ("TOKENWIRE_MODELS", "'demo'", "JSON")),
    "models-list": ({"TOKENWIRE_MODELS": "[]"}, ("TOKENWIRE_MODELS", "'[]'", '{"default": "demo"}')),
    "log-level": ({"TOKENWIRE_LOG_LEVEL": "loud"}, ("TOKENWIRE_LOG_LEVEL", "'loud'", "'debug', 'info', 'warning'")),
    "host-without-a-key": ({"TOKENWIRE_HOST": "0.0.0.0"}, ("TOKENWIRE_HOST='0.0.0.0'", "TOKENWIRE_JWT_KEY", "none")),
    "jwt-without-a-key": ({"TOKENWIRE_AUTH": "jwt"}, ("TOKENWIRE_AUTH=jwt", "TOKENWIRE_JWT_KEY")),
}


@pytest.mark.parametrize(("variables", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_is_named_with_value_and_limits(variables: dict[str, str], named: tuple[str, ...]) -> None:
    error = refused("run", **variables)
    for part in named:
        assert part in error


def test_an_option_overrides_a_variable_and_is_checked() -> None:
    assert "'90000'" in refused("run", "--port", "90000", TOKENWIRE_PORT="8000")
    assert "'70000'" in refused("run", TOKENWIRE_PORT="70000")


@pytest.mark.parametrize(
    ("command", "checked"),
    [("run", "PORT LEASE"), ("gateway", "PORT LEASE"), ("worker", "LEASE"), ("doctor", "PORT LEASE")],
)
def test_a_command_names_every_wrong_setting_that_it_has(command: str, checked: str) -> None:
    error = refused(command, TOKENWIRE_PORT="x", TOKENWIRE_LEASE="y")
    assert [name for name in ("PORT", "LEASE") if f"TOKENWIRE_{name}" in error] == checked.split()


def pem(key: Any) -> str:
    return str(
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


KEYS: Final = {
    "short": ("planted-secret", "fewer than 32 bytes"),
    "no-pem": ("-----BEGIN PUBLIC KEY-----\nplanted-secret\n-----END PUBLIC KEY-----", "not a public key"),
    "private": ("-----BEGIN PRIVATE KEY-----\nplanted-secret\n-----END PRIVATE KEY-----", "not a public key"),
    "ed25519": (pem(ed25519.Ed25519PrivateKey.generate()), "neither an RSA nor an elliptic-curve key"),
    "no-file": ("@/nowhere/planted-secret", "cannot be read"),
    "folder": ("@/", "cannot be read"),
}


@pytest.mark.parametrize(("key", "reason"), KEYS.values(), ids=KEYS)
def test_an_unusable_key_is_refused_and_not_shown(key: str, reason: str) -> None:
    error = refused("run", TOKENWIRE_JWT_KEY=key)
    assert "TOKENWIRE_JWT_KEY" in error
    assert reason in error
    assert "planted-secret" not in error.replace("/nowhere/planted-secret", "")


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(pem(rsa.generate_private_key(65537, 2048)))
    with GatewayProcess("memory://", command="run", TOKENWIRE_JWT_KEY=f"@{file}") as process:
        assert process.running


def test_a_secret_is_no_command_line_option() -> None:
    """Every user of a machine can read the command lines of its processes."""
    described = tokenwire("run", "--help").stdout
    assert "--jwt-audience" in described
    assert not {"--jwt-key", "--operator-token", "--token"} & set(described.replace("[", " ").split())
    error = refused("gateway", "--store", "redis://user:planted-secret@127.0.0.1:1/0")
    assert "a password does not belong on the command line" in error
    assert "planted-secret" not in error


def test_the_address_of_the_store_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text("redis://user:planted-secret@127.0.0.1:1/0\n")
    error = refused("gateway", TOKENWIRE_STORE=f"@{file}")
    assert "redis://127.0.0.1:1" in error
    assert "planted-secret" not in error


@pytest.mark.parametrize("command", ["worker", "run"])
def test_the_demo_does_not_answer_beside_a_shared_store_unless_it_is_chosen(command: str) -> None:
    with RealServer() as server:
        error = refused(command, TOKENWIRE_STORE=server.url)
    assert "OPENAI_API_KEY" in error
    assert "TOKENWIRE_MODELS" in error


@pytest.mark.parametrize("gateways", ["1", "2"])
def test_the_demo_does_not_answer_users_unless_it_is_chosen(gateways: str, tmp_path: Path) -> None:
    store = f"embedded://{tmp_path}" if gateways == "2" else "memory://"
    error = refused(
        "run", "--gateways", gateways, "--port", "0", TOKENWIRE_STORE=store, TOKENWIRE_JWT_KEY=secrets.token_hex(32)
    )
    assert "so the demo answers only with TOKENWIRE_MODELS" in error


def test_a_worker_names_its_models_with_their_servers() -> None:
    with RealServer() as server:
        models = (
            '{"default": ["openai/m", "demo"], "mine": {"target": "anthropic/n", "base_url": "http://127.0.0.1:9"}}'
        )
        keys = {"OPENAI_BASE_URL": "http://127.0.0.1:8/v1", "ANTHROPIC_API_KEY": "k"}
        with WorkerProcess(server.url, TOKENWIRE_MODELS=models, **keys) as worker:
            line = worker.announcement
    assert "default -> openai/m @ 127.0.0.1:8, demo/demo; mine -> anthropic/n @ 127.0.0.1:9" in line


def test_a_port_in_use_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = refused("run", "--port", str(port))
    assert f"127.0.0.1:{port}" in error
    assert "Address already in use" in error
    assert "TOKENWIRE_PORT (--port)" in error


def test_a_metrics_port_in_use_names_its_own_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        error = tokenwire("run", "--port", "0", "--metrics-port", str(taken.getsockname()[1])).stderr
    assert "TOKENWIRE_METRICS_PORT (--metrics-port)" in error


@pytest.mark.parametrize("command", [("gateway", "--processes", "2"), ("run", "--gateways", "2")], ids=" ".join)
def test_an_unknown_store_of_several_processes_is_refused(command: tuple[str, ...]) -> None:
    error = refused(*command, "--port", "0", TOKENWIRE_STORE="mongodb://planted-secret@localhost")
    assert "mongodb://" in error
    assert "planted-secret" not in error


def test_a_foreign_host_is_refused_with_the_reason() -> None:
    error = refused("run", "--host", "192.0.2.1", "--auth", "none")
    assert "192.0.2.1" in error
    assert "nowhere.invalid" in refused("run", "--host", "nowhere.invalid", "--auth", "none")


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        ("mongodb://planted-secret@localhost", "redis://"),
        ("localhost:6379", "unknown"),
        ("redis://:planted-secret@127.0.0.1:1/0", "redis://127.0.0.1:1"),
        ("redis://:planted/secret@127.0.0.1:1/0", "%XX"),
        ("unix:///nowhere/planted-secret.sock", "no store answers"),
        ("embedded:///proc/nowhere", "use another one"),
    ],
)
@pytest.mark.parametrize("command", ["gateway", "worker"])
def test_an_unreachable_store_is_refused_with_advice(command: str, store: str, reason: str) -> None:
    error = refused(command, TOKENWIRE_STORE=store)
    assert reason in error
    assert "planted-secret" not in error.replace("/nowhere/planted-secret.sock", "")
    assert "planted/secret" not in error


def test_help_lists_the_commands_and_version_prints() -> None:
    done = tokenwire("--help")
    assert done.returncode == 0
    for command in ("run", "gateway", "worker", "doctor", "tail"):
        assert f"  {command} " in done.stdout
        described = tokenwire(command, "--help")
        assert described.returncode == 0
        assert "--store" in described.stdout
    assert tokenwire("--version").stdout.strip()
    unknown = tokenwire("rnu")
    assert unknown.returncode == 2
    assert "No such command" in unknown.stderr


# tail


async def test_tail_prints_a_log(deployment: Deployment, conversation: str) -> None:
    async with Client(conversation) as client:
        await client.connect(deployment.urls()[0])
        response = await client.ask("/think")
        await client.settled(response)
    log = await entries(deployment.server.url, response)
    done = await asyncio.to_thread(tokenwire, "tail", response, "--store", deployment.server.url)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(entry) for entry, _ in log]
    kinds = [line.split()[1] for line in lines]
    assert kinds[:2] == ["queued", "start"]
    assert kinds[-1] == "end"
    assert {"text", "reasoning"} <= set(kinds)
    # 20 characters of id, 9 of kind, then the body as it is in the log.
    printed = b"".join(line[31:].encode() for line, kind in zip(lines, kinds, strict=True) if kind == "text")
    assert log_entries.unescape(printed) == text_of(log) == demo.answer("/think")


async def test_tail_follows_a_log_to_its_end(deployment: Deployment, conversation: str) -> None:
    async with Client(conversation) as client:
        await client.connect(deployment.urls()[0])
        response = await client.ask("/long 150")
        await client.until(lambda: client.answer(response).text)
        done = await asyncio.to_thread(tokenwire, "tail", "--follow", response, "--store", deployment.server.url)
        await client.ended(response)
    assert done.returncode == 0
    log = await entries(deployment.server.url, response)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [str(entry) for entry, _ in log]


def test_tail_of_an_unknown_response_fails(deployment: Deployment) -> None:
    assert "there is no log" in refused("tail", "r00" + "0" * 16, "--store", deployment.server.url)
    assert "not a response id" in refused("tail", "r0", "--store", deployment.server.url)


# embedded://


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[tuple[GatewayProcess, WorkerProcess]]:
    with ExitStack() as stack:
        url = f"embedded://{tmp_path}/store"
        gateway = stack.enter_context(GatewayProcess(url))
        yield gateway, stack.enter_context(WorkerProcess(url, "--demo-rate", "200", "--drain", "1"))


async def test_a_gateway_and_a_worker_share_an_embedded_store(
    embedded: tuple[GatewayProcess, WorkerProcess], tmp_path: Path, conversation: str
) -> None:
    """Two processes use one folder; the server stops with the last one, and its data is kept."""
    gateway, worker = embedded
    async with Client(conversation) as client:
        await client.connect(gateway.socket_url)
        response = await client.ask("Where is this kept?")
        text = await client.settled(response)
        assert text == demo.answer("Where is this kept?")
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, SHUTDOWN_WITHIN_S) == 0
    gateway.terminate()
    assert await asyncio.to_thread(gateway.wait, SHUTDOWN_WITHIN_S) == 0
    url = f"embedded://{tmp_path}/store"
    with GatewayProcess(url) as again:
        async with Client(conversation) as client:
            await client.connect(again.socket_url)
            await client.until(lambda: client.transcript.snapshots)
            assert text in [message["text"] for message in client.transcript.messages.values()]
        again.terminate()
        assert await asyncio.to_thread(again.wait, SHUTDOWN_WITHIN_S) == 0
    # The store opens again, also for a command that is not a server.
    store = await open_store(url)
    await store.close()
    done = await asyncio.to_thread(tokenwire, "tail", response, "--store", url)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].split()[1] == "end"


async def test_an_embedded_store_outlives_the_process_that_started_it(
    embedded: tuple[GatewayProcess, WorkerProcess], conversation: str, tmp_path: Path
) -> None:
    gateway, worker = embedded
    gateway.kill()
    with GatewayProcess(f"embedded://{tmp_path}/store") as another:
        async with Client(conversation) as client:
            await client.connect(another.socket_url)
            assert await client.settled(await client.ask("Still there?")) == demo.answer("Still there?")
        assert worker.running
