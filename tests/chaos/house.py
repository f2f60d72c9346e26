"""A deployment with a bad network: two gateways, two workers, a store and its replica, and a link to everything."""

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
    from tests.chaos.nursery import Child, Nursery

LEASE: Final = 1.5
"""Seconds, for workers that are to be replaced soon."""

READY_WITHIN: Final = 30.0
PROBLEMS: Final = ("Traceback", " ERROR ", " CRITICAL ", "never awaited", "never retrieved")
# What was acknowledged survives a crash: with everysec a busy disk loses up to two seconds, and the run its meaning.
SERVER: Final = (
    "--appendfsync",
    "always",
    "--enable-debug-command",
    "yes",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-timeout",
    "60",
)
WORKER: Final = (
    "--models", json.dumps({"fake": "openai/fake"}), "--lease", str(LEASE), "--attempts", "3", "--drain", "1",
    "--first-timeout", "8", "--idle-timeout", "4.5", "--patience", "25",
)  # fmt: skip


class Member:
    """One gateway or worker: a child, which may be another one tomorrow, and its link to the store."""

    def __init__(self, kind: str, number: int, house: House) -> None:
        self.kind = kind
        self.number = number
        self.house = house
        self.store = Link(house.address)
        self.clients = Link(("127.0.0.1", 9))
        """Where its clients come in; of no use for a worker."""
        self.child: Child | None = None
        self.skew = 0.0
        self.outputs: list[Path] = []
        self._born = 0
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
        """Start a new child, if there is none; return when it serves."""
        async with self._starting:
            if self.child is None or not self.child.running:
                await self._start(skew)

    async def _start(self, skew: float) -> None:
        house = self.house
        options = WORKER if self.kind == "worker" else ("--port", "0")
        environment = {
            "OPENAI_BASE_URL": f"{house.provider}/v1",
            "OPENAI_API_KEY": "sk-planted-secret",
            # Tells the provider who calls.
            "OPENAI_ORG_ID": f"{house.name}-{self.number}",
        }
        self.skew = skew
        output = house.folder / f"{self.kind}-{self.number}-{self._born}.log"
        self._born += 1
        self.outputs.append(output)
        output.touch()
        url = f"redis://127.0.0.1:{self.store.port}/0"
        arguments = [self.kind, "--store", url, *options]
        deadline = time.monotonic() + READY_WITHIN
        while True:
            child = self.child = house.nursery.bear(arguments, environment, output, house.sabotage, skew)
            while child.running and child.announced() is None:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.name} is not ready: {child.text[-3000:]}")
                await asyncio.sleep(0.02)
            announced = child.announced()
            if announced is not None:
                break
            # It gives up where the store does not answer, as a service is started again by its supervisor.
            child.close()
            assert time.monotonic() < deadline, f"{self.name} does not start: {child.text[-3000:]}"
            await asyncio.sleep(0.1)
        if self.kind == "gateway":
            self.clients.target = ("127.0.0.1", int(announced.rsplit(":", 1)[1]))

    def kill(self) -> None:
        """SIGKILL."""
        if self.child is not None:
            self.child.close()
            self.child = None

    def signal(self, number: signal.Signals) -> None:
        if self.child is not None:
            self.child.signal(number)

    async def leave(self, within: float) -> bool:
        """SIGTERM; whether it was gone within so many seconds. One that is not is killed."""
        child = self.child
        if child is None:
            return True
        child.signal(signal.SIGTERM)
        deadline = time.monotonic() + within
        while child.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        gone = not child.running
        if self.child is child:
            self.kill()
        return gone

    async def mend(self) -> None:
        """It runs, and the weather is good."""
        self.store.clears()
        self.clients.clears()
        self.signal(signal.SIGCONT)
        if self.child is None or not self.child.running:
            await self.start()
        deadline = time.monotonic() + READY_WITHIN
        while self.kind == "gateway" and not await asyncio.to_thread(self._ready):
            said = self.child.text[-3000:] if self.child is not None else "it was killed"
            assert time.monotonic() < deadline, f"{self.name} does not get ready: {said}"
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


