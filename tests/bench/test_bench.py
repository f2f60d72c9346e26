"""The benchmark runs with small loads, and its checker detects every kind of fault."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.server import serve

from .contender import Publisher, Running, Stream
from .fit import COEFFICIENTS, fit
from .load import Load, compiler
from .mixes.fan_out import FanOut
from .mixes.ingest import Ingest
from .null import Null
from .result import Result, summarise
from .run import Machine, faults
from .tokenwire import Tokenwire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmark needs Linux"),
    pytest.mark.skipif(compiler() is None, reason="the load generator needs a C compiler"),
]

CPUS = frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else frozenset((0,))


@pytest.fixture
def machine() -> Machine:
    """All CPUs of this machine: no test depends on speed."""
    return Machine(CPUS, CPUS)


@pytest.mark.parametrize("contender", [Tokenwire(), Null()], ids=lambda contender: contender.name)
def test_every_viewer_receives_every_token(machine: Machine, contender: Any) -> None:
    result = FanOut("tiny", 2, 10, 50).run(contender, machine, 1.0)
    assert result.exact, result.problem
    assert result.figures["tokens_per_s"] > 0
    assert result.figures["gateway_us"] > 0
    assert result.figures["delay_max_ms"] > 0


def test_worker_appends_every_provider_token(machine: Machine) -> None:
    result = Ingest("tiny", "anthropic", 3, 0, 50).run(Tokenwire(), machine, 1.0)
    assert result.exact, result.problem
    assert result.figures["worker_us"] > 0
    assert result.figures["appended_per_s"] > 0


class FaultyServer:
    """A server that sends its viewers the result of `transform` of the published tokens."""

    def __init__(self, transform: Callable[[list[str]], list[str]]) -> None:
        self._transform = transform
        self._sent = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        assert self._ready.wait(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10.0)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        viewers: set[Any] = set()

        async def watch(viewer: Any) -> None:
            viewers.add(viewer)
            await viewer.wait_closed()

        async def published(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tokens = []
            while line := await reader.readline():
                tokens.append(line.decode().rstrip("\n"))
                if len(tokens) == 10:
                    # The load generator may publish before the handler of the second viewer has run.
                    while len(viewers) < 2:
                        await asyncio.sleep(0.001)
                    for text in self._transform(tokens):
                        for viewer in viewers:
                            await viewer.send(text)
                    self._sent.set()
                    tokens = []
            writer.close()

        async with serve(watch, "127.0.0.1", 0, compression=None) as server:
            lines = await asyncio.start_server(published, "127.0.0.1", 0)
            self.viewers = server.sockets[0].getsockname()
            self.lines = lines.sockets[0].getsockname()
            self._ready.set()
            async with lines:
                await self._over.wait()

    def found_faults(self) -> dict[str, int]:
        """Return the faults that two viewers report for the first ten tokens."""
        running = Running(
            processes={},
            viewers=self.viewers,
            kind="text",
            streams=[Stream("/", publish=("", "{text}\n"))],
            publisher=Publisher(self.lines),
            close=lambda: None,
        )
        load = Load(running, 10, CPUS)
        try:
            assert load.do("connect 2 2 0 subscribed 10")["unsubscribed"] == 0
            load.do("start 1000 0")
            assert self._sent.wait(30.0)
            # All frames are in the socket buffers, so the load generator reads them before it checks the deadline.
            return faults(load.do("drain 0.3"))
        finally:
            load.close()


TRANSFORMS: dict[str, tuple[Callable[[list[str]], list[str]], dict[str, int]]] = {
    "unchanged": (lambda tokens: tokens, {}),
    "several tokens in a frame": (lambda tokens: ["".join(tokens[:4]), "".join(tokens[4:])], {}),
    "loss": (lambda tokens: tokens[:4] + tokens[6:], {"lost": 4}),
    "loss at the end": (lambda tokens: tokens[:7], {"missing": 6}),
    "duplication": (lambda tokens: tokens[:4] + tokens[3:], {"duplicated": 2}),
    "reordering": (lambda tokens: [*tokens[:4], tokens[5], tokens[4], *tokens[6:]], {"reordered": 2}),
    "another text": (lambda tokens: [*tokens[:9], tokens[9].replace("9", "8", 1)], {"duplicated": 2, "missing": 2}),
    "text of another stream": (
        lambda tokens: [*tokens[:9], tokens[9].replace(" 000", " 001", 1)],
        {"corrupted": 2, "missing": 2},
    ),
    "corrupted token": (lambda tokens: [*tokens[:9], tokens[9][:-1] + "x"], {"corrupted": 2, "missing": 2}),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_checker_reports_fault(name: str) -> None:
    transform, expected = TRANSFORMS[name]
    with FaultyServer(transform) as server:
        assert server.found_faults() == expected


def runs() -> Iterator[Result]:
    costs = (30.0, 9.0, 0.01, 2.0)
    for number in range(8):
        figures = {
            name: float((number + 1) * (position + 2) ** (number % 3 + 1) % 97 + 1)
            for position, (_, name, _) in enumerate(COEFFICIENTS)
        }
        cost = sum(value * figures[name] for value, (_, name, _) in zip(costs, COEFFICIENTS, strict=True))
        yield Result(f"m{number}", "tokenwire", {**figures, "gateway_cores": cost / 1e6, "gateway_us": 1.0})


def test_cost_model_recovers_known_costs() -> None:
    model = fit(list(runs()))
    assert model is not None
    assert model.coefficients == pytest.approx((30.0, 9.0, 0.01, 2.0), rel=1e-3)
    assert model.explained == pytest.approx(1.0)


def test_ratio_is_per_round_without_doubtful_rounds() -> None:
    results = [
        Result("A", name, {"gateway_us": cost, "canary": canary}, round=number)
        for number, (floor, own, canary) in enumerate([(8.0, 8.8, 30.0), (16.0, 17.6, 30.0), (8.0, 80.0, 10.0)])
        for name, cost in (("null", floor), ("tokenwire", own))
    ]
    summary = next(each for each in summarise(results) if each.contender == "tokenwire")
    assert summary.figures["gateway_us/null"] == pytest.approx((1.1, 1.1, 1.1))
    assert (summary.rounds, summary.marked) == (2, 1)
