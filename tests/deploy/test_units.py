"""The units of systemd: read by systemd itself, as tight as it can tell, with the time that a drain takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.settings import Settings
from tests.core_coverage import ROOT

DEPLOY: Final = ROOT / "deploy"
UNITS: Final = sorted((DEPLOY / "systemd").glob("*.service"))
MOST_EXPOSED: Final = 2.0
"""Of 10, as `systemd-analyze security` counts; below 2 it says OK, and few services of a distribution are."""


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("there is no systemd-analyze on this machine")
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_reads_it(analyze: str, unit: Path, tmp_path: Path) -> None:
    # It looks for the program too, which a machine that only tests has elsewhere.
    program = Path(sys.executable).parent / "tokenwire"
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/tokenwire/bin/tokenwire", str(program)))
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_it_may_do_little_but_serve(analyze: str, unit: Path) -> None:
    done = subprocess.run([analyze, "security", "--offline=true", str(unit)], capture_output=True, text=True)
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) < MOST_EXPOSED, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_it_has_the_time_that_a_drain_takes(unit: Path) -> None:
    directives = dict(re.findall(r"^(\w+)=(.+)$", unit.read_text(), re.MULTILINE))
    assert int(directives["TimeoutStopSec"]) >= Settings.model_fields["drain"].default + 10
    assert int(directives["LimitNOFILE"]) >= 16_384


def test_every_setting_that_is_named_in_deploy_is_one() -> None:
    settings = {f"TOKENWIRE_{name.upper()}" for name in Settings.model_fields}
    for file in sorted(DEPLOY.rglob("*")):
        if file.is_file():
            named = set(re.findall(r"\bTOKENWIRE_[A-Z][A-Z_]*[A-Z]\b", file.read_text()))
            assert named <= settings, file


@pytest.mark.parametrize("page", sorted(DEPLOY.rglob("*.md")), ids=lambda page: str(page.relative_to(DEPLOY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}, (
                target
            )
