"""Gateways and workers as separate processes, which a test starts, stops, kills and inspects."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_WITHIN_S = 30.0
EXIT_WITHIN_S = 20.0


class Process:
    """One `tokenwire` process; `output` holds everything that it prints."""

    module = "gateway"
    prefix: tuple[str, ...] = ()
    """Command in front of it, such as `ip netns exec`."""

    def __init__(self, command: str, store: str, *options: str, **environment: str) -> None:
        """`options` are those of the command line; `environment` is added to a clean one."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TOKENWIRE_", "OPENAI_", "ANTHROPIC_"))
        }
        self.output: list[str] = []
        self._announced: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", self.module, command, *options],
            # Beside a shared store the demo answers only where the operator chose it.
            env={
                **clean,
                "TOKENWIRE_STORE": store,
                "TOKENWIRE_DEMO_RATE": "40",
                **environment,
                "PYTHONUNBUFFERED": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.announcement = self._announced.get(timeout=READY_WITHIN_S)
        except queue.Empty:
            self.close()
            raise AssertionError("the process announced nothing:\n" + "".join(self.output)) from None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output.append(line)
            if line.startswith("Tokenwire"):
                self._announced.put(line.strip())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Send SIGSTOP: the process is frozen until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM, which starts the graceful shutdown."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = EXIT_WITHIN_S) -> int:
        """Wait for the exit; return the exit status."""
        return self._process.wait(seconds)

    def close(self) -> None:
        """End the process in any state."""
        if self.running:
            self.resume()
            self.terminate()
            try:
                self.wait(5.0)
            except subprocess.TimeoutExpired:
                self.kill()
        if hasattr(self, "_reader"):
            self._reader.join(5.0)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def text(self) -> str:
        return "".join(self.output)

    @property
    def metrics_url(self) -> str:
        """URL of the metrics, on the announced port."""
        return next(line.split()[-1] for line in self.output if line.startswith("Metrics are at"))

    def counted(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        return sum(value for line, value in self._metrics() if line.partition("{")[0] == name)

    def counts(self, name: str) -> dict[str, float]:
        """Return the values of a metric by its labels in the Prometheus format."""
        return {line.partition("{")[2].rstrip("}"): value for line, value in self._metrics() if line.startswith(name)}

    def _metrics(self) -> Iterator[tuple[str, float]]:
        with urllib.request.urlopen(self.metrics_url, timeout=5.0) as reply:
            for line in reply.read().decode().splitlines():
                if not line.startswith("#"):
                    name, _, value = line.rpartition(" ")
                    yield name, float(value)


class GatewayProcess(Process):
    """A gateway on a free port."""

    def __init__(self, store: str, *options: str, command: str = "gateway", **environment: str) -> None:
        super().__init__(
            command, store, "--port", "0", *options, **{"TOKENWIRE_NOTICE": "0", "TOKENWIRE_DRAIN": "1", **environment}
        )
        self.url = self.announcement.rsplit(" ", 1)[1]
        self.socket_url = f"{self.url.replace('http', 'ws', 1)}/v1/ws"
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._ready():
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)

    @property
    def metrics_url(self) -> str:
        """URL of the metrics, on the announced port or on that of the gateway."""
        announced = any(line.startswith("Metrics are at") for line in self.output)
        return super().metrics_url if announced else f"{self.url}/metrics"

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=1.0) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


class WorkerProcess(Process):
    """A worker."""

    def __init__(self, store: str, *options: str, **environment: str) -> None:
        super().__init__("worker", store, *options, **environment)
        self.name = self.announcement.split()[2]
