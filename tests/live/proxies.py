"""Real proxies in front of gateways, with the configurations of deploy/proxy/ and the addresses of a test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import pytest

from tests.core_coverage import ROOT
from tests.stores import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

SHIPPED: Final = ROOT / "deploy" / "proxy"
SHIPPED_IDLE: Final = 60.0
MAX_CLIENTS: Final = 2000
READY_WITHIN_S: Final = 15.0

# Debian installs them in a folder that only the path of root contains.
PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"


class Proxy:
    """One proxy on a free port; clients connect to `url`."""

    name: str
    """Name of the program."""
    file: str
    """Configuration in deploy/proxy/."""
    keeps_streams = True
    """Whether a reload keeps open connections."""

    def __init__(self, gateways: Sequence[str], idle: float = SHIPPED_IDLE, most: int = MAX_CLIENTS) -> None:
        """`gateways` are three addresses, host:port; `idle` seconds of silence, in place of the sixty that are shipped;
        `most` clients, where that is configured, because a machine's limit of open files may not allow more.

        Skips the test where the machine has no such proxy.
        """
        if not self.present():
            pytest.skip(f"there is no {self.name} on this machine")
        self.program = str(shutil.which(self.name, path=PATH))
        self.most = most
        self.folder = Path(tempfile.mkdtemp(prefix="tw-"))
        # The workers of the proxy may run as another user.
        self.folder.chmod(0o755)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.socket_url = f"ws://127.0.0.1:{self.port}/v1/ws"
        text = (SHIPPED / self.file).read_text()
        for number, address in enumerate(gateways, 1):
            text = replaced(text, f"gateway-{number}:8000", address)
        self.configuration = self.folder / self.file
        if idle != SHIPPED_IDLE:
            text = replaced(text, f"{SHIPPED_IDLE:g}s", f"{idle:g}s")
        self.configuration.write_text(self.adapted(text))
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def present(cls) -> bool:
        """Whether the program is installed."""
        return shutil.which(cls.name, path=PATH) is not None

    def adapted(self, text: str) -> str:
        """Return the shipped configuration with a free port and temporary files."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command that starts it in the foreground."""
        raise NotImplementedError

    def reload(self) -> None:
        """Reload the configuration, and return when that is done."""
        raise NotImplementedError

    def children(self) -> set[int]:
        """Return the child processes."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return {int(child) for child in path.read_text().split()}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Return its log."""
        return (self.folder / "log").read_text()

    def start(self) -> Self:
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PATH": PATH, "HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)},
            )
        until(self.serves, lambda: self.log)
        return self

    def serves(self) -> bool:
        """Tell whether requests get through."""
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
                probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return b" 200 " in probe.recv(100)
        except OSError:
            return False

    def close(self) -> None:
        if self._process is not None:
            # The first process first, because it would restart the others.
            children = self.children() if self._process.poll() is None else set()
            self._process.kill()
            self._process.wait()
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class Nginx(Proxy):
    """nginx: after a reload, the old workers keep their connections."""

    name, file = "nginx", "nginx.conf"

    def adapted(self, text: str) -> str:
        text = replaced(text, "listen 80 ", f"listen 127.0.0.1:{self.port} ")
        text = replaced(text, "/run/nginx.pid", f"{self.folder}/nginx.pid")
        paths = "".join(
            f"    {kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return replaced(text, "http {", f"http {{\n{paths}")

    def command(self) -> list[str]:
        return [self.program, "-p", str(self.folder), "-c", str(self.configuration), "-g", "daemon off;"]

    def reload(self) -> None:
        before = self.children()
        subprocess.run([*self.command()[:5], "-s", "reload"], check=True, capture_output=True)
        until(lambda: bool(self.children() - before), lambda: self.log)
        until(self.serves, lambda: self.log)


class HAProxy(Proxy):
    """HAProxy as master and worker: the old worker keeps its connections."""

    name, file = "haproxy", "haproxy.cfg"

    def adapted(self, text: str) -> str:
        text = replaced(text, "maxconn 30000", f"maxconn {self.most}")
        return replaced(text, "bind :80 ", f"bind 127.0.0.1:{self.port} ")

    def command(self) -> list[str]:
        return [self.program, "-W", "-f", str(self.configuration)]

    def reload(self) -> None:
        before = self.children()
        os.kill(self.pid, signal.SIGUSR2)
        until(lambda: bool(self.children() - before), lambda: self.log)
        until(self.serves, lambda: self.log)


class Caddy(Proxy):
    """Caddy: one process, which before version 2.7 closes sockets on a reload."""

    name, file = "caddy", "Caddyfile"
    keeps_streams = False

    def adapted(self, text: str) -> str:
        text = replaced(text, "{$SITE::80} {", f"http://127.0.0.1:{self.port} {{")
        return replaced(text, "admin {$ADMIN:localhost:2019}", f"admin 127.0.0.1:{free_port()}")

    def command(self) -> list[str]:
        return [self.program, "run", "--config", str(self.configuration), "--adapter", "caddyfile"]

    def reload(self) -> None:
        subprocess.run(
            [self.program, "reload", "--force", *self.command()[2:]],
            check=True,
            capture_output=True,
            env={**os.environ, "HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)},
        )
        until(self.serves, lambda: self.log)


PROXIES: Final[dict[str, type[Proxy]]] = {"nginx": Nginx, "haproxy": HAProxy, "caddy": Caddy}


def replaced(text: str, old: str, new: str) -> str:
    """Return the text with one word replaced; the word must occur outside comments."""
    lines = [line if line.lstrip().startswith("#") else line.replace(old, new) for line in text.splitlines()]
    assert lines != text.splitlines(), f"the shipped configuration has no {old!r} any more"
    return "\n".join([*lines, ""])


def until(condition: object, explain: object) -> None:
    """Wait for a condition, or fail with the result of `explain`."""
    assert callable(condition)
    assert callable(explain)
    deadline = time.monotonic() + READY_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
