"""The product as a contender: a real gateway on a real store; the load generator is its worker.

Each stream is a response in a conversation of its own. It is submitted, taken as a job and claimed by the product's own
functions; then the load generator appends to its log, with the script call that `response_log.append` makes.
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
from gateway.streams.log_entries import TEXT, LogId, Start
from gateway.streams.response_log import Claimed
from gateway.streams.store.pipeline import GATHER
from gateway.streams.store.store import Store, open_store

from . import processes, provider
from .contender import Await, Publisher, Running, Send, Stream
from .stores import StoreServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .contender import Place
    from .processes import Process
    from .provider import Sdk

WINDOW: Final[float] = Settings.model_fields["window"].default
_CONSUMER: Final = "bench"
# Numbers that stand for themselves nowhere else in a script call.
_MARK: Final = 918_273_645
_TEXT_MARK: Final = b"~text~"
_WORD: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')


class Tokenwire:
    """A gateway process; `window` is the worker's, in seconds, and `durable` that its store keeps a file."""

    def __init__(self, name: str = "tokenwire", *, window: float = WINDOW, durable: bool = True) -> None:
        self.name = name
        self._window = window
        self._durable = durable

    def missing(self) -> str | None:
        """None: what it needs is installed with it."""
        return None

    def start(self, place: Place, streams: int) -> Running:
        """See `Contender`."""
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(place.load, place.folder, durable=self._durable)))
            gateway, port = start_gateway(store.url, place)
            started.enter_context(closing(gateway))
            watched = asyncio.run(prepare(store.url, streams))
            return Running(
                processes={"gateway": (gateway.pid,), "redis": (store.pid,)},
                viewers=("127.0.0.1", port),
                kind="tokenwire",
                streams=watched,
                publisher=Publisher(store.address, "redis", accept="ok", window=self._window, gather=GATHER),
                close=started.pop_all().close,
                counters=store.counters,
            )

    def chain(self, place: Place, streams: int, sdk: Sdk, *, gateway: bool) -> tuple[Running, StoreServer]:
        """The same for a worker of its own, which calls the load generator as its provider and is started later."""
        wire = provider.wire(sdk)
        with ExitStack() as started:
            store = started.enter_context(closing(StoreServer(place.load, place.folder, durable=self._durable)))
            processes_by_role: dict[str, tuple[int, ...]] = {"redis": (store.pid,)}
            port = 0
            if gateway:
                process, port = start_gateway(store.url, place)
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


def start_gateway(url: str, place: Place) -> tuple[Process, int]:
    """A gateway that is ready, and its port."""
    port = processes.free_port()
    # All come at once, in a storm and otherwise: how fast they can be taken is what is measured.
    options = ["--store", url, "--port", str(port), "--accepts", "0"]
    command = [sys.executable, "-m", "gateway", "gateway", *options]
    process = processes.start(command, place.server, place.folder / "gateway.log")

    def ready() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1.0) as reply:
            return bool(reply.status == 200)
        return False

    process.until(ready)
    return process, port


def start_worker(url: str, sdk: Sdk, port: int, cpus: frozenset[int], place: Place) -> Process:
    """A worker that calls `port` as its provider."""
    models = json.dumps({"default": f"{sdk}/{provider.MODEL}"})
    command = [sys.executable, "-m", "gateway", "worker", "--store", url, "--models", models]
    return processes.start(command, cpus, place.folder / "worker.log", provider.environment(sdk, port))


def log_reads(port: int) -> dict[str, float]:
    """How many logs the gateway at `port` has read whole, by the kind of log."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as reply:
        lines = reply.read().decode().splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("tokenwire_log_reads_total{")]
    return {labels.partition('log="')[2].partition('"')[0]: float(value) for labels, _, value in found}


async def submit(url: str, streams: int) -> dict[str, str]:
    """Submit a message in each of `streams` conversations; each response with its conversation, in their order."""
    store = await open_store(url)
    try:
        return dict([await _submit(store, index) for index in range(streams)])
    finally:
        await store.close()


async def prepare(url: str, streams: int) -> list[Stream]:
    """Submit, take and claim a response for each of `streams`; they wait for their first token then."""
    names = await submit(url, streams)
    store = await open_store(url)
    try:
        await jobs.prepare(store)
        await store.client.script_load((resources.files("gateway.streams.scripts") / "append.lua").read_text())
        taken: list[jobs.Job] = []
        deadline = time.monotonic() + 60.0
        while len(taken) < streams:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {len(taken)} of {streams} jobs could be taken")
            taken += await jobs.acquire(store, _CONSUMER, range(keys.PARTITIONS), streams - len(taken), None)
        claimed = await asyncio.gather(*(_claim(store, job) for job in taken))
        starts = {job.response: start for job, start in zip(taken, claimed, strict=True)}
        words = await append_words(store, {name: (names[name], starts[name]) for name in names})
        return [watching(name, response, words[response], starts[response].seq + 1) for response, name in names.items()]
    finally:
        await store.close()


async def _submit(store: Store, index: int) -> tuple[str, str]:
    name = f"bench-{index}"
    accepted = await history_log.submit(store, Submission(name, "key", "default", f"Say what stream-{index} says."))
    if not isinstance(accepted, Accepted):
        raise RuntimeError(f"a message was not accepted: {accepted}")
    return accepted.response, name


async def _claim(store: Store, job: jobs.Job) -> LogId:
    claimed = await response_log.claim(
        store, job, _CONSUMER, Start("default", _CONSUMER), keep_text=False, most_attempts=3
    )
    if not isinstance(claimed, Claimed):
        raise RuntimeError(f"a job could not be claimed: {claimed}")
    return claimed.start


async def append_words(store: Store, started: Mapping[str, tuple[str, LogId]]) -> dict[str, tuple[str, ...]]:
    """The words of the append that a worker makes to each response, as they reach Redis, with the publisher's marks.

    `started`: each response with its conversation and its start. Each is appended to with a last id that it does not
    have, which changes nothing; Redis tells what it was asked (MONITOR).
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
    for mark, place in ((str(_MARK + 1), "{number}"), (str(_MARK), "{previous}"), (_TEXT_MARK.decode(), "{text}")):
        word = word.replace(mark, place)
    return word


def watching(conversation: str, response: str, publish: tuple[str, ...], number: int = 1) -> Stream:
    """A stream whose viewers watch one conversation with one response."""
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
