"""The product as a contender: a real gateway with a real store. The load generator acts as the worker.

Each stream is a response in a separate conversation. The functions of the product submit, take and claim it. Then the
load generator appends to its log with the script call of `response_log.append`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
import urllib.request
from contextlib import ExitStack, closing, suppress
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from gateway.cli.settings import Settings
from gateway.streams import history_log, jobs, keys, response_log
from gateway.streams.history_log import Accepted, Submission
from gateway.streams.liveness import RELEASED_ONLY
from gateway.streams.log_entries import TEXT, LogId, Start
from gateway.streams.response_log import Claimed
from gateway.streams.store.pipeline import MIN_INTERVAL_S
from gateway.streams.store.store import Store, open_store

from . import processes, provider
from .contender import Await, Publisher, Running, Send, Stream
from .stores import StoreServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.streams.queued_jobs import Job

    from .contender import Placement
    from .processes import Process
    from .provider import Sdk

WINDOW: Final[float] = Settings.model_fields["window"].default
_CONSUMER: Final = "bench"
# Placeholders that occur nowhere else in a script call.
_MARK: Final = 918_273_645
_TEXT_MARK: Final = b"~text~"
_WORD: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')


class Tokenwire:
    """A gateway process. `window`: batching window of the worker in seconds; `durable`: the store writes a file."""

    def __init__(self, name: str = "tokenwire", *, window: float = WINDOW, durable: bool = True) -> None:
        self.name = name
        self._window = window
        self._durable = durable

    def missing(self) -> str | None:
        """Return None: its dependencies are installed with the product."""
        return None

    def start(self, placement: Placement, streams: int) -> Running:
        """See `Contender`."""
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(placement.load, placement.folder, durable=self._durable)))
            gateway, port = start_gateway(store.url, placement)
            started.enter_context(closing(gateway))
            watched = asyncio.run(prepare(store.url, streams))
            return Running(
                processes={"gateway": (gateway.pid,), "redis": (store.pid,)},
                viewers=("127.0.0.1", port),
                kind="tokenwire",
                streams=watched,
                publisher=Publisher(store.address, "redis", accept="ok", window=self._window, gather=MIN_INTERVAL_S),
                close=started.pop_all().close,
                counters=store.counters,
            )

    def chain(self, placement: Placement, streams: int, sdk: Sdk, *, gateway: bool) -> tuple[Running, StoreServer]:
        """Start the same without load generator as worker: a real worker, started later, calls it as its provider."""
        wire = provider.wire(sdk)
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(placement.load, placement.folder, durable=self._durable)))
            processes_by_role: dict[str, tuple[int, ...]] = {"redis": (store.pid,)}
            port = 0
            if gateway:
                process, port = start_gateway(store.url, placement)
                started.enter_context(closing(process))
                processes_by_role = {"gateway": (process.pid,), **processes_by_role}
            submitted = asyncio.run(submit(store.url, streams))
            running = Running(
                processes=processes_by_role,
                viewers=("127.0.0.1", port),
                kind="tokenwire",
                streams=[watching(name, response, wire.token) for response, name in submitted.items()],
                publisher=Publisher(
                    ("127.0.0.1", processes.free_port()), "provider", first=wire.opening, finish=wire.closing
                ),
                close=started.pop_all().close,
                counters=store.counters,
            )
            return running, store


def start_gateway(url: str, placement: Placement) -> tuple[Process, int]:
    """Start a gateway; return it and its port when it is ready."""
    port = processes.free_port()
    # No accept rate limit: the benchmark measures how fast connections are accepted.
    options = ["--store", url, "--port", str(port), "--accepts", "0"]
    command = [sys.executable, "-m", "gateway", "gateway", *options]
    process = processes.start(command, placement.server, placement.folder / "gateway.log")

    def ready() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1.0) as reply:
            return bool(reply.status == 200)
        return False

    process.until(ready)
    return process, port


def start_worker(url: str, sdk: Sdk, port: int, cpus: frozenset[int], placement: Placement) -> Process:
    """Start a worker that calls `port` as its provider."""
    models = json.dumps({"default": f"{sdk}/{provider.MODEL}"})
    command = [sys.executable, "-m", "gateway", "worker", "--store", url, "--models", models]
    return processes.start(command, cpus, placement.folder / "worker.log", provider.environment(sdk, port))


def log_reads(port: int) -> dict[str, float]:
    """Return the number of complete log reads of the gateway at `port`, by kind of log."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as reply:
        lines = reply.read().decode().splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("tokenwire_log_reads_total{")]
    return {labels.partition('log="')[2].partition('"')[0]: float(value) for labels, _, value in found}


