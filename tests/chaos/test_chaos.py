"""The short form of `make chaos`: on this machine, with real processes, and nothing is lost, doubled or stuck."""

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
SCHEDULES = 60
HOUSES = 4


@pytest.mark.timeout(240)
def test_sixty_schedules(tmp_path: Path) -> None:
    result = tmp_path / "chaos.json"
    # A process of its own, as `make chaos` has.
    command = [sys.executable, "-m", "tests.chaos", "--seed", str(SEED), "--schedules", str(SCHEDULES)]
    done = subprocess.run(
        [*command, "--houses", str(HOUSES), "--json", str(result), "--quiet"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0
    came_to = json.loads(result.read_text())
    assert came_to["schedules"] == SCHEDULES
    assert came_to["tokens"] > 20_000
    assert came_to["faults"] > 3 * SCHEDULES
    assert not any(came_to["verdicts"].values())
