"""`python -m tests`: every test. `make test` runs it after the checks of style, types and imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
WEB: Final = Path("web")
OLDEST_NODE: Final = 20


def header(name: str) -> None:
    """Say what comes."""
    print(f"\n==== {name} ====", flush=True)


def passes(name: str, *command: str) -> bool:
    """Run one step, between a header and a line with its duration."""
    header(name)
    begin = time.monotonic()
    passed = subprocess.run(command, cwd=ROOT).returncode == 0
    print(f"{name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - begin:.1f} s", flush=True)
    return passed


def web_passes() -> bool:
    """Run the checks and tests of the web side, where there is a node to run them, on the packages of its lock file."""
    name = "web tests"
    node, npm = shutil.which("node"), shutil.which("npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip() if node else "none"
    if node is None or npm is None or int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        header(name)
        print(f"{name}: SKIPPED: they need node {OLDEST_NODE} or newer and npm on PATH; there is {version}", flush=True)
        return True
    # npm notes in this file what it installed.
    installed, lock = ROOT / WEB / "node_modules" / ".package-lock.json", ROOT / WEB / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        if not passes("web set-up", npm, "ci", "--prefix", str(WEB)):
            return False
        installed.touch()
    # The tests start gateways of their own, with this Python.
    os.environ["TOKENWIRE_PYTHON"] = sys.executable
    checked = passes("web check", npm, "run", "--silent", "check", "--prefix", str(WEB))
    # Named one by one: what node makes of a folder depends on its version.
    files = sorted(str(file.relative_to(ROOT)) for file in (ROOT / WEB / "test").rglob("*.test.*js"))
    if not files:
        header(name)
        print(f"{name}: FAILED: there is no *.test.js in {WEB}/test/", flush=True)
        return False
    built = passes("web build", node, str(WEB / "build.js"), "--tests")
    return built and passes(name, node, "--test", *files) and checked


def main() -> int:
    """Run all steps, whatever becomes of one; pytest last, so that its closing line is the last one."""
    failed = []
    if not passes("core coverage", sys.executable, "-m", "tests.core_coverage"):
        failed.append("core coverage")
    if not web_passes():
        failed.append("web tests")
    header("pytest")
    # Tests marked `long` have a command of their own; pytest's closing line has the duration.
    suite = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "not long"], cwd=ROOT).returncode
    if failed:
        print(f"FAILED before pytest: {', '.join(failed)}", flush=True)
    return 1 if failed or suite else 0


if __name__ == "__main__":
    sys.exit(main())
