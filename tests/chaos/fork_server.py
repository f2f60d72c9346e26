"""Fork server: a process that has imported all modules and forks a gateway or worker in about 20 ms.

A child is a normal `tokenwire` process with its own memory and sockets; only the second of imports is saved. A
child can get a wrong clock and can run without a protection (`sabotage`).
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

if TYPE_CHECKING:
    from pathlib import Path

READY_TIMEOUT_S: Final = 30.0


class ChildProcess:
    """A forked process. `output` is the file with its stdout and stderr."""

    def __init__(self, pid: int, output: Path) -> None:
        self.pid = pid
        self.output = output
        self._handle = os.pidfd_open(pid)
        self._closed = False

    @property
    def running(self) -> bool:
        return not self._closed and not select.select([self._handle], [], [], 0)[0]

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; ignored if the process has exited."""
        if self._closed:
            return
        try:
            signal.pidfd_send_signal(self._handle, number)
        except ProcessLookupError:
            pass

    def announced(self) -> str | None:
        """Return the line that the process prints when it is ready; None before."""
        return next((line for line in self.text.splitlines() if line.startswith("Tokenwire")), None)

    def close(self) -> None:
        """Kill the process and wait for its exit."""
        if not self._closed:
            self.signal(signal.SIGKILL)
            select.select([self._handle], [], [], 10.0)
            self._closed = True
            os.close(self._handle)


class ForkServer:
    """Client of the fork server process."""

    def __init__(self) -> None:
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("TOKENWIRE_", "OPENAI_", "ANTHROPIC_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.fork_server"],
            env={**clean, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(
        self, arguments: list[str], environment: dict[str, str], output: Path, sabotage: tuple[str, ...], skew: float
    ) -> ChildProcess:
        """Start `tokenwire` with these arguments. `skew`: error of its clock in seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = [arguments, environment, str(output), list(sabotage), skew]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return ChildProcess(int(self._process.stdout.readline()), output)

    def close(self) -> None:
        """Stop the fork server, which kills its remaining children."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20.0)
        assert self._process.stdout is not None
        self._process.stdout.close()


def main() -> None:
    """Fork a child for each line of stdin; kill all children at its end."""
    import aiohttp  # noqa: F401 - preloads the imports of a child
    import openai.resources.chat  # noqa: F401
    import uvloop  # noqa: F401

    import gateway.app
    import gateway.cli.main
    import gateway.process.server  # noqa: F401
    import workers.pool
    import workers.providers.openai  # noqa: F401

    gc.collect()
    gc.freeze()
    children: set[int] = set()

    def reap(*_: Any) -> None:
        for pid in list(children):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    children.discard(pid)
            except ChildProcessError:
                children.discard(pid)

    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        arguments, environment, output, sabotage, skew = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            _run_child(arguments, environment, output, sabotage, skew)
        children.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        print(pid, flush=True)
    for pid in list(children):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _run_child(
    arguments: list[str], environment: dict[str, str], output: str, names: list[str], skew: float
) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
            opened = os.open("/dev/null" if descriptor == 0 else output, flags, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        os.dup2(1, 2)
        os.environ.update(environment)
        random.seed()
        if skew:
            _skew_clock(skew)
        if names:
            from tests.chaos import sabotage

            for name in names:
                sabotage.ALL[name]()
        import gateway.cli.main

        gateway.cli.main.main(arguments, standalone_mode=False)
        status = 0
    except (click.ClickException, click.exceptions.Exit, SystemExit) as error:
        # The command prints these errors without a traceback too.
        print(f"Error: {error}")
    except BaseException:
        # A forked child must never return into the loop of its parent.
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _skew_clock(seconds: float) -> None:
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)


if __name__ == "__main__":
    main()
