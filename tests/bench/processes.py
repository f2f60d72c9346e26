"""Processes of a run: pinned to CPUs, with their output in a file, and always stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0


@contextmanager
def pinned(cpus: frozenset[int]) -> Iterator[None]:
    """Run the block, and processes started in it, on `cpus`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """One process of a run."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self.output = output

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Return whether the process has not exited."""
        return self._process.poll() is None

    def output_tail(self) -> str:
        """Return the last 2,000 characters of its output."""
        return self.output.read_text(errors="replace")[-2000:]

    def until(self, condition: Callable[[], object], within: float = READY_TIMEOUT_S) -> None:
        """Wait until `condition()` is true; raise RuntimeError with the process output on exit or timeout."""
        deadline = time.monotonic() + within
        while not condition():
            if not self.running or time.monotonic() > deadline:
                reason = "exited" if not self.running else f"was not ready within {within:g} s"
                self.close()
                raise RuntimeError(f"{self.output.stem} {reason}: {self.output_tail()}")
            time.sleep(0.01)

    def close(self) -> None:
        """Stop the process: SIGTERM, then SIGKILL."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def start(
    command: Sequence[str], cpus: frozenset[int], output: Path, environment: Mapping[str, str] | None = None
) -> Process:
    """Start `command` on `cpus` with its output in the file `output`. Errors name the process by this file.

    `environment` is added to the environment of this process, without variables of the product and the providers.
    """
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TOKENWIRE_", "OPENAI_", "ANTHROPIC_", "PYTHONDEVMODE"))
    }
    with output.open("wb") as written, pinned(cpus):
        process = subprocess.Popen(
            list(command),
            env={**clean, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    return Process(process, output)


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Return whether a loopback port accepts connections."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0):
            return True
    except OSError:
        return False


def tree(pid: int) -> tuple[int, ...]:
    """Return a process and all its descendants."""
    found = [pid]
    for parent in found:
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as children:  # noqa: PTH123 - a file of /proc
                found += map(int, children.read().split())
        except FileNotFoundError:
            continue
    return tuple(found)
