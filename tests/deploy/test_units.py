"""The systemd units: verified and rated by systemd, with enough time for a drain."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.cli.settings import Settings
from tests.core_coverage import ROOT

DEPLOY: Final = ROOT / "deploy"
UNITS: Final = sorted((DEPLOY / "systemd").glob("*.service"))
MAX_EXPOSURE: Final = 2.0
"""Out of 10, as `systemd-analyze security` rates; below 2 it prints OK."""


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_is_verified_by_systemd(analyze: str, unit: Path, tmp_path: Path) -> None:
    # systemd-analyze also checks that the program exists.
    program = Path(sys.executable).parent / "tokenwire"
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/tokenwire/bin/tokenwire", str(program)))
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_exposure_is_below_limit(analyze: str, unit: Path) -> None:
    done = subprocess.run([analyze, "security", "--offline=true", str(unit)], capture_output=True, text=True)
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) < MAX_EXPOSURE, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_stop_timeout_covers_drain(unit: Path) -> None:
    directives = dict(re.findall(r"^(\w+)=(.+)$", unit.read_text(), re.MULTILINE))
    assert int(directives["TimeoutStopSec"]) >= Settings.model_fields["drain"].default + 10
    assert int(directives["LimitNOFILE"]) >= 16_384


def test_every_setting_named_in_deploy_exists() -> None:
    settings = {f"TOKENWIRE_{name.upper()}" for name in Settings.model_fields}
    for file in sorted(DEPLOY.rglob("*")):
        if file.is_file():
            named = set(re.findall(r"\bTOKENWIRE_[A-Z][A-Z_]*[A-Z]\b", file.read_text()))
            assert named <= settings, file


@pytest.mark.parametrize("page", sorted(DEPLOY.rglob("*.md")), ids=lambda page: str(page.relative_to(DEPLOY)))
def test_every_link_has_a_target(page: Path) -> None:
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
