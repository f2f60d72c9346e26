"""A deployment under test: two gateways, two workers, a store with a replica, and a fault-injecting link to each."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.chaos.link import Link
from tests.stores import RealServer

if TYPE_CHECKING:
    from tests.chaos.fork_server import ChildProcess, ForkServer

LEASE_S: Final = 1.5
"""Lease of the workers in seconds; short, so that take-overs are fast."""

READY_TIMEOUT_S: Final = 30.0
PROBLEMS: Final = ("Traceback", " ERROR ", " CRITICAL ", "never awaited", "never retrieved")
# Acknowledged writes must survive a crash: with everysec a busy disk loses up to 2 s, and checks would fail.
SERVER_OPTIONS: Final = (
    "--appendfsync",
    "always",
    "--enable-debug-command",
    "yes",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-timeout",
    "60",
)
MODELS: Final = {"default": "openai/fake", "fake": "openai/fake"}
WORKER_OPTIONS: Final = (
    "--models", json.dumps(MODELS), "--lease", str(LEASE_S), "--attempts", "3", "--drain", "1",
    "--first-timeout", "8", "--idle-timeout", "4.5", "--patience", "25", "--store-patience", "25",
)  # fmt: skip


class Instance:
    """A gateway or worker: a child process, which may be replaced, and its link to the store."""

    def __init__(self, kind: str, number: int, deployment: Deployment) -> None:
        self.kind = kind
        self.number = number
        self.deployment = deployment
        self.store = Link(deployment.address)
        self.clients = Link(("127.0.0.1", 9))
        """Link from the clients; unused for workers."""
        self.child: ChildProcess | None = None
        self.skew = 0.0
        self.outputs: list[Path] = []
        self._starts = 0
        self._starting = asyncio.Lock()

    @property
    def name(self) -> str:
        return f"{self.kind} {self.number}"

    async def open(self) -> None:
        await self.store.open()
        if self.kind == "gateway":
            await self.clients.open()
        await self.start()

    async def start(self, skew: float = 0.0) -> None:
        """Start a child unless one runs; return when it is ready."""
        async with self._starting:
            if self.child is None or not self.child.running:
                await self._start(skew)

    async def _start(self, skew: float) -> None:
        deployment = self.deployment
        options = WORKER_OPTIONS if self.kind == "worker" else ("--port", "0")
        environment = {
            "OPENAI_BASE_URL": f"{deployment.provider}/v1",
            "OPENAI_API_KEY": "sk-planted-secret",
            # Identifies the worker in the provider's requests.
            "TOKENWIRE_LEASE": str(LEASE_S),
            "OPENAI_ORG_ID": f"{deployment.name}-{self.number}",
        }
        self.skew = skew
        output = deployment.folder / f"{self.kind}-{self.number}-{self._starts}.log"
        self._starts += 1
        self.outputs.append(output)
        output.touch()
        url = f"redis://127.0.0.1:{self.store.port}/0"
        arguments = [self.kind, "--store", url, *options]
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            child = self.child = deployment.fork_server.fork(arguments, environment, output, deployment.sabotage, skew)
            while child.running and child.announced() is None:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.name} is not ready: {child.text[-3000:]}")
                await asyncio.sleep(0.02)
            announced = child.announced()
            if announced is not None:
                break
            # The process exits if the store is unavailable. Restart it, as a supervisor does.
            child.close()
            assert time.monotonic() < deadline, f"{self.name} does not start: {child.text[-3000:]}"
            await asyncio.sleep(0.1)
        if self.kind == "gateway":
            self.clients.target = ("127.0.0.1", int(announced.rsplit(":", 1)[1]))

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.child is not None:
            self.child.close()
            self.child = None

    def signal(self, number: signal.Signals) -> None:
        if self.child is not None:
            self.child.signal(number)

    async def terminate(self, within: float) -> bool:
        """Send SIGTERM; return whether the process exited within `within` seconds. Otherwise kill it."""
        child = self.child
        if child is None:
            return True
        child.signal(signal.SIGTERM)
        deadline = time.monotonic() + within
        while child.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        exited = not child.running
        if self.child is child:
            self.kill()
        return exited

    async def restore(self) -> None:
        """Restore the links, start the process if needed, and wait until it is ready."""
        self.store.restore()
        self.clients.restore()
        self.signal(signal.SIGCONT)
        if self.child is None or not self.child.running:
            await self.start()
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self.kind == "gateway" and not await asyncio.to_thread(self._ready):
            output = self.child.text[-3000:] if self.child is not None else "killed"
            assert time.monotonic() < deadline, f"{self.name} is not ready: {output}"
            await asyncio.sleep(0.05)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.clients.target[1]}/readyz", timeout=2.0) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    async def close(self) -> None:
        self.kill()
        await self.store.close()
        if self.kind == "gateway":
            await self.clients.close()


class Deployment:
    """The whole deployment. A schedule may damage any part; `restore` repairs all of it."""

    model = "fake"
    expects_marked_text = True
    """Whether the answers are marked texts, so that the expected text is known."""

    def __init__(
        self, fork_server: ForkServer, provider: str, server: Any = "valkey", sabotage: tuple[str, ...] = ()
    ) -> None:
        """`provider`: base URL of the fake provider. `sabotage`: names of protections to disable."""
        self.name = secrets.token_hex(3)
        self.fork_server = fork_server
        self.provider = provider
        self.sabotage = sabotage
        self.folder = Path(tempfile.mkdtemp(prefix="tw-chaos-"))
        self.primary, self.replica = RealServer(server, *SERVER_OPTIONS), RealServer(server, *SERVER_OPTIONS)
        self.replication = Link(("127.0.0.1", self.primary.port))
        self.gateways = [Instance("gateway", number, self) for number in range(2)]
        self.workers = [Instance("worker", number, self) for number in range(2)]
        self.max_stall_s = 0.0
        """Longest stall of this machine in seconds since `max_stall_s` was last set to 0."""
        self.replacing = asyncio.Lock()
        """Held while a store server is down, frozen or being replaced."""
        self._stall_monitor: asyncio.Task[None] | None = None
        self._read: dict[Path, int] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Return the address of the current primary."""
        return ("127.0.0.1", self.primary.port)

    @property
    def instances(self) -> list[Instance]:
        return [*self.gateways, *self.workers]

    @property
    def urls(self) -> list[str]:
        """Return the WebSocket URLs of the gateways, through their links."""
        return [f"ws://127.0.0.1:{gateway.clients.port}/v1/ws" for gateway in self.gateways]

    async def __aenter__(self) -> Deployment:
        await asyncio.to_thread(self.primary.start)
        await asyncio.to_thread(self.replica.start)
        await self.replication.open()
        for instance in self.instances:
            await instance.open()
        await self.restore()
        self._stall_monitor = asyncio.create_task(self._measure_stalls())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stall_monitor is not None:
            self._stall_monitor.cancel()
        for instance in self.instances:
            await instance.close()
        await self.replication.close()
        self.primary.close()
        self.replica.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def restore(self) -> None:
        """Restore all processes and links, with a replica that follows its primary."""
        await self.restore_store()
        await asyncio.gather(*(instance.restore() for instance in self.instances))

    async def fix_clocks(self) -> None:
        """Replace the processes with a wrong clock."""
        for instance in self.instances:
            if instance.skew:
                instance.kill()
                await instance.restore()

    async def restore_store(self) -> None:
        """Restore the store servers and their replication."""
        for server in (self.primary, self.replica):
            if server._process is None:
                await asyncio.to_thread(server.start)
            server.resume()
        await asyncio.to_thread(self.primary.command, "CONFIG", "SET", "maxmemory", "0")
        await asyncio.to_thread(self.primary.command, "REPLICAOF", "NO", "ONE")
        self.replication.target = self.address
        self.replication.restore()
        await asyncio.to_thread(self.replica.command, "REPLICAOF", "127.0.0.1", self.replication.port)

    async def wait_for_replica(self, within: float = 20.0) -> None:
        """Wait until the replica is in sync with the primary."""
        deadline = time.monotonic() + within
        while True:
            info = await asyncio.to_thread(self.replica.command, "INFO", "replication")
            if info.get("master_link_status") == "up":
                return
            assert time.monotonic() < deadline, "the replica is not in sync"
            await asyncio.sleep(0.05)

    def promote(self) -> None:
        """Swap primary and replica. Existing connections to the old primary stay open."""
        self.replica.command("REPLICAOF", "NO", "ONE")
        self.primary, self.replica = self.replica, self.primary

    def switch(self, instance: Instance) -> None:
        """Redirect an instance to the current primary."""
        instance.store.target = self.address
        instance.store.cut()

    def output(self) -> str:
        """Return the last output of all instances, for failure reports."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}"
            for instance in self.instances
            for path in instance.outputs[-2:]
        )

    def problems(self) -> list[str]:
        """Return new output lines that no fault may cause: errors of the programs."""
        found = []
        for instance in self.instances:
            for path in instance.outputs:
                with path.open("rb") as file:
                    file.seek(self._read.get(path, 0))
                    lines = file.read().decode(errors="replace").splitlines()
                    self._read[path] = file.tell()
                found += [f"{path.name}: {line}" for line in lines if any(word in line for word in PROBLEMS)]
        return found

    def clear_output(self) -> None:
        """Delete the output of replaced children."""
        for instance in self.instances:
            for path in instance.outputs[:-1]:
                path.unlink(missing_ok=True)
            del instance.outputs[:-1]

    def cpu_waits(self) -> dict[int, float]:
        """Return for each worker and store process the seconds that it waited for a CPU."""
        pids = [instance.child.pid for instance in self.workers if instance.child is not None]
        found = {}
        for pid in (*pids, *(server.pid for server in (self.primary, self.replica) if server._process is not None)):
            try:
                # The second field is the run queue delay in ns (Linux, Documentation/scheduler/sched-stats.rst).
                found[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
            except (OSError, IndexError):
                continue
        return found

    async def _measure_stalls(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.02
            await asyncio.sleep(0.02)
            self.max_stall_s = max(self.max_stall_s, loop.time() - due)
