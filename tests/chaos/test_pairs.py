"""Without a protection the checker finds what that protects from: so it can fail."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.core_coverage import ROOT

pytestmark = pytest.mark.live


@pytest.mark.timeout(180)
def test_every_protection_is_missed_when_it_is_away() -> None:
    # With the protections the same runs are in the long form, and the like of them in `test_chaos.py`.
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
