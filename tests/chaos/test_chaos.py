"""Short form of `make chaos`: 30 schedules with real processes. No answer is lost, duplicated or stuck."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.core_coverage import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.live

SEED = 1000
SCHEDULES = 30
DEPLOYMENTS = 4


# A minute on two idle cores; the timeout only detects a hang.
@pytest.mark.timeout(900)
def test_thirty_schedules_find_no_violation(tmp_path: Path) -> None:
    result = tmp_path / "chaos.json"
    # A separate process, as with `make chaos`.
    command = [sys.executable, "-m", "tests.chaos", "--seed", str(SEED), "--schedules", str(SCHEDULES)]
    done = subprocess.run(
        [*command, "--deployments", str(DEPLOYMENTS), "--json", str(result), "--quiet"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0
    report = json.loads(result.read_text())
    assert report["schedules"] == SCHEDULES
    assert report["tokens"] > 10_000
    assert report["faults"] > 3 * SCHEDULES
    assert not any(report["verdicts"].values())
