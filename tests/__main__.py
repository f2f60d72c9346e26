"""`python -m tests`: every test. `make test` runs it after the checks, of which one runs core modules' tests alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

SIDE_BY_SIDE: Final = "3"
"""Processes that share the files of pytest's tests: more than two processors, since most tests wait for most of
their time. Beside the browsers of the web side they would not, and tests with a bound would fail."""


def passes(name: str, *command: str) -> bool:
    """Run one step, between a header and a line with its duration."""
    print(f"\n==== {name} ====", flush=True)
    begin = time.monotonic()
    passed = subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode == 0
    print(f"{name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - begin:.1f} s", flush=True)
    return passed


def main() -> int:
    """Run all steps, whatever becomes of one; pytest last, so that its closing line is the last one."""
    steps = {
        "web tests": ("tests.web", "test"),
        # Those marked `long` have a command of their own. A file stays together, because its tests share a deployment.
        "pytest": (
            *("pytest", "-q", "-m", "not long"),
            *("-n", SIDE_BY_SIDE, "--dist", "loadfile", "--no-loadscope-reorder"),
        ),
    }
    failed = [name for name, command in steps.items() if not passes(name, *command)]
    print(f"\nFAILED: {', '.join(failed)}" if failed else "\neverything passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
