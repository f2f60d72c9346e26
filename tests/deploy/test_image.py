"""The image: its build steps run without a container engine, and the result answers a question."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.core_coverage import ROOT
from tests.deploy.image import Image, build, context, parse
from tests.deploy.services import Service, fetch
from tests.live.client import Client
from tests.stores import RealServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
INDEX: Final = {
    name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_", "HTTP", "http"))
}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("the build steps need root and unshare, for a mount namespace")
    with tempfile.TemporaryDirectory(prefix="tw-image-") as name:
        folder = Path(name)
        # The image's user needs access.
        folder.chmod(0o755)
        yield build(DOCKERFILE, ROOT, folder, INDEX)


def environment(image: Image, metrics: int, **settings: str) -> dict[str, str]:
    """Return the image's environment with the metrics on a free loopback port."""
    given = {"TOKENWIRE_METRICS_HOST": "127.0.0.1", "TOKENWIRE_METRICS_PORT": str(metrics)}
    return {**image.environment, **given, **settings}


def healthy(image: Image, given: dict[str, str]) -> bool:
    """Return whether the image's health check succeeds."""
    return subprocess.run(image.argv(image.health), env=given, capture_output=True).returncode == 0


@pytest.mark.live
@pytest.mark.timeout(900)
async def test_image_answers_without_root_on_read_only_filesystem(image: Image) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [{"0.0.0.0": "127.0.0.1"}.get(word, word) for word in image.command]
    with RealServer() as server:
        work = environment(image, free_port(), TOKENWIRE_STORE=server.url, TOKENWIRE_DEMO_RATE="400")
        serve = environment(image, free_port(), TOKENWIRE_STORE=server.url, TOKENWIRE_PORT=str(port))
        serve["TOKENWIRE_OPERATOR_TOKEN"] = "test-operator-token"
        with (
            Service(image.argv([*image.entry, "worker"]), work) as worker,
            Service(image.argv([*image.entry, *command]), serve) as gateway,
        ):
            worker.until(lambda: healthy(image, work))
            gateway.until(lambda: healthy(image, serve) and fetch(f"{url}/readyz"))
            async with Client("c-image") as client:
                await client.connect(f"ws://127.0.0.1:{port}/v1/ws")
                response = await client.ask("Does it work?")
                answer = await client.ended(response)
                assert answer.reason == "complete"
                assert answer.text == await client.settled(response)
            # The image contains the pages and the widget.
            for page in ("/", "/live/"):
                assert "tokenwire" in (fetch(f"{url}{page}") or "").lower()
            assert fetch(f"{url}/widget.js")
            assert gateway.terminate(20.0) == 0, gateway.text
            assert worker.terminate(20.0) == 0, worker.text
            assert not healthy(image, serve)
            assert not healthy(image, work)


@pytest.mark.live
@pytest.mark.timeout(900)
def test_final_stage_contains_no_build_tools(image: Image) -> None:
    programs = {path.name for path in (image.root / "opt/tokenwire/bin").iterdir()}
    assert "tokenwire" in programs
    assert not programs & {"pip", "pip3", "uv", "hatchling", "cc", "gcc"}
    assert not (image.root / "source").exists()


def test_image_labels_match_project_metadata() -> None:
    steps = parse(DOCKERFILE.read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = dict(word.split("=", 1) for step in steps if step.name == "LABEL" for word in step.words)
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert labels["org.opencontainers.image.title"] == project["name"]
    (user,) = [step.text for step in steps if step.name == "USER"]
    assert all(int(part) > 0 for part in user.split(":"))


def test_build_context_is_what_the_wheel_needs() -> None:
    sent = {str(path) for path in context(ROOT)}
    tops = {path.split("/")[0] for path in sent}
    assert {"gateway/cli/main.py", "workers/pool.py", "requirements.lock", "requirements-build.lock"} <= sent
    assert tops == {
        *("LICENSE", "README.md", "gateway", "pyproject.toml", "workers", "web", "tests"),
        *("requirements-build.lock", "requirements.lock"),
    }
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["sources"]) < set(wheel["only-include"])
    for folder in wheel["only-include"]:
        assert any(path.startswith(f"{folder}/") for path in sent), f".dockerignore excludes {folder}"
    assert not [path for path in sent if path.startswith("tests/") and not path.startswith("tests/bench/")]


def test_dockerfile_passes_hadolint() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint is not installed: make tools")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
