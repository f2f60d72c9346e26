"""python -m tests.bench [MIX ...]: start, measure and compare; print tables, write JSON. `--help` says how.

`python -m tests.bench report FILE` prints the tables of a JSON file again; `report FILE README.md` puts them there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import report
from .contenders import contenders
from .load import LoadError, build
from .mixes import MIXES, SWEEP
from .result import Result, fastest
from .rounds import pairs, play
from .run import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK: Final = (3, 4.0, 20 * 60.0)
FULL: Final = (7, 10.0, 4 * 3600.0)
"""Rounds, seconds that a run is measured, seconds after which no run begins."""


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tokenwire bench", description="What a delivered token costs.")
    parser.add_argument(
        "mixes", nargs="*", metavar="MIX", help=f"which mixes; all of {' '.join(m.name for m in MIXES)}"
    )
    parser.add_argument("--rounds", type=int, help=f"how often each is run ({QUICK[0]})")
    parser.add_argument("--seconds", type=float, help=f"for which a run is measured ({QUICK[1]:g})")
    parser.add_argument("--contenders", help="which, with commas between, or `all`; each mix has its own by default")
    parser.add_argument("--full", action="store_true", help="every contender in every mix, for some hours")
    parser.add_argument("--fit", action="store_true", help="further mixes (S...), to fit the cost model to")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument("--server-cpu", type=int, default=0, help="what is measured runs there, and nothing else")
    parser.add_argument("--load-cpu", type=int, default=1, help="all else runs there")
    parser.add_argument("--no-disk", action="store_true", help="the store keeps no append-only file")
    return parser.parse_args(arguments)


def machine_facts() -> dict[str, Any]:
    """What a reader has to know of this machine."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpus": f"{os.cpu_count()} x {models[0].partition(': ')[2] if models else platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "uvicorn": metadata.version("uvicorn"),
        "uvloop": metadata.version("uvloop"),
        "hiredis": metadata.version("hiredis"),
    }


def unable(given: argparse.Namespace) -> str | None:
    """Why there can be no benchmark here; None where there can."""
    if sys.platform != "linux":
        return "the benchmark needs Linux: epoll, CPU affinity and /proc are what it measures with"
    if {given.server_cpu, given.load_cpu} - os.sched_getaffinity(0) or given.server_cpu == given.load_cpu:
        return "the benchmark needs two CPUs: choose them with --server-cpu and --load-cpu"
    try:
        build()
    except LoadError as error:
        return str(error)
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 1 when the product was not exact, or could not be measured."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["report"]:
        return _report(*map(Path, arguments[1:]))
    given = options(arguments)
    known = contenders(durable=not given.no_disk)
    offered = (*MIXES, *SWEEP) if given.fit else MIXES
    chosen = [mix for mix in offered if not given.mixes or mix.name in given.mixes or mix.name[0] in given.mixes]
    if unknown := [name for name in given.mixes if not any(name in (mix.name, mix.name[0]) for mix in offered)]:
        sys.exit(f"there is no mix {' '.join(unknown)}: choose from {' '.join(mix.name for mix in offered)}")
    every = given.full or given.contenders == "all"
    names = list(known) if every else given.contenders.split(",") if given.contenders else None
    if names and (strange := set(names) - set(known)):
        sys.exit(f"there is no contender {' '.join(sorted(strange))}: choose from {' '.join(known)}")
    if problem := unable(given):
        sys.exit(problem)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = {name for mix in chosen for name in names or mix.beside}
    for name, contender in known.items():
        # Asking is not always free: the Node peers install their packages when they are wanted.
        if name in wanted and (problem := contender.missing()):
            print(f"skipped: {name}: {problem}", flush=True)
    rounds, seconds, within = FULL if given.full else QUICK
    rounds, seconds = given.rounds or rounds, given.seconds or seconds
    facts = machine_facts()
    runs = pairs(chosen, known, names)
    # Who names mixes wants all their rounds.
    patient = bool(given.full or given.mixes)
    count = sum(1 if mix.long and not patient else rounds for mix, _ in runs)
    print(f"{report.describe(facts)}\n{count} runs in {rounds} rounds, {seconds:g} s measured in each", flush=True)
    columns = {mix.name: mix.columns for mix in chosen}
    seen: list[Result] = []

    def say(result: Result, spent: float) -> None:
        seen.append(result)
        print(report.short(result, columns[result.mix], spent, fastest(seen)), flush=True)
        if given.json:
            _write(given.json, seen, facts, seconds)

    machine = Machine(frozenset((given.server_cpu,)), frozenset((given.load_cpu,)))
    # What is measured has its CPU to itself.
    os.sched_setaffinity(0, machine.load)
    results = play(
        chosen, known, names, machine, rounds=rounds, seconds=seconds, within=within, patient=patient, say=say
    )
    if len(results) < count:
        print(f"the time was over after {len(results)} of {count} runs")
    print("\n".join(_lines(results, facts)))
    return 0 if all(result.exact for result in results if result.contender.startswith("tokenwire")) else 1


def _write(path: Path, results: list[Result], facts: dict[str, Any], seconds: float) -> None:
    stored = {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": facts,
        "seconds": seconds,
        "results": [result.as_json() for result in results],
    }
    path.write_text(json.dumps(stored, indent=1))


def _report(path: Path, page: Path | None = None) -> int:
    stored = json.loads(path.read_text())
    results = [Result(**each) for each in stored["results"]]
    lines = list(_lines(results, stored["machine"]))
    if page is None:
        print("\n".join(lines))
        return 0
    text = page.read_text()
    before, begin, rest = text.partition("<!-- results -->\n")
    _, end, after = rest.partition("<!-- end of results -->\n")
    if not begin or not end:
        sys.exit(f"{page} has no place for results: <!-- results --> and <!-- end of results -->")
    said = f"Measured {stored['when']}, {stored['seconds']:g} s in each run.\n"
    page.write_text(f"{before}{begin}{said}" + "\n".join(lines) + f"\n{end}{after}")
    return 0


def _lines(results: list[Result], facts: dict[str, Any]) -> Iterator[str]:
    # Those of the sweep are points of the model and no tables.
    yield from report.tables(results, {mix.name: mix for mix in MIXES})
    yield ""
    yield from report.musts(results)
    yield from report.model(results)
    yield ""
    yield f"Machine: {report.describe(facts)}."


if __name__ == "__main__":
    sys.exit(main())
