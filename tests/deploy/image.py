"""Builds the image of a Dockerfile without a container engine: each COPY and RUN runs in a folder that is its root.

The base image is emulated by this machine's system programs, libraries and Python, mounted read-only. Mounts and chroot
need root.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CACHE: Final = Path.home() / ".cache"
PYTHON: Final = Path(sys.base_prefix).resolve()
SYSTEM: Final = [Path("/") / name for name in ("bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "usr")]
LINKS: Final = [path for path in SYSTEM if path.is_symlink()]
MOUNTS: Final = [*(path for path in SYSTEM if path.is_dir() and not path.is_symlink()), PYTHON]
COMMANDS: Final = Path("/base/bin")
"""Folder of a stage with the command `python`, which the base image has, and a system's Python may lack."""

BASE_PATH: Final = f"{PYTHON}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{COMMANDS}"


@dataclass(frozen=True, slots=True)
class Instruction:
    """A Dockerfile instruction, with continuation lines joined."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """Return the arguments: of the JSON form, or split like a shell does."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)


def parse(dockerfile: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile in order."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def context(folder: Path) -> Iterator[Path]:
    """Yield the files of the build context, relative to `folder`. The last matching line of .dockerignore decides."""
    rules = [line for line in (folder / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def sent(path: Path) -> bool:
        kept = True
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            for part in (path, *path.parents[:-1]):
                name = part.name if "**/" in rule else str(part)
                if fnmatch.fnmatchcase(name, pattern) and (part.parent == Path() or pattern != "*"):
                    kept = rule.startswith("!")
        return kept

    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return (path for name in tracked.split("\0") if name and sent(path := Path(name)) and (folder / path).is_file())


@dataclass
class Image:
    """A built stage: its root folder and the configuration of its process."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)

    def argv(
        self,
        words: list[str],
        *,
        user: str | None = None,
        writable: bool = False,
        cache: tuple[Path, str] | None = None,
    ) -> list[str]:
        """Return the command that runs `words` in the image: as its user, in a mount namespace, on a read-only root.

        `cache`: a folder of this machine and its path in the image.
        """
        uid, _, gid = (user or self.user).partition(":")
        root = self.root
        script = "set -e\n"
        for path in MOUNTS:
            script += f"mount --rbind {path} {root}{path}\n"
            if str(path) not in ("/dev", "/proc"):
                script += f"mount -o remount,bind,ro {root}{path}\n"
        if cache is not None:
            script += f"mkdir -p {cache[0]} {root}{cache[1]}; mount --bind {cache[0]} {root}{cache[1]}\n"
        if not writable:
            script += f"mount --rbind {root} {root}; mount -o remount,bind,ro {root}\n"
        drop = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs"]
        inside = [*drop, "--inh-caps=-all", "--bounding-set=-all", "--", "env", "-C", self.folder, *words]
        script += f"exec chroot {root} {shlex.join(inside)}"
        return ["unshare", "--mount", "sh", "-c", script]

    def run(self, text: str, index: Mapping[str, str]) -> None:
        """Run a RUN instruction as root. Raises RuntimeError with its output if it fails."""
        cached = re.match(r"--mount=type=cache,target=(\S+)\s+", text)
        script = text[cached.end() :] if cached else text
        cache = (CACHE, cached[1]) if cached else None
        done = subprocess.run(
            self.argv(["sh", "-c", script], user="0:0", writable=True, cache=cache),
            env={**self.environment, "HOME": "/root", **index},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{text}\n{done.stdout}{done.stderr}")


def build(dockerfile: Path, source: Path, folder: Path, index: Mapping[str, str]) -> Image:
    """Build a Dockerfile with the context `source` in `folder` and return its last stage.

    `index`: environment variables that configure the package index of this machine.
    """
    stages: dict[str, Image] = {}
    image = Image(folder)
    for step in parse(dockerfile.read_text()):
        words = [] if step.name in ("RUN", "HEALTHCHECK", "CMD") else step.words
        if step.name == "FROM":
            name = words[2] if len(words) > 2 else "final"
            image = stages[name] = Image(folder / name)
            _create_root(image.root)
        elif step.name == "ARG":
            name, _, value = words[0].partition("=")
            image.arguments[name] = value
        elif step.name == "ENV":
            for word in words:
                name, _, value = word.partition("=")
                image.environment[name] = value.replace("$PATH", image.environment["PATH"])
        elif step.name == "LABEL":
            image.labels |= dict(word.split("=", 1) for word in words)
        elif step.name == "WORKDIR":
            image.folder = words[0]
            _inside(image, words[0]).mkdir(parents=True, exist_ok=True)
        elif step.name == "COPY":
            _copy(image, words, stages, source)
        elif step.name == "RUN":
            image.run(step.text, index)
        elif step.name == "USER":
            image.user = words[0]
        elif step.name == "ENTRYPOINT":
            image.entry = words
        elif step.name == "CMD":
            image.command = step.words
        elif step.name == "HEALTHCHECK":
            image.health = json.loads(step.text[step.text.index("CMD") + 3 :])
        elif step.name != "EXPOSE":
            raise NotImplementedError(step.name)
    return image


def _create_root(root: Path) -> None:
    """Create the root folder of a stage: mount points, links and empty folders."""
    for path in (*MOUNTS, Path("/root"), Path("/tmp")):
        (root / path.relative_to("/")).mkdir(parents=True, exist_ok=True)
    for path in LINKS:
        (root / path.relative_to("/")).symlink_to(path.readlink())
    commands = root / COMMANDS.relative_to("/")
    commands.mkdir(parents=True)
    (commands / "python").symlink_to(PYTHON / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")


def _inside(image: Image, path: str) -> Path:
    return image.root / (Path(image.folder) / path).relative_to("/")


def _copy(image: Image, words: list[str], stages: dict[str, Image], source: Path) -> None:
    *options, target = words
    if options[0].startswith("--from="):
        origin = stages[options.pop(0).removeprefix("--from=")]
        for name in options:
            # Hard links are safe: no later step changes these files.
            shutil.copytree(origin.root / name[1:], _inside(image, target), symlinks=True, copy_function=os.link)
        return
    for path in context(source):
        if options == ["."] or str(path) in options:
            copy = _inside(image, target) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / path, copy)