class House:
    """All of it. A schedule may hurt whatever it likes; `mend` makes it whole again."""

    model = "fake"
    speaks_words = True
    """Whether the provider is ours, so that what the answers must be is known."""

    def __init__(self, nursery: Nursery, provider: str, make: Any = "valkey", sabotage: tuple[str, ...] = ()) -> None:
        """`provider`: the address of the fake one. `sabotage`: protections that this house goes without."""
        self.name = secrets.token_hex(3)
        self.nursery = nursery
        self.provider = provider
        self.sabotage = sabotage
        self.folder = Path(tempfile.mkdtemp(prefix="tw-chaos-"))
        self.primary, self.replica = RealServer(make, *SERVER), RealServer(make, *SERVER)
        self.replication = Link(("127.0.0.1", self.primary.port))
        self.gateways = [Member("gateway", number, self) for number in range(2)]
        self.workers = [Member("worker", number, self) for number in range(2)]
        self.lag = 0.0
        """Seconds that this machine stood still, at the most, since `lag` was last set to 0."""
        self.replacing = asyncio.Lock()
        """Held while a server is down, frozen, or gives its place to the other one."""
        self._beats: asyncio.Task[None] | None = None
        self._read: dict[Path, int] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Where the store is now."""
        return ("127.0.0.1", self.primary.port)

    @property
    def members(self) -> list[Member]:
        return [*self.gateways, *self.workers]

    @property
    def urls(self) -> list[str]:
        """The gateways, each behind its link."""
        return [f"ws://127.0.0.1:{gateway.clients.port}/v1/ws" for gateway in self.gateways]

    async def __aenter__(self) -> House:
        await asyncio.to_thread(self.primary.start)
        await asyncio.to_thread(self.replica.start)
        await self.replication.open()
        for member in self.members:
            await member.open()
        await self.mend()
        self._beats = asyncio.create_task(self._watch_the_clock())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._beats is not None:
            self._beats.cancel()
        for member in self.members:
            await member.close()
        await self.replication.close()
        self.primary.close()
        self.replica.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def mend(self) -> None:
        """Let everything run, with good weather and a replica that follows."""
        await self.mend_store()
        await asyncio.gather(*(member.mend() for member in self.members))

    async def set_clocks(self) -> None:
        """Replace those whose clock is wrong."""
        for member in self.members:
            if member.skew:
                member.kill()
                await member.mend()

    async def mend_store(self) -> None:
        """As `mend`, but for gateways and workers."""
        for server in (self.primary, self.replica):
            if server._process is None:
                await asyncio.to_thread(server.start)
            server.resume()
        await asyncio.to_thread(self.primary.command, "CONFIG", "SET", "maxmemory", "0")
        await asyncio.to_thread(self.primary.command, "REPLICAOF", "NO", "ONE")
        self.replication.target = self.address
        self.replication.clears()
        await asyncio.to_thread(self.replica.command, "REPLICAOF", "127.0.0.1", self.replication.port)

    async def followed(self, within: float = 20.0) -> None:
        """Wait until the replica has what the primary has."""
        deadline = time.monotonic() + within
        while True:
            said = await asyncio.to_thread(self.replica.command, "INFO", "replication")
            if said.get("master_link_status") == "up":
                return
            assert time.monotonic() < deadline, "the replica does not follow"
            await asyncio.sleep(0.05)

    def promote(self) -> None:
        """The replica is the primary from now on; those that are connected to the other one still are."""
        self.replica.command("REPLICAOF", "NO", "ONE")
        self.primary, self.replica = self.replica, self.primary

    def switch(self, member: Member) -> None:
        """Lead a member to the primary."""
        member.store.target = self.address
        member.store.cut()

    def output(self) -> str:
        """What gateways and workers said last, for a person who looks into a failure."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}"
            for member in self.members
            for path in member.outputs[-2:]
        )

    def problems(self) -> list[str]:
        """Lines that no fault may cause: an error of the programs themselves."""
        found = []
        for member in self.members:
            for path in member.outputs:
                with path.open("rb") as file:
                    file.seek(self._read.get(path, 0))
                    lines = file.read().decode(errors="replace").splitlines()
                    self._read[path] = file.tell()
                found += [f"{path.name}: {line}" for line in lines if any(word in line for word in PROBLEMS)]
        return found

    def forget_output(self) -> None:
        """Drop what was said."""
        for member in self.members:
            for path in member.outputs[:-1]:
                path.unlink(missing_ok=True)
            del member.outputs[:-1]

    def waited(self) -> dict[int, float]:
        """For each worker, and for the store, the seconds that it wanted to run and the machine did not let it."""
        pids = [member.child.pid for member in self.workers if member.child is not None]
        found = {}
        for pid in (*pids, *(server.pid for server in (self.primary, self.replica) if server._process is not None)):
            try:
                # The second field is in nanoseconds (Linux, Documentation/scheduler/sched-stats.rst).
                found[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
            except (OSError, IndexError):
                continue
        return found

    async def _watch_the_clock(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.02
            await asyncio.sleep(0.02)
            self.lag = max(self.lag, loop.time() - due)
