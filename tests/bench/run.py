"""One run: start a contender, connect viewers, measure, and always stop it."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import accounting
from .contender import Placement
from .load import Load
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .contender import Contender, Running

WARM_UP_S: Final = 1.0
"""Seconds of load before the measurement."""

CONNECT_TIMEOUT_S: Final = 60.0
DRAIN_TIMEOUT_S: Final = 10.0
CONCURRENCY: Final = 64
"""Concurrent connects, except in storms."""

FAULTS: Final = ("lost", "duplicated", "reordered", "corrupted", "closed", "publish_errors", "missing", "unsubscribed")


@dataclass(frozen=True, slots=True)
class Machine:
    """CPUs of a run: `server` for the measured process, `load` for all others."""

    server: frozenset[int]
    load: frozenset[int]

    @property
    def cpus(self) -> frozenset[int]:
        """Return all CPUs."""
        return self.server | self.load


@dataclass
class Session:
    """A running contender and its load generator."""

    contender: str
    running: Running
    load: Load
    placement: Placement
    figures: dict[str, float] = field(default_factory=dict)
    """Figures measured so far; `Result` describes their names."""

    def connect(self, viewers: int, *, small: bool = False) -> None:
        """Connect and subscribe more viewers; `small`: with small receive buffers. Raises RuntimeError."""
        before = self.cpu("gateway")
        operation = f"connect {viewers} {CONCURRENCY} {2048 if small else 0} subscribed {CONNECT_TIMEOUT_S}"
        report = self.load.do(operation, CONNECT_TIMEOUT_S + 10)
        if report["unsubscribed"]:
            raise RuntimeError(f"{report['unsubscribed']} of {viewers} viewers could not connect: {report['problem']}")
        self.figures["connect_us"] = 1e6 * (self.cpu("gateway") - before) / viewers
        self.figures["connect_p99_ms"] = report["connected"]["p99"]
        self.load.do(f"wait {self.running.settle}")

    def start(self, rate: float, seconds: float, prefill: int = 0) -> None:
        """Start `rate` tokens a second per stream, and wait for the warm-up."""
        self.load.do(f"start {rate} {prefill}")
        self.load.do(f"wait {min(WARM_UP_S, seconds)}")

    def cpu(self, role: str) -> float:
        """Return the CPU seconds of a role's processes."""
        return accounting.cpu(self.running.processes)[role]

    def memory(self, role: str = "gateway") -> int:
        """Return the memory of a role's processes in bytes."""
        return accounting.memory(self.running.processes[role])

    def measure(self, seconds: float) -> dict[str, Any]:
        """Measure for `seconds`, add the figures, and return the report of the load generator.

        `gateway_us` is CPU per delivered token; other roles are per published token.
        """
        running = self.running
        measured = "gateway" if "gateway" in running.processes else "worker"
        counted = running.counters()
        load_before = self.load.do(f"measure {seconds}")
        before, started = accounting.cpu(running.processes), time.monotonic()
        waited = accounting.cpu_wait(running.processes[measured])
        report = self.load.second_report(seconds + 30.0)
        after, ended = accounting.cpu(running.processes), time.monotonic()
        waited = accounting.cpu_wait(running.processes[measured]) - waited
        counters = running.counters()
        spent = ended - started
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

    def finish(self, mix: str, within: float = DRAIN_TIMEOUT_S) -> Result:
        """Stop publishing, wait until all viewers have all tokens, and return the result."""
        report = self.load.do(f"drain {within}", within + 30)
        found = faults(report)
        if self.running.publisher.begin:
            # Contenders with their own clock: the number of sent tokens is unknown.
            found.pop("missing", None)
        return Result(mix, self.contender, self.figures, found, report["problem"] if found else "")


def faults(report: Mapping[str, Any]) -> dict[str, int]:
    """Return the non-zero fault counts of a report."""
    return {name: int(report[name]) for name in FAULTS if report[name]}


@contextmanager
def placement(machine: Machine) -> Iterator[Placement]:
    """Create the placement of one run; its folder is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tokenwire-bench-"))
    try:
        yield Placement(machine.server, machine.load, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def session(contender: Contender, machine: Machine, streams: int, tokens: int) -> Iterator[Session]:
    """Start a contender with `streams` streams of at most `tokens` tokens and the load generator; stop both at exit.

    Raises the errors of `Contender.start` and `Load`. The first figure is the current canary.
    """
    canary = accounting.canary(machine.cpus)
    with placement(machine) as placed:
        running = contender.start(placed, streams)
        try:
            load = Load(running, tokens, machine.load)
            try:
                yield Session(contender.name, running, load, placed, {"canary": canary})
            finally:
                load.close()
        finally:
            running.close()
