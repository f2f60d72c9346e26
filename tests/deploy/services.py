"""Processes started from what a file of deploy/ says, which a test waits for, kills and looks into."""

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

PATIENCE = 30.0


class Service:
    """One running process. What it prints is kept in `output`, for a test that fails."""

    def __init__(self, argv: list[str], environment: Mapping[str, str], folder: str | None = None) -> None:
        """`environment` is the whole of it; `folder` where it runs."""
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

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Wait until the condition holds, as long as the process lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.running, f"the process ended with {self._process.returncode}:\n{self.text}"
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.text}"
            time.sleep(0.05)

    def terminate(self, seconds: float) -> int:
        """Ask the process to leave, as an engine does; return its exit status, or fail when the time is over."""
        self._process.terminate()
        return self._process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL: the process does nothing any more."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process, however it stands."""
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


def fetched(url: str, token: str | None = None, seconds: float = 2.0) -> str | None:
    """What a page says to whoever bears a token; None when it does not answer with 200."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=seconds) as reply:
            text: str = reply.read().decode()
            return text if reply.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
