"""`python -m tests.quick`: the fast lane, an answer within a minute on two cores.

Unit and contract tests in two processes with few hypothesis examples; no test that starts processes of the product.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
STORES: Final = "memory,embedded"
"""Kinds of stores on which the store contract runs here; all kinds run in `make test`."""

LEFT_OUT: Final = (
    "tests/deploy",
    "tests/gateway/streams/store/test_cluster.py",
    "tests/gateway/streams/store/test_sentinel.py",
)


def main() -> int:
    """Run the fast lane; return pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "not live and not long"]
    environment = {**os.environ, "TOKENWIRE_HYPOTHESIS": "quick", "TOKENWIRE_TEST_STORES": STORES}
    left_out = [f"--ignore={path}" for path in LEFT_OUT]
    return subprocess.run([*command, "tests", *left_out], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
