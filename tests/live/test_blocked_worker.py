"""A generator that blocks its worker for several leases: every answer comes once, and the block is logged."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from gateway.streams import keys
from tests.live.client import Client
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.stores import RealServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

ANSWERS = 40
LEASE_S = 1.0
GENERATOR = """
import asyncio, os, re, time
calls = os.environ["CALLS"]

def hold_the_interpreter(seconds):
    # One call that no thread can interrupt: the length for which it takes so long is found first.
    for length in range(16, 60):
        begun = time.perf_counter()
        re.match(r"(a+)+$", "a" * length + "b")
        if time.perf_counter() - begun > seconds:
            return

async def generate(request):
    text = request.messages[-1]["content"]
    with open(calls, "a") as file:
        file.write(text + "\\n")
    if text in ("sleep", "expression"):
        yield "thinking"
        time.sleep(4) if text == "sleep" else hold_the_interpreter(4)
        yield "done"
        return
    for number in range(100):
        yield f"{number} "
        await asyncio.sleep(0.05)
"""


@contextmanager
def two_workers(store: str, folder: Path, module: str = "gateway") -> Iterator[list[WorkerProcess]]:
    """Run two workers with the generator; `folder / "calls"` has a line for each of its calls."""
    (folder / "blocking.py").write_text(GENERATOR)
    environment = {
        "PYTHONPATH": str(folder),
        "CALLS": str(folder / "calls"),
        "TOKENWIRE_MODELS": json.dumps({"default": "python/blocking:generate"}),
        "TOKENWIRE_LEASE": str(LEASE_S),
        # Shorter than a block: no provider is silent because its worker did not read.
        "TOKENWIRE_IDLE_TIMEOUT": "2",
    }
    (folder / "calls").touch()

    class Worker(WorkerProcess):
        pass

    Worker.module = module
    with Worker(store, **environment) as first, Worker(store, **environment) as second:
        yield [first, second]


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lease_process(worker: WorkerProcess) -> int:
    """Return the id of the worker's lease process, once it runs."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for child in children(worker.pid):
            if b"workers.lease_process" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.02)
    raise AssertionError(f"worker {worker.pid} has no lease process")


def ends(pid: int) -> bool:
    """Wait until a process has ended."""
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("kind", ["sleep", "expression"])
async def test_blocking_generator_keeps_the_leases_of_all_answers(tmp_path: Path, kind: str) -> None:
    with (
        RealServer() as server,
        GatewayProcess(server.url, TOKENWIRE_LEASE=str(LEASE_S)) as gateway,
        two_workers(server.url, tmp_path) as workers,
    ):
        for worker in workers:
            lease_process(worker)
        clients = [await Client(f"c{number}").connect(gateway.socket_url) for number in range(ANSWERS)]
        asked = [(client, await client.ask(f"x{number}")) for number, client in enumerate(clients)]
        for client, response in asked:
            await client.attempted(response, 1)
        blocking = await Client("blocking").connect(gateway.socket_url)
        response = await blocking.ask(kind)
        for client, each in [*asked, (blocking, response)]:
            answer = await client.ended(each)
            assert (answer.reason, answer.attempt, answer.resets) == ("complete", 1, [])
        assert len((tmp_path / "calls").read_text().split()) == ANSWERS + 1
        lines = [line for worker in workers for line in worker.output if "event_loop_blocked" in line]
        assert any("python/blocking:generate" in line and f"response={response}" in line for line in lines), lines
        assert any("blocking.py:" in line for line in lines), lines
        for client in (*clients, blocking):
            await client.close()


async def test_block_of_a_gateway_with_its_worker_in_memory_is_logged(tmp_path: Path) -> None:
    (tmp_path / "blocking.py").write_text(GENERATOR)
    environment = {
        "PYTHONPATH": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "TOKENWIRE_MODELS": json.dumps({"default": "python/blocking:generate"}),
        "TOKENWIRE_LEASE": str(LEASE_S),
    }
    with GatewayProcess("memory://", command="run", **environment) as whole:
        assert children(whole.pid) == []
        client = await Client("blocking").connect(whole.socket_url)
        response = await client.ask("sleep")
        assert (await client.ended(response)).reason == "complete"
        await client.close()
        assert any("event_loop_blocked" in line and "python/blocking:generate" in line for line in whole.output)


async def test_worker_that_is_blocked_for_too_long_is_replaced(tmp_path: Path) -> None:
    with (
        RealServer() as server,
        GatewayProcess(server.url, TOKENWIRE_LEASE=str(LEASE_S)) as gateway,
        # 0.3 s instead of two minutes.
        two_workers(server.url, tmp_path, module="tests.live.briefly_blocked_worker") as workers,
    ):
        for worker in workers:
            lease_process(worker)
        client = await Client("c0").connect(gateway.socket_url)
        response = await client.ask("sleep")
        await client.attempted(response, 2)
        await client.close()


@pytest.mark.parametrize("fault", ["stop", "kill"])
async def test_worker_that_is_stopped_or_killed_is_replaced_within_its_lease(tmp_path: Path, fault: str) -> None:
    with (
        RealServer() as server,
        GatewayProcess(server.url, TOKENWIRE_LEASE=str(LEASE_S)) as gateway,
        two_workers(server.url, tmp_path) as workers,
    ):
        processes = {worker.name: lease_process(worker) for worker in workers}
        client = await Client("c0").connect(gateway.socket_url)
        response = await client.ask("x")
        await client.attempted(response, 1)
        with redis.Redis.from_url(server.url) as store:
            (job,) = store.xpending_range(keys.jobs(keys.partition_of("c0")), keys.GROUP, "-", "+", 1)
        (worker,) = [each for each in workers if each.name == job["consumer"].decode()]
        if fault == "stop":
            # Only the worker itself: its lease process goes on.
            worker.freeze()
        else:
            worker.kill()
            assert ends(processes[worker.name])
        await client.attempted(response, 2)
        assert (await client.ended(response)).reason == "complete"
        worker.resume() if fault == "stop" else None
        await client.close()


def test_worker_that_shuts_down_leaves_no_process_and_replaces_one_that_dies(tmp_path: Path) -> None:
    with RealServer() as server, two_workers(server.url, tmp_path) as workers:
        first = workers[0]
        process = lease_process(first)
        os.kill(process, signal.SIGKILL)
        assert ends(process)
        replaced = lease_process(first)
        assert replaced != process
        # Signals for all processes, as of a supervisor; the second one ends the worker at once.
        os.kill(replaced, signal.SIGTERM)
        first.terminate()
        assert first.wait() == 0
        assert ends(replaced)
        assert "lease_process_ended" in first.text
