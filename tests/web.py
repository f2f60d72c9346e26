"""The web side: `python -m tests.web check` looks at types, sizes and built files, `python -m tests.web test` tests.

Nobody needs Node to run Tokenwire, so what needs it is skipped where there is none, and says so.
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

AT_ONCE: Final = 3
"""Test files that run at once: most of their time they wait for a browser, which waits for what it shows."""


def missing() -> str | None:
    """Why the web side can not be looked at here; None if it can."""
    node, npm = shutil.which("node"), shutil.which("npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip() if node else "none"
    if node is None or npm is None or int(version.removeprefix("v").partition(".")[0]) < MIN_NODE:
        return f"it needs node {MIN_NODE} or newer and npm on PATH; there is {version}"
    return None


def set_up() -> bool:
    """Install the packages of the lock file, unless they are; return whether they are now."""
    # npm notes in this file what it installed.
    installed, lock = WEB / "node_modules" / ".package-lock.json", WEB / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return True
    if not _succeeds("npm", "ci", "--prefix", str(WEB), "--no-audit", "--no-fund", "--loglevel", "error"):
        return False
    installed.touch()
    return True


def check() -> bool:
    """Whether the types are right, and what is built is small enough and no older than what it is built from."""
    return _succeeds("npm", "run", "--silent", "check", "--prefix", str(WEB))


def test() -> bool:
    """Run every test of the web side: in node, and in a browser where there is one."""
    # Named one by one: what node makes of a folder depends on its version.
    files = sorted(str(file.relative_to(ROOT)) for file in (WEB / "test").rglob("*.test.*js"))
    if not files:
        print("there is no *.test.js in web/test/", flush=True)
        return False
    # The tests start gateways of their own, with this Python.
    os.environ["TOKENWIRE_PYTHON"] = sys.executable
    return _succeeds("node", str(WEB / "build.js"), "--tests") and _succeeds(
        "node", f"--test-concurrency={AT_ONCE}", "--test", *files
    )


def _succeeds(program: str, *arguments: str) -> bool:
    return subprocess.run([shutil.which(program) or program, *arguments], cwd=ROOT).returncode == 0


def main() -> int:
    """Do what is asked for, where that can be done; return an exit status."""
    name = sys.argv[1]
    if reason := missing():
        print(f"web {name}: SKIPPED: {reason}", flush=True)
        return 0
    return 0 if set_up() and {"check": check, "test": test}[name]() else 1


if __name__ == "__main__":
    sys.exit(main())