async def submit(url: str, streams: int) -> dict[str, str]:
    """Submit a message in each of `streams` conversations; return the conversation of each response, in order."""
    store = await open_store(url)
    try:
        return dict([await _submit(store, index) for index in range(streams)])
    finally:
        await store.close()


async def prepare(url: str, streams: int) -> list[Stream]:
    """Submit, take and claim a response for each of `streams`; they are ready for their first token."""
    names = await submit(url, streams)
    store = await open_store(url)
    try:
        await jobs.prepare(store)
        await store.client.script_load((resources.files("gateway.streams.scripts") / "append.lua").read_text())
        taken: list[Job] = []
        deadline = time.monotonic() + 60.0
        while len(taken) < streams:
            if time.monotonic() > deadline:
                raise RuntimeError(f"took only {len(taken)} of {streams} jobs")
            taken += await jobs.acquire(store, _CONSUMER, range(keys.PARTITIONS), streams - len(taken), RELEASED_ONLY)
        claimed = await asyncio.gather(*(_claim(store, job) for job in taken))
        starts = {job.response: start for job, start in zip(taken, claimed, strict=True)}
        words = await append_words(store, {name: (names[name], starts[name]) for name in names})
        return [watching(name, response, words[response], starts[response].seq + 1) for response, name in names.items()]
    finally:
        await store.close()


async def _submit(store: Store, index: int) -> tuple[str, str]:
    name = f"bench-{index}"
    accepted = await history_log.submit(
        store, Submission(conversation=name, key="key", model="default", text=f"Say what stream-{index} says.")
    )
    if not isinstance(accepted, Accepted):
        raise RuntimeError(f"message not accepted: {accepted}")
    return accepted.response, name


async def _claim(store: Store, job: Job) -> LogId:
    claimed = await response_log.claim(
        store, job, _CONSUMER, Start("default", _CONSUMER), keep_text=False, max_attempts=3
    )
    if not isinstance(claimed, Claimed):
        raise RuntimeError(f"job not claimed: {claimed}")
    return claimed.start


async def append_words(store: Store, started: Mapping[str, tuple[str, LogId]]) -> dict[str, tuple[str, ...]]:
    """Return the words of a worker's append to each response, as sent to Redis, with the placeholders of the publisher.

    `started`: conversation and start id of each response. The appends expect a last id that does not exist, so they
    change nothing; MONITOR prints their words.
    """
    connection = store.client.connection_pool.connection_kwargs
    reader, writer = await asyncio.open_connection(connection["host"], connection["port"])
    try:
        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        for response, (conversation, start) in started.items():
            expected, first = LogId(start.attempt, _MARK), LogId(start.attempt, _MARK + 1)
            answer = await response_log.append(store, conversation, response, expected, first, [TEXT + _TEXT_MARK], 5.0)
            assert answer == start
        found: dict[str, tuple[str, ...]] = {}
        async with asyncio.timeout(30.0):
            while len(found) < len(started):
                words = [each.decode() for each in _WORD.findall(await reader.readline())]
                if any(_TEXT_MARK.decode() in word for word in words):
                    response = next(name for word in words if (name := word.rpartition(":")[2]) in started)
                    found[response] = tuple(map(_marked, words))
        return found
    finally:
        writer.close()


def _marked(word: str) -> str:
    for mark, template in ((str(_MARK + 1), "{number}"), (str(_MARK), "{previous}"), (_TEXT_MARK.decode(), "{text}")):
        word = word.replace(mark, template)
    return word


def watching(conversation: str, response: str, publish: tuple[str, ...], number: int = 1) -> Stream:
    """Return a stream whose viewers watch one conversation with one response."""
    hello = Send(json.dumps({"type": "hello", "client": "bench"}, separators=(",", ":")))

    def watch(**cursors: Any) -> Send:
        return Send(json.dumps({"type": "watch", "conversation": conversation, **cursors}, separators=(",", ":")))

    return Stream(
        "/v1/ws",
        publish,
        (hello, watch(), Await('{"type":"snapshot"')),
        (hello, watch(after="{after}", responses={response: "{cursor}"}), Await('{"type":"watching"')),
        response=response,
        number=number,
    )
