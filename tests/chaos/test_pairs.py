"""The checker detects the absence of each protection, which shows that its checks can fail."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.core_coverage import ROOT

pytestmark = pytest.mark.live


@pytest.mark.timeout(900)
def test_each_missing_protection_is_detected() -> None:
    # The long form also plays these schedules with the protections; `test_chaos.py` covers similar ones.
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.pairs", "--without"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0
    assert "nothing" not in done.stdout
