"""The lease keeper and its process: leases are renewed while the worker does not run, and only as long as it lives."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from gateway.streams import keys
from gateway.streams.store.store import Lifetimes, open_store
from tests.gateway.streams.steps import Conversation
from tests.stores import RealServer
from workers import lease_keeper
from workers.lease_bridge import Failed, Hold, Lost, Start, encode, report
from workers.lease_keeper import LeaseKeeper, StoreAddress
from workers.lease_process import is_stopped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from gateway.streams.queued_jobs import Job
    from gateway.streams.store.store import Store

LEASE_S = 0.5
OLD_MS = 60_000


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with RealServer() as server:
        yield server


class Watched:
    """A job that a worker holds, and what its keeper reports."""

    def __init__(self, store: Store, url: str, job: Job) -> None:
        self.client = redis.Redis.from_url(url)
        self.job = job
        self.conversation = Conversation(store, job.conversation)
        self.held = [Hold(job.id, job.response, job.conversation)]
        self.lost: list[Lost] = []
        self.keeper = LeaseKeeper(
            store=StoreAddress(url, Lifetimes()),
            consumer="w1",
            lease_s=LEASE_S,
            held=lambda: self.held,
            on_lost=self.lost.append,
        )

    def pending(self) -> Any:
        """Return the job's owner and idle time, without the event loop."""
        stream = keys.jobs(self.conversation.partition)
        (found,) = self.client.xpending_range(stream, keys.GROUP, self.job.id, self.job.id, 1)
        return found

    def is_renewed(self) -> bool:
        return bool(self.pending()["time_since_delivered"] < OLD_MS)

    def age(self, consumer: str = "w1") -> None:
        stream = keys.jobs(self.conversation.partition)
        self.client.xclaim(stream, keys.GROUP, consumer, 0, [self.job.id], idle=OLD_MS, justid=True)

    async def bridged(self) -> None:
        """Start the process, and wait until it renews."""
        self.age()
        self.keeper.beat()
        await until(self.is_renewed)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def hold_the_interpreter(condition: Callable[[], bool]) -> None:
    """Hold the interpreter for two leases and more at a time until the condition is met, as a generator can."""
    deadline = time.monotonic() + 30
    length = 20
    while not condition():
        assert time.monotonic() < deadline
        begun = time.monotonic()
        re.match(r"(a+)+$", "a" * length + "b")
        length += time.monotonic() - begun < 2 * LEASE_S


@asynccontextmanager
async def watched(server: RealServer) -> AsyncIterator[Watched]:
    store = await open_store(server.url)
    conversation = Conversation(store)
    await store.client.flushall()
    await conversation.prepare()
    await conversation.ask()
    found = Watched(store, server.url, await conversation.take("w1"))
    try:
        yield found
    finally:
        pid = found.keeper.pid
        await found.keeper.stop()
        await found.keeper.stop()
        found.client.close()
        await store.close()
    assert pid is None or not Path(f"/proc/{pid}").exists()


async def test_leases_are_renewed_while_a_generator_holds_the_interpreter(server: RealServer) -> None:
    async with watched(server) as it:
        await it.bridged()
        for _ in range(3):
            it.age()
            hold_the_interpreter(it.is_renewed)
        assert it.lost == []


@pytest.mark.live
async def test_new_job_is_known_before_its_generator_blocks(server: RealServer) -> None:
    async with watched(server) as it:
        held, it.held = it.held, []
        it.keeper.beat()
        it.keeper.hold(held)
        it.age()
        hold_the_interpreter(it.is_renewed)


async def test_job_that_another_worker_took_is_reported_once(server: RealServer) -> None:
    async with watched(server) as it:
        await it.bridged()
        it.age(consumer="w2")
        await until(lambda: it.lost)
        assert it.lost == [Lost(it.job.id, "lost")]
        assert it.pending()["consumer"] == b"w2"


@pytest.mark.live
async def test_worker_that_is_blocked_for_very_long_loses_its_leases(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_keeper, "MAX_BLOCKED_S", 1.5 * LEASE_S)
    async with watched(server) as it:
        await it.bridged()
        for _ in range(20):
            it.age()
            await asyncio.sleep(2 * LEASE_S)
            if not it.is_renewed():
                break
        assert not it.is_renewed()
        it.keeper.beat()
        await until(it.is_renewed)


