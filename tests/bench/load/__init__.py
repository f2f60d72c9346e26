"""The load generator: a C program, compiled on demand (`build`) and controlled line by line (`Load`).

It runs viewers and publisher in one thread with one clock. The first line of each C file describes its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..contender import Await, Send
from ..processes import pinned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..contender import Running, Steps

SOURCES: Final = Path(__file__).parent
TOKEN_BYTES: Final = 9
"""Size of a token: a space, the stream number in 3 hexadecimal digits, the token number in 5 decimal digits."""

MAX_TOKENS: Final = 100_000


class LoadError(Exception):
    """The load generator failed or returned invalid output."""


def compiler() -> str | None:
    """Return the path of the C compiler; None if there is none."""
    return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build() -> Path:
    """Return the program; compile it if its sources have changed. Raises LoadError with what to install."""
    sources = sorted(SOURCES.glob("*.c"))
    parts = [file.read_bytes() for file in (*sources, *sorted(SOURCES.glob("*.h")))]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenwire-bench"
    program = cache / f"load-{name}"
    if program.exists():
        return program
    command = compiler()
    if command is None:
        raise LoadError("no C compiler: install gcc or clang (apt-get install gcc libc6-dev), or set CC")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        built = Path(folder) / "load"
        options = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(built))
        done = subprocess.run([command, *options, *map(str, sources)], capture_output=True, text=True)
        if done.returncode:
            raise LoadError(f"cannot compile the load generator with {command}: {done.stderr[:2000]}")
        # Atomic, because another run may compile the same program.
        built.rename(program)
    return program


class Load:
    """The running program: it receives a plan, then one operation after another (see `main.c`)."""

    def __init__(self, running: Running, tokens: int, cpus: frozenset[int]) -> None:
        """`tokens`: maximum number of tokens per stream."""
        program = build()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        with pinned(cpus):
            self._process = subprocess.Popen(
                [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
            )
        assert self._process.stdout is not None
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        try:
            self._write("".join(f"{line}\n" for line in plan(running, tokens)))
            self._read(30.0)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Return the process id, for the CPU usage."""
        return self._process.pid

    def do(self, operation: str, within: float = 60.0) -> dict[str, Any]:
        """Run an operation and return its report; raise LoadError if it takes longer than `within` seconds."""
        self._write(operation + "\n")
        return self._read(within)

    def second_report(self, within: float = 60.0) -> dict[str, Any]:
        """Return the second report of an operation with two reports."""
        return self._read(within)

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        data = memoryview(text.encode())
        try:
            while data:
                data = data[self._process.stdin.write(data) or 0 :]
        except BrokenPipeError:
            raise LoadError(f"the load generator exited: {self._error_output()}") from None

    def _read(self, within: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + within
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise LoadError(f"the load generator did not reply within {within:g} s")
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise LoadError(f"the load generator exited: {self._error_output()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        report: dict[str, Any] = json.loads(line)
        return report

    def _error_output(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip() or f"status {self._process.returncode}"

    def close(self) -> None:
        """Kill the program, which closes all connections."""
        self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()


def plan(running: Running, tokens: int) -> Iterator[str]:
    """Yield the lines of the plan: what to watch and how to publish."""
    publisher = running.publisher
    yield f"tokens {min(tokens, MAX_TOKENS)}"
    yield f"streams {len(running.streams)}"
    yield f"viewers {running.viewers[0]} {running.viewers[1]}"
    yield f"kind {running.kind}"
    yield f"publisher {publisher.address[0]} {publisher.address[1]}"
    yield f"replies {publisher.replies}"
    yield f"connections {publisher.connections}"
    yield f"window {publisher.window}"
    if publisher.gather is not None:
        yield f"gather {publisher.gather}"
    for name in ("accept", "first", "begin", "finish"):
        if value := getattr(publisher, name):
            yield f"{name} {_escaped(value)}"
    for stream in running.streams:
        yield f"stream {stream.path}"
        yield f"number {stream.number}"
        if stream.response:
            yield f"response {stream.response}"
        for header in stream.headers:
            yield f"header {header}"
        for word in stream.publish:
            yield f"word {_escaped(word)}"
        yield from _steps("", stream.steps)
        yield from _steps("resume-", stream.resume or ())
    yield "go"


def _steps(prefix: str, steps: Steps) -> Iterator[str]:
    for step in steps:
        match step:
            case Send(data, binary):
                yield f"{prefix}send{'-binary' if binary else ''} {_escaped(data)}"
            case Await(prefix_of_frame):
                yield f"{prefix}await {_escaped(prefix_of_frame)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
