"""Checks and tests of web/: `python -m tests.web check` or `test`; `set-up` only installs the npm packages.

All need Node. Without it they are skipped with a message, because a gateway does not need Node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
WEB: Final = ROOT / "web"
MIN_NODE: Final = 20

CONCURRENCY: Final = 4
"""Test files that run at the same time. More than the cores, because browser tests mostly wait."""


def missing() -> str | None:
    """Return why web/ cannot be checked on this machine; None if it can."""
    node, npm = shutil.which("node"), shutil.which("npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip() if node else "none"
    if node is None or npm is None or int(version.removeprefix("v").partition(".")[0]) < MIN_NODE:
        return f"Node {MIN_NODE} or newer and npm must be on PATH; found {version}"
    return None


def install() -> bool:
    """Install the packages of the lock file unless they are up to date; return whether that succeeded."""
    # npm writes this file after each installation.
    installed, lock = WEB / "node_modules" / ".package-lock.json", WEB / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return True
    if not _succeeds("npm", "ci", "--prefix", str(WEB), "--no-audit", "--no-fund", "--loglevel", "error"):
        return False
    installed.touch()
    return True


def check() -> bool:
    """Check format, lint, types, import cycles, file sizes and whether served/ is up to date."""
    return _succeeds("npm", "run", "--silent", "check", "--prefix", str(WEB))


def test() -> bool:
    """Run all tests of web/. Browser tests are skipped without Chromium.

    `TOKENWIRE_DISCONNECTS=100` in the environment selects the long form of the tests with random disconnects.
    """
    # Explicit files, because Node versions differ in how they search a folder.
    files = sorted(str(file.relative_to(ROOT)) for file in (WEB / "test").rglob("*.test.*js"))
    if not files:
        print("web/test/ contains no *.test.js", flush=True)
        return False
    # The tests start gateways with this interpreter.
    os.environ["TOKENWIRE_PYTHON"] = sys.executable
    return _succeeds("node", str(WEB / "build.js"), "--tests") and _succeeds(
        "node", f"--test-concurrency={CONCURRENCY}", "--test", *files
    )


def _succeeds(program: str, *arguments: str) -> bool:
    return subprocess.run([shutil.which(program) or program, *arguments], cwd=ROOT).returncode == 0


def main() -> int:
    """Run the command of the first argument; return the exit status."""
    name = sys.argv[1]
    if reason := missing():
        print(f"web {name}: SKIPPED: {reason}", flush=True)
        return 0
    return 0 if install() and {"set-up": install, "check": check, "test": test}[name]() else 1


if __name__ == "__main__":
    sys.exit(main())
