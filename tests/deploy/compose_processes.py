"""Runs the services of a compose file as processes, with the commands, environments and health checks of the file.

Each service gets a loopback address instead of a container. Its name is replaced by this address wherever a port
follows. This module does the work of the engine: ordered start, health checks, stop with a grace period, restart.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.deploy.image import Instruction, parse
from tests.deploy.services import Service, fetch
from tests.stores import binary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ANY_ADDRESS: Final = "0.0.0.0"
UNIT_SECONDS: Final = {"s": 1.0, "m": 60.0}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Return the text of a compose file with each `${NAME:-default}` substituted."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda found: variables.get(found[1], found[2] or ""), text)


def seconds(duration: str) -> float:
    """Parse a duration such as `30s` or `1m`."""
    return float(duration[:-1]) * UNIT_SECONDS[duration[-1]]


@dataclass
class ComposeProcesses:
    """The services of a compose file as processes that a test starts, stops, kills and inspects."""

    file: Path
    folder: Path
    """Working folder: secrets, volumes and rewritten configuration files."""
    variables: dict[str, str]
    services: dict[str, dict[str, Any]] = field(init=False)
    running: dict[str, Service] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.document = yaml.safe_load(interpolate(self.file.read_text(), self.variables))
        self.services = self.document["services"]
        network = f"127.{random.randrange(64, 250)}.{random.randrange(1, 250)}"
        self.addresses = {name: f"{network}.{number}" for number, name in enumerate(self.services, 2)}
        self._image = [step for step in parse((self.file.parent / "Dockerfile").read_text()) if step.name != "ARG"]
        folder = self.folder / "secrets"
        subprocess.run(["sh", self.file.parent / "secrets.sh", folder], check=True, capture_output=True)
        for name, secret in self.document.get("secrets", {}).items():
            assert secret["file"] == f"./secrets/{name}"
            path = folder / name
            assert path.stat().st_mode & 0o777 == 0o400
            content = self.variables.get(name) or self._with_addresses(path.read_text())
            path.unlink()
            path.write_text(content)

    def localized(self, service: str, text: str) -> str:
        """Replace service names and container paths by the addresses and paths of this machine."""
        text = self._with_addresses(text).replace(ANY_ADDRESS, self.addresses[service])
        paths = {"/run/secrets": self.folder / "secrets"}
        for volume in self.services[service].get("volumes", []):
            source, target, *_ = volume.split(":")
            paths[target] = self.volume(service, source)
        targets = "|".join(map(re.escape, paths))
        return re.sub(rf"(?<![\w./-])({targets})(?=/|$)", lambda found: str(paths[found[1]]), text)

    def _with_addresses(self, text: str) -> str:
        """Replace each service name that is followed by a port with the service's address."""
        names = "|".join(map(re.escape, self.addresses))
        return re.sub(rf"(?<![\w.-])({names})(?=:\d)", lambda found: self.addresses[found[1]], text)

    def volume(self, service: str, source: str) -> Path:
        """Return the folder of a volume. Files of the project are copied, because they contain service names."""
        if not source.startswith("."):
            path = self.folder / "volumes" / source
            path.mkdir(parents=True, exist_ok=True)
            return path
        origin = (self.file.parent / source).resolve()
        target = self.folder / "files" / service / origin.name
        for path in [origin, *origin.rglob("*")]:
            copy = target / path.relative_to(origin)
            if path.is_file() and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(self._with_addresses(path.read_text()))
        return target

    def _instruction(self, name: str) -> Instruction:
        return [step for step in self._image if step.name == name][-1]

    def runs_image(self, name: str) -> bool:
        """Return whether a service runs the image of the Dockerfile."""
        return "build" in self.services[name]

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service: of the image, of the service, and of its env files."""
        service = self.services[name]
        given: dict[str, str] = {"PATH": os.environ["PATH"]}
        if self.runs_image(name):
            # ENV of the image's last stage, except PATH, which is this machine's.
            given |= {
                key: value
                for key, _, value in (word.partition("=") for word in self._instruction("ENV").words)
                if key != "PATH"
            }
        given |= service.get("environment", {})
        for file in service.get("env_file", []):
            assert file["required"] is False
            given |= dict(line.split("=", 1) for line in self.variables.get(file["path"], "").splitlines())
        return {key: self.localized(name, value) for key, value in given.items()}

    def argv(self, name: str) -> list[str]:
        """Return the command of a service, with this machine's program. Skips the test if the program is missing."""
        words = [self.localized(name, word) for word in self.services[name]["command"]]
        if self.runs_image(name):
            assert self._instruction("ENTRYPOINT").words == ["tokenwire"]
            return [sys.executable, "-m", "gateway", *words]
        program = {"valkey": binary("valkey"), "prometheus": shutil.which("prometheus")}.get(name) or shutil.which(
            words[0]
        )
        if program is None:
            pytest.skip(f"{name} is not installed")
        # These programs listen on all addresses by default; a container would have its own.
        if name == "valkey":
            return [program, *words[1:], "--bind", self.addresses[name], "--dir", str(self.volume(name, "valkey"))]
        if name == "prometheus":
            return [program, *words, f"--web.listen-address={self.addresses[name]}:9090"]
        return [program, *words[1:]]

    def start(self, *names: str, **environment: str) -> None:
        """Start services and wait until they are healthy. Fails if a dependency is not healthy."""
        for name in names:
            for dependency, terms in self.services[name].get("depends_on", {}).items():
                assert terms == {"condition": "service_healthy"}
                assert self.healthy(dependency), dependency
            if name in self.running:
                self.running[name].close()
            given = {**self.environment(name), **environment}
            self.running[name] = Service(self.argv(name), given, str(self.folder))
        for name in names:
            self.running[name].until(partial(self.healthy, name))

    def healthy(self, name: str) -> bool:
        """Run the health check of a service or its image; checks that use programs of the image are emulated."""
        if self.runs_image(name):
            check = self._instruction("HEALTHCHECK").text
            words = Instruction("CMD", check[check.index("CMD") + 3 :].strip()).words
            words = [sys.executable, *(word.replace("127.0.0.1", self.addresses[name]) for word in words[1:])]
            return subprocess.run(words, env=self.environment(name), capture_output=True).returncode == 0
        kind, *words = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        if words == ["valkey-cli", "ping"]:
            try:
                # Nothing else is sent: without a password only PING is allowed.
                with socket.create_connection((self.addresses[name], 6379), 1.0) as client:
                    client.sendall(b"PING\r\n")
                    return client.recv(64) == b"+PONG\r\n"
            except OSError:
                return False
        assert words[:-1] == ["wget", "--quiet", "--spider"]
        return fetch(words[-1].replace("127.0.0.1", self.addresses[name])) is not None

    def stop(self, name: str) -> int:
        """Stop a service with SIGTERM and return its exit status; fail if it outlives its `stop_grace_period`."""
        with self.running.pop(name) as service:
            return service.terminate(seconds(self.services[name]["stop_grace_period"]))

    def kill(self, name: str) -> None:
        """Send SIGKILL to a service."""
        self.running[name].kill()

    def close(self) -> None:
        """Kill all services."""
        for service in self.running.values():
            service.kill()
            service.close()