async def test_process_that_dies_is_replaced(server: RealServer, caplog: pytest.LogCaptureFixture) -> None:
    async with watched(server) as it:
        await it.bridged()
        first = it.keeper.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)

        def replaced() -> bool:
            it.keeper.beat()
            return it.keeper.pid not in (None, first)

        await until(replaced)
        (event,) = [record for record in caplog.records if record.getMessage() == "lease_process_ended"]
        assert vars(event)["exit_status"] == -signal.SIGKILL
        it.age()
        await until(it.is_renewed)


@pytest.mark.live
async def test_process_ignores_the_signals_of_its_worker(server: RealServer) -> None:
    async with watched(server) as it:
        await it.bridged()
        assert it.keeper.pid is not None
        assert os.getpgid(it.keeper.pid) != os.getpgid(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(it.keeper.pid, number)
        it.age()
        await until(it.is_renewed)


@pytest.mark.live
async def test_process_that_reads_nothing_is_not_waited_for(server: RealServer) -> None:
    async with watched(server) as it:
        await it.bridged()
        assert it.keeper.pid is not None
        os.kill(it.keeper.pid, signal.SIGSTOP)
        await until(lambda: is_stopped(it.keeper.pid or 0))
        begun = time.monotonic()
        for number in range(3000):
            it.held = [Hold(f"{number}-{each}", "r" * 64, "c" * 64) for each in range(5)]
            it.keeper.beat()
            it.keeper.hold([Hold(f"{number}-9", "r" * 64, "c" * 64)])
        assert len(it.keeper._unsent) < 65_536
        assert time.monotonic() - begun < 30
        # Its last state is the newest one.
        os.kill(it.keeper.pid, signal.SIGCONT)
        it.held = [Hold(it.job.id, it.job.response, it.job.conversation)]

        def told() -> bool:
            it.keeper.beat()
            return not it.keeper._unsent

        await until(told)
        it.keeper.beat()
        it.age()
        await until(it.is_renewed)


async def test_failed_renewals_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with RealServer() as own:
        async with watched(own) as it:
            await it.bridged()
            own.kill()

            def failed() -> list[Any]:
                return [record for record in caplog.records if record.getMessage() == "lease_renewal_failed"]

            await until(failed)
            assert vars(failed()[0])["error"] == "StoreUnavailableError"
            await asyncio.to_thread(own.start)
            it.age()
            await until(it.is_renewed)
            assert len(failed()) == 1


async def test_process_that_cannot_start_is_logged(
    server: RealServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease_keeper, "COMMAND", ("/nonexistent/python",))
    async with watched(server) as it:
        it.keeper.beat()
        it.keeper.hold(it.held)
        assert it.keeper.pid is None
        (event,) = [record for record in caplog.records if record.getMessage() == "lease_process_ended"]
        assert vars(event)["error"] == "FileNotFoundError"


def process(start: Start) -> subprocess.Popen[bytes]:
    """Start a lease process without a keeper."""
    found = subprocess.Popen(lease_keeper.COMMAND, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert found.stdin is not None
    found.stdin.write(encode(start))
    return found


def start_of(url: str, parent: int) -> Start:
    return Start(url, 1.0, 1.0, 1.0, "w1", parent, LEASE_S, 60.0)


@pytest.mark.live
def test_process_ends_with_its_input(server: RealServer) -> None:
    with process(start_of(server.url, os.getpid())) as found:
        assert found.stdin is not None
        found.stdin.close()
        assert found.wait(20) == 0


@pytest.mark.live
def test_process_of_another_parent_ends_although_its_input_is_open(server: RealServer) -> None:
    # As if a process that the worker had forked held the pipe.
    with process(start_of(server.url, os.getpid() + 100_000)) as found:
        assert found.wait(20) == 0


@pytest.mark.live
def test_fault_of_the_process_is_reported_without_its_text() -> None:
    with process(start_of("redis://:secret@127.0.0.1:1/not-a-number", os.getpid())) as found:
        assert found.stdin is not None
        assert found.stdout is not None
        line = found.stdout.readline()
        assert b"secret" not in line
        assert isinstance(report(line.rstrip(b"\n")), Failed)
        with suppress(BrokenPipeError):
            found.stdin.close()
        found.wait(20)


@pytest.mark.live
def test_stopped_process_is_told_from_a_running_one() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as found:
        assert not is_stopped(found.pid)
        found.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while not is_stopped(found.pid):
            assert time.monotonic() < deadline
        found.send_signal(signal.SIGCONT)
        found.kill()
    assert not is_stopped(found.pid)
