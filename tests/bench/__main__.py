"""Command line of the benchmark: run mixes, print tables, write JSON (`python -m tests.bench --help`).

`python -m tests.bench report FILE` prints the tables of a JSON file; `report FILE README.md` writes them into the page.
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
from .rounds import combinations, run_rounds
from .run import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK: Final = (3, 4.0, 20 * 60.0)
FULL: Final = (7, 10.0, 4 * 3600.0)
"""Rounds; measured seconds per run; seconds after which no new run starts."""


def options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="tokenwire bench", description="Measure the CPU cost of a delivered token.")
    parser.add_argument(
        "mixes",
        nargs="*",
        metavar="MIX",
        help=f"mixes to run, or their first letters; default: all of {' '.join(m.name for m in MIXES)}",
    )
    parser.add_argument("--rounds", type=int, help=f"number of rounds (default {QUICK[0]})")
    parser.add_argument("--seconds", type=float, help=f"measured seconds per run (default {QUICK[1]:g})")
    parser.add_argument("--contenders", help="comma-separated contenders, or `all`; each mix has default contenders")
    parser.add_argument("--full", action="store_true", help="run every contender in every mix; takes several hours")
    parser.add_argument("--fit", action="store_true", help="add mixes (S...) as data points of the cost model")
    parser.add_argument("--json", type=Path, help="file for all results")
    parser.add_argument("--server-cpu", type=int, default=0, help="CPU of the measured process, reserved for it")
    parser.add_argument("--load-cpu", type=int, default=1, help="CPU of all other processes")
    parser.add_argument("--no-disk", action="store_true", help="run the store without an append-only file")
    return parser.parse_args(arguments)


def machine_facts() -> dict[str, Any]:
    """Return the facts about this machine that the results depend on."""
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
    """Return why the benchmark cannot run on this machine; None if it can."""
    if sys.platform != "linux":
        return "the benchmark needs Linux: it uses epoll, CPU affinity and /proc"
    if {given.server_cpu, given.load_cpu} - os.sched_getaffinity(0) or given.server_cpu == given.load_cpu:
        return "the benchmark needs two CPUs: choose them with --server-cpu and --load-cpu"
    try:
        build()
    except LoadError as error:
        return str(error)
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 if a run of the product was not exact or failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["report"]:
        return _report(*map(Path, arguments[1:]))
    given = options(arguments)
    known = contenders(durable=not given.no_disk)
    offered = (*MIXES, *SWEEP) if given.fit else MIXES
    chosen = [mix for mix in offered if not given.mixes or mix.name in given.mixes or mix.name[0] in given.mixes]
    if unknown := [name for name in given.mixes if not any(name in (mix.name, mix.name[0]) for mix in offered)]:
        sys.exit(f"unknown mix {' '.join(unknown)}: choose from {' '.join(mix.name for mix in offered)}")
    run_all = given.full or given.contenders == "all"
    names = list(known) if run_all else given.contenders.split(",") if given.contenders else None
    if names and (unknown_contenders := set(names) - set(known)):
        sys.exit(f"unknown contender {' '.join(sorted(unknown_contenders))}: choose from {' '.join(known)}")
    if problem := unable(given):
        sys.exit(problem)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = {name for mix in chosen for name in names or mix.default_contenders}
    for name, contender in known.items():
        # Only for wanted contenders: this check installs the packages of the Node peers.
        if name in wanted and (problem := contender.missing()):
            print(f"skipped: {name}: {problem}", flush=True)
    rounds, seconds, within = FULL if given.full else QUICK
    rounds, seconds = given.rounds or rounds, given.seconds or seconds
    facts = machine_facts()
    runs = combinations(chosen, known, names)
    # Mixes named on the command line run all their rounds.
    all_rounds = bool(given.full or given.mixes)
    count = sum(1 if mix.single_round and not all_rounds else rounds for mix, _ in runs)
    print(f"{report.describe(facts)}\n{count} runs in {rounds} rounds, {seconds:g} s measured in each", flush=True)
    columns = {mix.name: mix.columns for mix in chosen}
    seen: list[Result] = []

    def on_result(result: Result, spent: float) -> None:
        seen.append(result)
        print(report.short(result, columns[result.mix], spent, fastest(seen)), flush=True)
        if given.json:
            _write(given.json, seen, facts, seconds)

    machine = Machine(frozenset((given.server_cpu,)), frozenset((given.load_cpu,)))
    # The measured process has its CPU for itself.
    os.sched_setaffinity(0, machine.load)
    results = run_rounds(
        chosen,
        known,
        names,
        machine,
        rounds=rounds,
        seconds=seconds,
        within=within,
        all_rounds=all_rounds,
        on_result=on_result,
    )
    if len(results) < count:
        print(f"time limit reached after {len(results)} of {count} runs")
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
        sys.exit(f"{page} has no markers for the results: <!-- results --> and <!-- end of results -->")
    measured = f"Measured {stored['when']}, {stored['seconds']:g} s in each run.\n"
    page.write_text(f"{before}{begin}{measured}" + "\n".join(lines) + f"\n{end}{after}")
    return 0


def _lines(results: list[Result], facts: dict[str, Any]) -> Iterator[str]:
    # Mixes of the sweep are data points of the model; they get no tables.
    yield from report.tables(results, {mix.name: mix for mix in MIXES})
    yield ""
    yield from report.targets(results)
    yield from report.model(results)
    yield ""
    yield f"Machine: {report.describe(facts)}."


if __name__ == "__main__":
    sys.exit(main())
