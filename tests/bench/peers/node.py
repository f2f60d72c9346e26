"""What the Node peers share: their packages, and starting one of their servers.

The packages are those of `package-lock.json`, none younger than a week when it was made. They are installed when a
Node peer is first asked for, into a folder of the user's cache that is named after the lock file, without running any
package's scripts. None of them needs one: the native add-ons of `ws` are for what clients send.
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
    from ..contender import Place

HERE = Path(__file__).parent
OLDEST = 20
"""The major version of Node that the newest of the packages asks for."""

INSTALL_WITHIN = 300.0


@functools.cache
def missing() -> str | None:
    """Why Node peers can not run here, and what to do. Installs their packages where they are not in the cache yet."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return f"no node and npm: install Node {OLDEST} or newer (nodejs and npm)"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        return f"Node {version} is too old: install Node {OLDEST} or newer"
    try:
        _install(npm)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or "").splitlines()
        reason = next((line for line in said if line.startswith("npm error")), str(error))
        return f"npm could not install the packages of {HERE / 'package-lock.json'}: {reason}"
    return None


def installed() -> bool:
    """Whether the packages are in the cache."""
    return _packages().exists()


def start(script: str, port: int, place: Place, *words: str) -> processes.Process:
    """Run the script of a peer with `words`, and return when it listens on `port`.

    Raises RuntimeError with what it said where it does not, or where `missing` gives a reason.
    """
    reason = missing()
    if reason is not None:
        raise RuntimeError(reason)
    # A module finds packages in the folders above its own.
    (place.folder / "node_modules").symlink_to(_packages())
    copy = shutil.copy(HERE / script, place.folder)
    output = place.folder / f"{Path(script).stem}.log"
    process = processes.start(["node", str(copy), *words], place.server, output, {"NODE_ENV": "production"})
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
        subprocess.run(command, cwd=work, capture_output=True, text=True, check=True, timeout=INSTALL_WITHIN)
        folder.mkdir(exist_ok=True)
        try:
            (Path(work) / "node_modules").rename(packages)
        except OSError:
            # Another run may have installed them meanwhile.
            if not installed():
                raise
