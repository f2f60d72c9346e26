"""The services of a compose file, run by hand: the commands, environments, files and checks are the file's own.

A service has an address of the loopback network instead of a container, so its name is replaced by that wherever a port
follows; and what the engine would do, start in order, wait until healthy, stop with grace, start again, is done here.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
import yaml

from tests.deploy.image import Instruction, parse
from tests.deploy.services import Service, fetched
from tests.stores import binary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ANY: Final = "0.0.0.0"
SECONDS: Final = {"s": 1.0, "m": 60.0}


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """A compose file with its `${NAME:-default}` filled in."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda found: variables.get(found[1], found[2] or ""), text)


def seconds(duration: str) -> float:
    """`30s` or `1m`."""
    return float(duration[:-1]) * SECONDS[duration[-1]]


@dataclass
class Composed:
    """A deployment of which each service can be started, killed and looked at."""

    file: Path
    folder: Path
    """For secrets, volumes and what has to be rewritten."""
    variables: dict[str, str]
    services: dict[str, dict[str, Any]] = field(init=False)
    running: dict[str, Service] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.document = yaml.safe_load(interpolated(self.file.read_text(), self.variables))
        self.services = self.document["services"]
        network = f"127.{random.randrange(64, 250)}.{random.randrange(1, 250)}"
        self.addresses = {name: f"{network}.{number}" for number, name in enumerate(self.services, 2)}
        self._image = [step for step in parse((self.file.parent / "Dockerfile").read_text()) if step.name != "ARG"]
        for name, secret in self.document.get("secrets", {}).items():
            place = self.folder / "secrets" / name
            place.parent.mkdir(exist_ok=True)
            place.write_text(self.variables[name])
            assert secret["file"].startswith("./secrets/")

    def here(self, service: str, text: str) -> str:
        """What the service says, with the addresses and the files that it has on this machine."""
        text = self._named(text).replace(ANY, self.addresses[service])
        places = {"/run/secrets": self.folder / "secrets"}
        for volume in self.services[service].get("volumes", []):
            source, target, *_ = volume.split(":")
            places[target] = self.place(service, source)
        targets = "|".join(map(re.escape, places))
        return re.sub(rf"(?<![\w./-])({targets})(?=/|$)", lambda found: str(places[found[1]]), text)

    def _named(self, text: str) -> str:
        """A text with addresses in the place of services' names, wherever a port follows."""
        names = "|".join(map(re.escape, self.addresses))
        return re.sub(rf"(?<![\w.-])({names})(?=:\d)", lambda found: self.addresses[found[1]], text)

    def place(self, service: str, source: str) -> Path:
        """Where a volume lies; files of the project are copied, since they name services."""
        if not source.startswith("."):
            place = self.folder / "volumes" / source
            place.mkdir(parents=True, exist_ok=True)
            return place
        origin = (self.file.parent / source).resolve()
        place = self.folder / "files" / service / origin.name
        for path in [origin, *origin.rglob("*")]:
            copy = place / path.relative_to(origin)
            if path.is_file() and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(self._named(path.read_text()))
        return place

    def _of_image(self, name: str) -> Instruction:
        return [step for step in self._image if step.name == name][-1]

    def own(self, name: str) -> bool:
        """Whether a service runs our image."""
        return "build" in self.services[name]

    def environment(self, name: str) -> dict[str, str]:
        """The image's environment, the service's, and that of its files."""
        service = self.services[name]
        given: dict[str, str] = {"PATH": os.environ["PATH"]}
        if self.own(name):
            # The image's last stage alone; its path is that of this machine.
            given |= {
                key: value
                for key, _, value in (word.partition("=") for word in self._of_image("ENV").words)
                if key != "PATH"
            }
        given |= service.get("environment", {})
        for file in service.get("env_file", []):
            assert file["required"] is False
            given |= dict(line.split("=", 1) for line in self.variables.get(file["path"], "").splitlines())
        return {key: self.here(name, value) for key, value in given.items()}

    def argv(self, name: str) -> list[str]:
        """The service's command; the program is this machine's."""
        words = [self.here(name, word) for word in self.services[name]["command"]]
        if self.own(name):
            assert self._of_image("ENTRYPOINT").words == ["tokenwire"]
            return [sys.executable, "-m", "gateway", *words]
        program = {"valkey": binary("valkey"), "prometheus": shutil.which("prometheus")}.get(name) or shutil.which(
            words[0]
        )
        if program is None:
            pytest.skip(f"there is no {name} on this machine")
        # What the engine gives by a network: an address that nobody else listens on.
        if name == "valkey":
            return [program, *words[1:], "--bind", self.addresses[name], "--dir", str(self.place(name, "valkey"))]
        if name == "prometheus":
            return [program, *words, f"--web.listen-address={self.addresses[name]}:9090"]
        return [program, *words[1:]]

    def start(self, *names: str, **environment: str) -> None:
        """Start services that are ready to be, and wait until they are healthy."""
        for name in names:
            for other, terms in self.services[name].get("depends_on", {}).items():
                assert terms == {"condition": "service_healthy"}
                assert self.healthy(other), other
            if name in self.running:
                self.running[name].close()
            given = {**self.environment(name), **environment}
            self.running[name] = Service(self.argv(name), given, str(self.folder))
        for name in names:
            self.running[name].until(partial(self.healthy, name))

    def healthy(self, name: str) -> bool:
        """What the service's health check says, or the image's; a program that only its image has is stood in for."""
        if self.own(name):
            check = self._of_image("HEALTHCHECK").text
            words = Instruction("CMD", check[check.index("CMD") + 3 :].strip()).words
            words = [sys.executable, *(word.replace("127.0.0.1", self.addresses[name]) for word in words[1:])]
            return subprocess.run(words, env=self.environment(name), capture_output=True).returncode == 0
        kind, *words = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        if words == ["valkey-cli", "ping"]:
            try:
                with redis.Redis(self.addresses[name], 6379, socket_timeout=1.0) as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False
        assert words[:-1] == ["wget", "--quiet", "--spider"]
        return fetched(words[-1].replace("127.0.0.1", self.addresses[name])) is not None

    def stop(self, name: str) -> int:
        """Stop a service as the engine does; fails when its grace is over before it is."""
        with self.running.pop(name) as service:
            return service.terminate(seconds(self.services[name]["stop_grace_period"]))

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.running[name].kill()

    def close(self) -> None:
        """End everything, at once."""
        for service in self.running.values():
            service.kill()
            service.close()
