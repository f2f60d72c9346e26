"""`python -m tests`: every test except the long forms. `make test` runs the checks first, then this."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

PROCESSES: Final = "4"
"""Of pytest. More than two cores, because most tests wait most of the time; see gateway/decisions/0048."""


def passes(name: str, *command: str) -> bool:
    """Run one step; print a header and its duration. Return whether it passed."""
    print(f"\n==== {name} ====", flush=True)
    begin = time.monotonic()
    passed = subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode == 0
    print(f"{name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - begin:.1f} s", flush=True)
    return passed


def main() -> int:
    """Run all steps, also after a failure. pytest is last, so that its summary is the last output."""
    steps = {
        "web tests": ("tests.web", "test"),
        # The tests of a file share a deployment, so a file stays in one process.
        "pytest": (
            *("pytest", "-q", "-m", "not long"),
            *("-n", PROCESSES, "--dist", "loadfile", "--no-loadscope-reorder"),
        ),
    }
    failed = [name for name, command in steps.items() if not passes(name, *command)]
    print(f"\nFAILED: {', '.join(failed)}" if failed else "\nall steps passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
