"""`embedded://`: one server per folder for all processes of a machine, while at least one of them uses it."""

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
from tests.gateway.streams.steps import Conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ATTACH_SCRIPT = """
import asyncio, sys
from gateway.streams.store import embedded
server = embedded.attach(sys.argv[1])
print("attached", flush=True)
sys.stdin.readline()
asyncio.run(server.detach())
"""


class OtherProcess:
    """Another process that attaches to the server of a folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", ATTACH_SCRIPT, str(folder)],
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


def send(folder: Path, *words: str) -> Any:
    """Send one command to the server of a folder; return None if none answers."""
    path = str(folder / "valkey.sock")
    try:
        with redis.Redis(unix_socket_path=path, socket_timeout=5.0, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*words)
    except (redis.ConnectionError, OSError):
        return None


def server_of(folder: Path) -> int | None:
    """Return the process id of the server of a folder."""
    info = send(folder, "INFO", "server")
    return None if info is None else int(info["process_id"])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.01)


def is_locked(file: Path) -> bool:
    with file.open("a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; its server is killed after the test."""
    yield tmp_path
    pid = server_of(tmp_path)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.live
async def test_last_process_to_detach_stops_the_shared_server(folder: Path) -> None:
    with OtherProcess(folder) as first, OtherProcess(folder) as second:
        first.attached()
        second.attached()
        pid = server_of(folder)
        assert pid is not None
        send(folder, "SET", "a", "1")
        first.detach()
        assert server_of(folder) == pid
        second.detach()
        # The process has ended, not just its socket: it holds the lock until it ends.
        assert not is_locked(folder / "server.lock")
        assert server_of(folder) is None
    with OtherProcess(folder) as third:
        third.attached()
        assert server_of(folder) != pid
        assert send(folder, "GET", "a") == b"1"
        third.detach()


async def test_server_survives_a_killed_process(folder: Path) -> None:
    with OtherProcess(folder) as first:
        first.attached()
        pid = server_of(folder)
        send(folder, "SET", "a", "1")
        first.kill()
    assert pid is not None
    assert server_of(folder) == pid
    server = embedded.attach(str(folder))
    assert server_of(folder) == pid
    assert send(folder, "GET", "a") == b"1"
    await server.detach()
    assert server_of(folder) is None


async def test_killed_server_is_restarted_with_its_data(folder: Path) -> None:
    with OtherProcess(folder) as first:
        first.attached()
        pid = server_of(folder)
        assert pid is not None
        send(folder, "SET", "a", "1")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_locked(folder / "server.lock"))
        server = embedded.attach(str(folder))
        assert server_of(folder) not in (None, pid)
        assert send(folder, "GET", "a") == b"1"
        # Both processes use the new server.
        first.detach()
        assert send(folder, "GET", "a") == b"1"
        await server.detach()


@pytest.mark.live
async def test_concurrent_processes_start_one_server(folder: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(OtherProcess(folder)) for _ in range(5)]
        for each in processes:
            each.attached()
        assert (folder / "valkey.log").read_text().count("Valkey is starting") == 1
        for each in processes:
            assert server_of(folder) is not None
            each.detach()
        assert server_of(folder) is None


async def test_data_survive_the_last_process(folder: Path) -> None:
    store = await open_store(f"embedded://{folder}")
    accepted = await Conversation(store, "c1").ask(key="k1")
    await store.close()
    assert server_of(folder) is None
    store = await open_store(f"embedded://{folder}")
    again = await Conversation(store, "c1").ask(key="k1")
    await store.close()
    assert (again.response, again.duplicate) == (accepted.response, True)


@pytest.mark.parametrize("name", ["deep" * 60, "with space", "50%20", "what?", "a#b", "größe"])
async def test_folder_name_may_have_any_length_and_characters(tmp_path: Path, name: str) -> None:
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
async def test_folder_paths_are_resolved_as_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    await (await open_store(url)).close()
    assert (tmp_path / where / "appendonlydir").is_dir()
    assert (tmp_path / where).stat().st_mode & 0o777 == 0o700


@pytest.mark.live
async def test_frozen_server_is_not_started_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers that append to one file would corrupt it."""
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.3)
    monkeypatch.setattr(embedded, "_PING_TIMEOUT_S", 0.1)
    with OtherProcess(folder) as first:
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


async def test_server_that_loads_its_data_is_awaited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.2)
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
        assert not (folder / "valkey.log").exists(), "a second server was started"
        os.close(server.lock)


@pytest.mark.parametrize("url", ["embedded:///dev/null/data", "embedded:///proc/data"])
async def test_unusable_folder_is_reported_with_a_remedy(url: str) -> None:
    with pytest.raises(StoreError, match="use another one"):
        await open_store(url)


async def test_server_that_does_not_start_names_its_log(folder: Path) -> None:
    (folder / "appendonlydir").write_text("not a folder")
    with pytest.raises(StoreError, match=r"valkey\.log"):
        await open_store(f"embedded://{folder}")
    assert not is_locked(folder / "server.lock")
    assert not is_locked(folder / "users.lock")
