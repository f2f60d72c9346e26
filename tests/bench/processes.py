"""Processes that a run starts: on the CPUs they are meant for, with their output in a file, and surely ended."""

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

READY_WITHIN = 30.0
GONE_WITHIN = 5.0


@contextmanager
def pinned(cpus: frozenset[int]) -> Iterator[None]:
    """A block in which this process, and what it starts, runs on `cpus`."""
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
        """Its id, until it is closed."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def said(self) -> str:
        """The end of what it wrote."""
        return self.output.read_text(errors="replace")[-2000:]

    def until(self, condition: Callable[[], object], within: float = READY_WITHIN) -> None:
        """Wait until `condition()` is true; raises RuntimeError, with what the process said, if it never is."""
        deadline = time.monotonic() + within
        while not condition():
            if not self.running or time.monotonic() > deadline:
                what = "ended" if not self.running else f"was not ready within {within:g} s"
                self.close()
                raise RuntimeError(f"{self.output.stem} {what}: {self.said()}")
            time.sleep(0.01)

    def close(self) -> None:
        """End it: asked at first, then told."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(GONE_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def start(
    command: Sequence[str], cpus: frozenset[int], output: Path, environment: Mapping[str, str] | None = None
) -> Process:
    """Start `command` on `cpus`; what it writes goes to the file `output`, after whose name errors call it.

    `environment` is added to this process's, of which everything named for the product or a provider is left out.
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
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a port of the loopback interface."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0):
            return True
    except OSError:
        return False


def tree(pid: int) -> tuple[int, ...]:
    """A process and its children, and theirs."""
    found = [pid]
    for parent in found:
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as children:  # noqa: PTH123 - not a file to keep
                found += map(int, children.read().split())
        except FileNotFoundError:
            continue
    return tuple(found)
