"""Packages and process start of the Node peers.

The packages are pinned by `package-lock.json`; none was younger than a week at that time. They are installed when a
Node peer is first requested, into a cache folder named after the lock file, without running package scripts. No
script is needed: the native add-ons of `ws` only speed up frames from clients.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .. import processes

if TYPE_CHECKING:
    from ..contender import Placement

HERE = Path(__file__).parent
MIN_NODE_VERSION = 20
"""Minimum major version of Node for these packages."""

INSTALL_TIMEOUT_S = 300.0


@functools.cache
def missing() -> str | None:
    """Return why Node peers cannot run here and what to do. Installs the packages if they are not cached."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return f"node and npm are not installed: install Node {MIN_NODE_VERSION} or newer (nodejs and npm)"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < MIN_NODE_VERSION:
        return f"Node {version} is too old: install Node {MIN_NODE_VERSION} or newer"
    try:
        _install(npm)
    except (OSError, subprocess.SubprocessError) as error:
        output = str(getattr(error, "stderr", None) or "").splitlines()
        reason = next((line for line in output if line.startswith("npm error")), str(error))
        return f"npm cannot install the packages of {HERE / 'package-lock.json'}: {reason}"
    return None


def installed() -> bool:
    """Return whether the packages are cached."""
    return _packages().exists()


def start(script: str, port: int, placement: Placement, *words: str) -> processes.Process:
    """Start the script of a peer with `words`; return when it listens on `port`.

    Raises RuntimeError with its output if it does not, or with the reason of `missing`.
    """
    reason = missing()
    if reason is not None:
        raise RuntimeError(reason)
    # Node searches packages in the folders above a module.
    (placement.folder / "node_modules").symlink_to(_packages())
    copy = shutil.copy(HERE / script, placement.folder)
    output = placement.folder / f"{Path(script).stem}.log"
    process = processes.start(["node", str(copy), *words], placement.server, output, {"NODE_ENV": "production"})
    process.until(lambda: processes.listens(port))
    return process


def _packages() -> Path:
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tokenwire-bench" / f"node-{lock}" / "node_modules"


def _install(npm: str) -> None:
    if installed():
        return
    packages = _packages()
    folder = packages.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, work)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
        subprocess.run(command, cwd=work, capture_output=True, text=True, check=True, timeout=INSTALL_TIMEOUT_S)
        folder.mkdir(exist_ok=True)
        try:
            (Path(work) / "node_modules").rename(packages)
        except OSError:
            # Another run may have installed them in the meantime.
            if not installed():
                raise
