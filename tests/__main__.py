"""`python -m tests`: every test. `make test` runs it after the checks of style, types and imports.

Most tests wait, for processes, sockets and browsers, so those of the web side run beside those of Python.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).parent.parent

SIDE_BY_SIDE: Final = 3
"""Processes that share the files of pytest's tests: with more of them, tests would wait for each other's load."""


def run_beside(output: IO[bytes]) -> list[str]:
    """Run what runs beside pytest, and keep what it prints; return the names of what failed."""
    failed = []
    for name, command in (
        ("core coverage", ("tests.core_coverage",)),
        ("web tests", ("tests.web", "test")),
    ):
        output.write(f"\n==== {name} ====\n".encode())
        output.flush()
        begin = time.monotonic()
        run = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        if run.returncode:
            failed.append(name)
        result = "FAILED" if run.returncode else "passed"
        output.write(f"{name}: {result} in {time.monotonic() - begin:.1f} s\n".encode())
    return failed


def run_pytest() -> list[str]:
    """Run the tests of Python, but those marked `long`, which have a command of their own; it prints as it goes."""
    # A file stays together, because its tests share a deployment.
    options = ("-q", "-m", "not long", "-n", str(SIDE_BY_SIDE), "--dist", "loadfile", "--no-loadscope-reorder")
    passed = subprocess.run([sys.executable, "-m", "pytest", *options], cwd=ROOT).returncode == 0
    return [] if passed else ["pytest"]


def main() -> int:
    """Run everything, whatever becomes of a part of it; return an exit status."""
    with tempfile.TemporaryFile() as output, ThreadPoolExecutor() as pool:
        beside = pool.submit(run_beside, output)
        failed = run_pytest() + beside.result()
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout.buffer)
    print(f"\nFAILED: {', '.join(failed)}" if failed else "\neverything passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
