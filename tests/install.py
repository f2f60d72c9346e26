"""`python tests/install.py LOCK`: install the packages of a lock file with pip, and show the progress on one line.

It runs before any package is installed, so it imports only the standard library.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main(lock: str) -> int:
    """Install; return pip's exit status. The output of pip is printed only where it fails."""
    total = sum("==" in line and not line.startswith((" ", "#")) for line in Path(lock).read_text().splitlines())
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    process = subprocess.Popen([*command, "-r", lock], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    live = sys.stdout.isatty()
    print(f"Installing {total} packages of {lock} into {sys.prefix}", flush=True)
    output, count = [], 0
    for line in process.stdout:
        output.append(line)
        if line.startswith(("Collecting", "Requirement already", "Ignoring")):
            count += 1
            if live or count % 25 == 0:
                print(f"  {count} of {total} packages", end="\r" if live else "\n", flush=True)
        elif line.startswith("Installing collected"):
            print("  unpacking" + " " * 20, flush=True)
    status = process.wait()
    if status:
        print("".join(output), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
