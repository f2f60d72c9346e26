"""gateway/LIMITS.md names every bound of the code, and each row names a test that exists."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

from tests.core_coverage import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = (ROOT / "gateway" / "LIMITS.md").read_text()
ROWS: Final = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| What")
]

NO_LIMIT: Final = {
    "MAX_DOUBLINGS",  # of a pause between retries
    "MAX_FAILURES",  # of processes at their start
    "MAX_NAME",  # of a column of `top`
    "MAX_INTERVAL_S",  # of batches
    "MAX_OVERLAP",  # of a search in text that is held anyway
    "MAX_PAUSE_S",
    "MAX_RETRY_PAUSE_S",
    "MAX_STARVED_INTERVALS",
    "MAX_CLOCK_DIFFERENCE_S",  # of the doctor
}
"""Constants that bound nothing that anybody outside can grow."""


def constants() -> Iterator[str]:
    """Return the bounds of the code as `module.NAME`."""
    for package in ("gateway", "workers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
                for target in targets:
                    if isinstance(target, ast.Name) and target.id.startswith("MAX_") and target.id not in NO_LIMIT:
                        yield f"{path.stem}.{target.id}"


def test_every_bound_of_the_code_is_listed() -> None:
    named = set(re.findall(r"`(\w+\.MAX_\w+)`", PAGE))
    assert sorted(set(constants()) - named) == []
    assert sorted(named - set(constants())) == []


def test_every_row_names_its_bound_and_a_test_that_exists() -> None:
    assert ROWS
    for row in ROWS:
        assert len(row) == 5, row
        assert all(row), row
        tests = re.findall(r"`((?:tests|web)/[\w/.]+)`", row[4])
        assert tests, row
        for test in tests:
            assert (ROOT / test).exists(), test


def test_a_test_of_each_row_imports_its_bounds() -> None:
    for row in ROWS:
        paths = [ROOT / test for test in re.findall(r"`((?:tests|web)/[\w/.]+)`", row[4])]
        words = {word for path in paths if path.is_file() for word in re.findall(r"\w+", path.read_text())}
        for module in re.findall(r"`(\w+)\.MAX_\w+`", " ".join(row)):
            assert module in words, (row[0], module)
