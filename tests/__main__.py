"""`python -m tests`: every test. `make test` runs it after the checks of style, types and imports."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests import web

ROOT: Final = Path(__file__).parent.parent


def header(name: str) -> None:
    """Say what comes."""
    print(f"\n==== {name} ====", flush=True)


def passes(name: str, *command: str) -> bool:
    """Run one step, between a header and a line with its duration."""
    header(name)
    begin = time.monotonic()
    passed = subprocess.run(command, cwd=ROOT).returncode == 0
    print(f"{name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - begin:.1f} s", flush=True)
    return passed


def web_passes() -> bool:
    """Run the tests of the web side, where there is a node to run them."""
    name = "web tests"
    header(name)
    if reason := web.missing():
        print(f"{name}: SKIPPED: {reason}", flush=True)
        return True
    begin = time.monotonic()
    passed = web.set_up() and web.test()
    print(f"{name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - begin:.1f} s", flush=True)
    return passed


def main() -> int:
    """Run all steps, whatever becomes of one; pytest last, so that its closing line is the last one."""
    failed = []
    if not passes("core coverage", sys.executable, "-m", "tests.core_coverage"):
        failed.append("core coverage")
    if not web_passes():
        failed.append("web tests")
    header("pytest")
    # Tests marked `long` have a command of their own; pytest's closing line has the duration.
    suite = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "not long"], cwd=ROOT).returncode
    if failed:
        print(f"FAILED before pytest: {', '.join(failed)}", flush=True)
    return 1 if failed or suite else 0


if __name__ == "__main__":
    sys.exit(main())
