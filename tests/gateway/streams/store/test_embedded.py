"""`embedded://`: one server for all processes of a machine that name its folder, for as long as one of them uses it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.streams.store import embedded
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import open_store
from tests.gateway.streams.steps import Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEIGHBOUR = """
import asyncio, sys
from gateway.streams.store import embedded
server = embedded.attach(sys.argv[1])
print("attached", flush=True)
sys.stdin.readline()
asyncio.run(server.detach())
"""


class Neighbour:
    """Another process that uses the server of a folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NEIGHBOUR, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[4],
        )

    def attached(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"attached\n"
        return self

    def detach(self) -> None:
        self._process.communicate(b"\n", timeout=20)
        assert self._process.returncode == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()


def ask(folder: Path, *words: str) -> Any:
    """One command to the server of a folder; None where none answers."""
    path = str(folder / "valkey.sock")
    try:
        with redis.Redis(unix_socket_path=path, socket_timeout=5.0, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*words)
    except (redis.ConnectionError, OSError):
        return None


def server_of(folder: Path) -> int | None:
    """The process of the server that answers for a folder."""
    info = ask(folder, "INFO", "server")
    return None if info is None else int(info["process_id"])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def locked(file: Path) -> bool:
    with file.open("a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, without a server when the test is over."""
    yield tmp_path
    pid = server_of(tmp_path)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


async def test_two_processes_share_a_server_and_the_last_to_leave_stops_it(folder: Path) -> None:
    with Neighbour(folder) as first, Neighbour(folder) as second:
        first.attached()
        second.attached()
        pid = server_of(folder)
        assert pid is not None
        ask(folder, "SET", "a", "1")
        first.detach()
        assert server_of(folder) == pid
        second.detach()
        # The process is gone, and not only its socket: it held the lock until it ended.
        assert not locked(folder / "server.lock")
        assert server_of(folder) is None
    with Neighbour(folder) as third:
        third.attached()
        assert server_of(folder) != pid
        assert ask(folder, "GET", "a") == b"1"
        third.detach()


async def test_a_process_that_is_killed_leaves_the_server_to_the_next_one(folder: Path) -> None:
    with Neighbour(folder) as first:
        first.attached()
        pid = server_of(folder)
        ask(folder, "SET", "a", "1")
        first.kill()
    assert pid is not None
    assert server_of(folder) == pid
    server = embedded.attach(str(folder))
    assert server_of(folder) == pid
    assert ask(folder, "GET", "a") == b"1"
    await server.detach()
    assert server_of(folder) is None


async def test_a_server_that_was_killed_is_started_again_with_its_data(folder: Path) -> None:
    with Neighbour(folder) as first:
        first.attached()
        pid = server_of(folder)
        assert pid is not None
        ask(folder, "SET", "a", "1")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not locked(folder / "server.lock"))
        server = embedded.attach(str(folder))
        assert server_of(folder) not in (None, pid)
        assert ask(folder, "GET", "a") == b"1"
        # Both use the new one.
        first.detach()
        assert ask(folder, "GET", "a") == b"1"
        await server.detach()


async def test_five_processes_that_come_at_once_start_one_server(folder: Path) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(Neighbour(folder)) for _ in range(5)]
        for each in crowd:
            each.attached()
        assert (folder / "valkey.log").read_text().count("Valkey is starting") == 1
        for each in crowd:
            assert server_of(folder) is not None
            each.detach()
        assert server_of(folder) is None


async def test_a_store_survives_its_process(folder: Path) -> None:
    store = await open_store(f"embedded://{folder}")
    accepted = await Talk(store, "c1").ask(key="k1")
    await store.close()
    assert server_of(folder) is None
    store = await open_store(f"embedded://{folder}")
    again = await Talk(store, "c1").ask(key="k1")
    await store.close()
    assert (again.response, again.duplicate) == (accepted.response, True)


@pytest.mark.parametrize("name", ["deep" * 60, "with space", "50%20", "what?", "a#b", "größe"])
async def test_a_folder_may_have_any_name_and_any_length(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    store = await open_store(f"embedded://{folder}")
    await store.client.set("a", "1")
    await store.close()
    assert (folder / "appendonlydir").is_dir()
    store = await open_store(f"embedded://{folder}")
    assert await store.client.get("a") == b"1"
    await store.close()


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("embedded://", "state/tokenwire"),
        ("embedded://data", "data"),
        ("embedded://./my/data", "my/data"),
        ("embedded://~/data", "home/data"),
    ],
)
async def test_a_folder_is_where_one_would_look_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    await (await open_store(url)).close()
    assert (tmp_path / where / "appendonlydir").is_dir()
    assert (tmp_path / where).stat().st_mode & 0o777 == 0o700


async def test_a_frozen_server_is_never_doubled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers that append to one file would destroy it."""
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0.3)
    monkeypatch.setattr(embedded, "_PING_TIMEOUT", 0.1)
    with Neighbour(folder) as first:
        first.attached()
        pid = server_of(folder)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match=r"valkey\.log"):
                await open_store(f"embedded://{folder}")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert server_of(folder) == pid
        assert (folder / "valkey.log").read_text().count("Valkey is starting") == 1
        first.detach()


async def test_a_server_that_still_reads_its_data_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0.2)
    replies = [b"-LOADING Valkey is loading the dataset in memory\r\n"] * 40 + [b"+PONG\r\n"]
    with (
        socket.socket(socket.AF_UNIX) as listener,
        (folder / "server.lock").open("w") as alive,
    ):
        fcntl.flock(alive, fcntl.LOCK_EX)
        listener.bind(str(folder / "valkey.sock"))
        listener.listen()

        def load() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(64)
                    connection.sendall(reply)

        thread = threading.Thread(target=load)
        thread.start()
        server = await asyncio.to_thread(embedded.attach, str(folder))
        thread.join(10)
        assert not (folder / "valkey.log").exists(), "no other one was started"
        os.close(server.lock)


@pytest.mark.parametrize("url", ["embedded:///dev/null/data", "embedded:///proc/data"])
async def test_a_folder_that_can_not_be_used_is_told_with_what_to_do(url: str) -> None:
    with pytest.raises(StoreError, match="name another folder"):
        await open_store(url)


async def test_a_server_that_does_not_start_is_told_with_where_to_look(folder: Path) -> None:
    (folder / "appendonlydir").write_text("in the way")
    with pytest.raises(StoreError, match=r"valkey\.log"):
        await open_store(f"embedded://{folder}")
    assert not locked(folder / "server.lock")
    assert not locked(folder / "users.lock")
