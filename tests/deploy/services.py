"""Processes that a test starts from a file of deploy/, waits for and kills."""

from __future__ import annotations

import http.client
import subprocess
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TIMEOUT_S = 30.0


class Service:
    """A running process. `output` keeps its stdout and stderr for failure messages."""

    def __init__(self, argv: list[str], environment: Mapping[str, str], folder: str | None = None) -> None:
        """Start `argv` in `folder` with exactly `environment`; nothing is inherited."""
        self.output: list[str] = []
        self._process = subprocess.Popen(
            argv,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.output.extend(self._process.stdout)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def text(self) -> str:
        return "".join(self.output)

    def until(self, condition: Callable[[], object], seconds: float = TIMEOUT_S) -> None:
        """Wait until the condition holds; fail if the process exits or the time is over."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.running, f"process exited with {self._process.returncode}:\n{self.text}"
            assert time.monotonic() < deadline, f"condition not met within {seconds} s:\n{self.text}"
            time.sleep(0.05)

    def terminate(self, seconds: float) -> int:
        """Send SIGTERM and return the exit status; fail if the process does not exit within `seconds`."""
        self._process.terminate()
        return self._process.wait(seconds)

    def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Stop the process: SIGTERM, then SIGKILL after 5 s."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(5.0)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fetch(url: str, token: str | None = None, seconds: float = 2.0) -> str | None:
    """Return the body of a page, requested with a bearer token if given; None unless the status is 200."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=seconds) as reply:
            text: str = reply.read().decode()
            return text if reply.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
