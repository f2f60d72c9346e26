"""`python -m tests.core_coverage`: each core module is covered, branches too, by its own tests alone.

A module that needs other modules' tests to be covered has a decision that nobody stated where it is made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PROCESSES: Final = 2

CORE: Final = {
    "gateway.admission": "tests/gateway/test_admission.py",
    "gateway.auth": "tests/gateway/test_auth.py",
    "gateway.burst": "tests/gateway/test_burst.py",
    "gateway.departure": "tests/gateway/test_departure.py",
    "gateway.fleet": "tests/gateway/test_fleet.py",
    "gateway.hub": "tests/gateway/test_hub.py",
    "gateway.replica": "tests/gateway/test_replica.py",
    "gateway.session": "tests/gateway/test_session.py",
    "gateway.streams.events": "tests/gateway/streams/test_events.py",
    "gateway.streams.keys": "tests/gateway/streams/test_keys.py",
    "gateway.streams.records": "tests/gateway/streams/test_records.py",
    "gateway.top": "tests/gateway/test_top.py",
    "gateway.streams.topology": "tests/gateway/streams/test_topology.py",
    "gateway.turns": "tests/gateway/test_turns.py",
    "gateway.wheel": "tests/gateway/test_wheel.py",
    "gateway.wire": "tests/gateway/test_wire.py",
    "workers.attempt": "tests/workers/test_attempt.py",
    "workers.batch": "tests/workers/test_batch.py",
    "workers.history": "tests/workers/test_history.py",
    "workers.providers.event_stream": "tests/workers/test_event_stream.py",
    "workers.seam": "tests/workers/test_seam.py",
}
"""The core modules of the house, each with its tests."""


def source_of(module: str) -> Path:
    """The file of a module, from the root of the repository on."""
    return Path(*module.split(".")).with_suffix(".py")


def problem(module: str) -> str | None:
    """What is wrong with a module's coverage, if anything is."""
    tests, source = CORE[module], source_of(module)
    if not (ROOT / tests).exists():
        return f"{source}: there is no {tests}"
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder, "data"), Path(folder, "report.json")
        run = _run(
            *("coverage", "run", "--branch", f"--source={module}", f"--data-file={data}"),
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", tests),
        )
        if run.returncode:
            return f"{source}: {tests} fails\n{run.stdout}{run.stderr}"
        _run("coverage", "json", "-q", f"--data-file={data}", "-o", str(report)).check_returncode()
        files = json.loads(report.read_text())["files"]
    measured = files.get(str(source))
    if measured is None:
        return f"{source}: {tests} does not import it"
    lines = [str(line) for line in measured["missing_lines"]]
    # A negative line is a function that is left.
    lines += [f"{start} to {end if end > 0 else 'the end'}" for start, end in measured["missing_branches"]]
    return f"{source}: {tests} does not reach line {', '.join(lines)}" if lines else None


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Few examples: what is to be covered has to be covered by what a test states, not by luck.
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "TOKENWIRE_HYPOTHESIS": "quick"},
        capture_output=True,
        text=True,
    )


def main() -> int:
    """Print a line for each module; return the number of those that are not covered."""
    failures = 0
    with ThreadPoolExecutor(PROCESSES) as pool:
        for module, found in zip(CORE, pool.map(problem, CORE), strict=True):
            print(found or f"{source_of(module)}: covered", flush=True)
            failures += found is not None
    print(f"{len(CORE) - failures} of {len(CORE)} core modules are covered by their own tests", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
