"""One run: a contender is started, connected to, measured and ended, whatever happens in between."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import accounting
from .contender import Place
from .load import Load
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .contender import Contender, Running

WARM_UP: Final = 1.0
"""Seconds before it is measured."""

CONNECT_WITHIN: Final = 60.0
DRAIN_WITHIN: Final = 10.0
CONCURRENCY: Final = 64
"""Viewers that connect at once, outside of storms."""

FAULTS: Final = ("lost", "doubled", "reordered", "corrupted", "closed", "publish_errors", "missing", "unsubscribed")


@dataclass(frozen=True, slots=True)
class Machine:
    """The CPUs of a run: one for what is measured, the others for everything else."""

    server: frozenset[int]
    load: frozenset[int]

    @property
    def cpus(self) -> frozenset[int]:
        """All of them."""
        return self.server | self.load


@dataclass
class Session:
    """A contender that runs, and the load generator at it."""

    contender: str
    running: Running
    load: Load
    place: Place
    figures: dict[str, float] = field(default_factory=dict)
    """What was found so far; `Result` says how they are named."""

    def connect(self, viewers: int, *, small: bool = False) -> None:
        """Let more viewers connect and subscribe; `small`: with buffers that are full soon. Raises RuntimeError."""
        before = self.cpu("gateway")
        operation = f"connect {viewers} {CONCURRENCY} {2048 if small else 0} subscribed {CONNECT_WITHIN}"
        report = self.load.do(operation, CONNECT_WITHIN + 10)
        if report["unsubscribed"]:
            raise RuntimeError(f"{report['unsubscribed']} of {viewers} viewers could not connect: {report['problem']}")
        self.figures["connect_us"] = 1e6 * (self.cpu("gateway") - before) / viewers
        self.figures["connect_p99_ms"] = report["connected"]["p99"]
        self.load.do(f"wait {self.running.settle}")

    def begin(self, rate: float, seconds: float, prefill: int = 0) -> None:
        """Let every stream have `rate` tokens a second from now on, and warm up for what will be measured."""
        self.load.do(f"start {rate} {prefill}")
        self.load.do(f"wait {min(WARM_UP, seconds)}")

    def cpu(self, role: str) -> float:
        """Seconds of CPU that a role's processes have used."""
        return accounting.cpu(self.running.processes)[role]

    def memory(self, role: str = "gateway") -> int:
        """Bytes that a role's processes hold."""
        return accounting.memory(self.running.processes[role])

    def measure(self, seconds: float) -> dict[str, Any]:
        """Measure for so long; the figures gain what was found, and the load generator's report is returned.

        `gateway_us` is CPU by delivered token, that of other roles by published token.
        """
        running = self.running
        measured = "gateway" if "gateway" in running.processes else "worker"
        counted = running.counters()
        load_before = self.load.do(f"measure {seconds}")
        before, begun = accounting.cpu(running.processes), time.monotonic()
        waited = accounting.waited(running.processes[measured])
        report = self.load.rest(seconds + 30.0)
        after, ended = accounting.cpu(running.processes), time.monotonic()
        waited = accounting.waited(running.processes[measured]) - waited
        counters = running.counters()
        spent = ended - begun
        delivered, published = report["measured_tokens"], report["measured_published"]
        figures = {
            "tokens_per_s": delivered / spent,
            "frames_per_s": report["measured_frames"] / spent,
            "bytes_per_s": report["measured_bytes"] / spent,
            "publishes_per_s": report["measured_publishes"] / spent,
            "viewers": report["viewers"],
            "load_cores": (report["cpu"] - load_before["cpu"]) / spent,
            "slip_p99_ms": report["slip"]["p99"] if report["slip"] else 0.0,
            "waited": waited / spent,
        }
        if delivered:
            figures["bytes_per_token"] = report["measured_bytes"] / delivered
            figures["tokens_per_frame"] = delivered / report["measured_frames"]
        for role, used in after.items():
            figures[f"{role}_cores"] = (used - before[role]) / spent
            if tokens := delivered if role == "gateway" else published:
                figures[f"{role}_us"] = 1e6 * (used - before[role]) / tokens
            figures[f"{role}_bytes"] = self.memory(role)
        if published:
            figures |= {
                f"{name}_per_token": (value - counted.get(name, 0.0)) / published for name, value in counters.items()
            }
        for name, value in (report["delay"] or {}).items():
            if name != "count":
                figures[f"delay_{name}_ms"] = value
        self.figures.update(figures)
        return report

    def finish(self, mix: str, within: float = DRAIN_WITHIN) -> Result:
        """End publishing, wait until everybody has everything, and say what the run came to."""
        report = self.load.do(f"drain {within}", within + 30)
        found = faults(report)
        if self.running.publisher.begin:
            # It has a clock of its own, and nobody but it knows how far it came.
            found.pop("missing", None)
        return Result(mix, self.contender, self.figures, found, report["problem"] if found else "")


def faults(report: Mapping[str, Any]) -> dict[str, int]:
    """What a report shows not to be exact."""
    return {name: int(report[name]) for name in FAULTS if report[name]}


@contextmanager
def place(machine: Machine) -> Iterator[Place]:
    """A folder for one run, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tokenwire-bench-"))
    try:
        yield Place(machine.server, machine.load, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def session(contender: Contender, machine: Machine, streams: int, tokens: int) -> Iterator[Session]:
    """A started contender with `streams` streams of at most `tokens` tokens, and the load generator; ended afterwards.

    Raises what `Contender.start` and `Load` do. The first of its figures is the canary of this moment.
    """
    canary = accounting.canary(machine.cpus)
    with place(machine) as where:
        running = contender.start(where, streams)
        try:
            load = Load(running, tokens, machine.load)
            try:
                yield Session(contender.name, running, load, where, {"canary": canary})
            finally:
                load.close()
        finally:
            running.close()
