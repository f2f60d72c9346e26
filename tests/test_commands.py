"""Every command in the documentation runs here, is run by a test that is named here, or has a reason why it is not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.core_coverage import ROOT
from tests.deploy.services import Service
from tests.stores import RealServer

PAGES: Final = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "deploy/README.md",
    "deploy/backends/README.md",
    "gateway/OPERATIONS.md",
    "gateway/SETTINGS.md",
    "tests/README.md",
    "workers/GENERATORS.md",
)

PROGRAMS: Final = re.compile(
    r"(?:[A-Z_]+=(?:'[^']*'|\S+) )*"
    r"(?:make|tokenwire|npm|node|pip|python|uvicorn|docker|helm|systemctl|opentelemetry-instrument) \S"
)
"""The start of a command inside a sentence."""

SERVES: Final = (
    ".venv/bin/python -m gateway run --gateways 2",
    """TOKENWIRE_MODELS='{"default": "python/my_module:generate"}' make run""",
    """TOKENWIRE_MODELS='{"default": "python/my_module:generate", "fast": "demo"}' tokenwire run""",
    "OPENAI_API_KEY=sk-... tokenwire run",
    """OPENAI_BASE_URL=http://127.0.0.1:11434/v1 TOKENWIRE_MODELS='{"default": "openai/llama3.2"}' tokenwire run""",
    """ANTHROPIC_API_KEY=sk-ant-... TOKENWIRE_MODELS='{"default": "anthropic/claude-sonnet-5-5"}' tokenwire run""",
    "tokenwire run",
    "tokenwire gateway",
    "tokenwire worker",
)
"""Commands that run until a signal. The test waits for the start line and sends SIGTERM."""

ENDS: Final = (
    "tokenwire --version",
    "tokenwire config",
    "tokenwire doctor",
    "tokenwire doctor --providers",
    "tokenwire top --json",
    "tokenwire widget",
    "tokenwire widget https://GATEWAY",
    "tokenwire widget https://chat.example.com",
)
"""Commands that end with status 0."""

SHELL: Final = (
    "echo OPENAI_API_KEY=... > deploy/worker.env && chmod 600 deploy/worker.env",
    "echo TOKENWIRE_OPERATOR_TOKEN=$(openssl rand -hex 16) > deploy/gateway.env && chmod 600 deploy/gateway.env",
    """install -D -m 400 /dev/stdin /etc/tokenwire/jwt_key <<< "$(openssl rand -hex 32)\"""",
    "install -D -m 600 /dev/stdin /etc/tokenwire/tokenwire.env <<< TOKENWIRE_STORE=redis://127.0.0.1:6379/0",
    "install -D -m 600 /dev/stdin /etc/tokenwire/worker-9101.env <<< OPENAI_API_KEY=...",
)
"""Lines that a shell runs in an empty folder; `/etc` is a folder in it."""

PYTEST: Final = (
    ".venv/bin/python -m pytest tests/gateway/test_hub.py",
    ".venv/bin/python -m pytest -k cursor tests/gateway",
)

ELSEWHERE: Final = {
    "tokenwire bench": "tests/bench/test_bench.py",
    "tokenwire doctor --providers": "tests/workers/test_provider_check.py",
    "tokenwire doctor --url https://CHAT.EXAMPLE": "tests/live/test_doctor.py",
    "tokenwire tail RESPONSE": "tests/live/test_command.py",
    "tokenwire top": "tests/live/test_live_page.py",
    "opentelemetry-instrument tokenwire gateway": "tests/live/test_trace.py",
    "python -m tests.generated": "tests/test_wire_types.py",
    "TOKENWIRE_JWT_KEY=... uvicorn fastapi_backend:app": "tests/deploy/test_backends.py",
    "TOKENWIRE_JWT_KEY=... node express_backend.cjs": "tests/deploy/test_backends.py",
    "sudo sh deploy/secrets.sh": "tests/deploy/test_compose.py",
    "cp deploy/systemd/*.service /etc/systemd/system/ && systemctl daemon-reload": "tests/deploy/test_units.py",
}
"""Commands that another test runs, or of which it runs the part that this machine can."""

NOT_RUN: Final = {
    "docker compose": "needs a container engine; tests/deploy/test_compose.py runs the services as processes",
    "docker stop": "needs a container engine",
    "helm upgrade": "needs a cluster; tests/deploy/test_chart.py renders the chart",
    "systemctl": "needs root and systemd",
    "python3 -m venv /opt/tokenwire": "needs root and downloads packages; tests/deploy/test_image.py does the same",
    "/opt/tokenwire/bin/pip install": "needs root; tests/deploy/test_image.py does the same",
    "pip install": "downloads packages; the samples use those of the lock",
    "npm install": "downloads packages; the samples use those of the lock",
    "npm run build": "writes web/served; `make web` compares these files with their sources",
    "node web/build.js": "writes web/served; `make web` compares these files with their sources",
}
"""Commands that no test runs, by their start, and why."""


def commands(page: str) -> list[str]:
    """Return the commands of a page: lines of blocks without a language, and code in sentences."""
    text = (ROOT / page).read_text()
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language:
            continue
        joined = re.sub(r"\\\n\s*|(?<=; do)\n\s*", " ", block).replace("\ndone", "; done")
        found += [
            re.sub(r"\s+#.*", "", line).strip()
            for line in joined.splitlines()
            if line.strip() and not line.startswith(" ")
        ]
    sentences = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found += [code for code in re.findall(r"`([^`\n]+)`", sentences) if PROGRAMS.match(code)]
    return found


COMMANDS: Final = sorted({command for page in PAGES for command in commands(page)})
HANDLED: Final = {*SERVES, *ENDS, *SHELL, *PYTEST, *ELSEWHERE}
MAKE: Final = [command for command in COMMANDS if command.startswith("make ")]


def environment(**variables: str) -> dict[str, str]:
    """Return an environment without settings, in which `tokenwire` is this checkout's."""
    foreign = ("TOKENWIRE_", "OPENAI_", "ANTHROPIC_", "MAKE")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    return {**clean, "PATH": path, "PYTHONUNBUFFERED": "1", **variables}


def words(command: str) -> tuple[list[str], dict[str, str]]:
    """Return the words of a command, and the variables in front of it."""
    parts = shlex.split(command)
    variables = {}
    while re.match(r"[A-Z_]+=", parts[0]):
        name, _, value = parts.pop(0).partition("=")
        variables[name] = value
    if parts == ["make", "run"]:
        # The rest of this target installs packages.
        parts = [".venv/bin/python", "-m", "gateway", "run"]
    parts[0] = parts[0].replace(".venv/bin/python", sys.executable)
    return parts, variables


def test_every_command_is_run_or_has_a_reason() -> None:
    left = [
        command
        for command in COMMANDS
        if command not in {*HANDLED, *MAKE}
        and not re.sub(r"^[A-Z]+=\S+ |^for .*?; do ", "", command).startswith(tuple(NOT_RUN))
    ]
    assert left == []


def test_every_listed_command_is_documented() -> None:
    assert HANDLED - set(COMMANDS) == set()
    for start in NOT_RUN:
        assert any(start in command for command in COMMANDS), start


@pytest.mark.parametrize("path", sorted(set(ELSEWHERE.values())))
def test_named_test_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("command", MAKE)
def test_make_target_exists(command: str) -> None:
    # A dry run: the targets are the checks and tests of which this is one.
    done = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", SHELL)
def test_shell_line_succeeds(command: str, tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    line = command.replace("/etc/", f"{tmp_path}/etc/")
    done = subprocess.run(["bash", "-ec", line], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 10]


@pytest.mark.live
@pytest.mark.parametrize("command", PYTEST)
def test_pytest_command_selects_tests(command: str) -> None:
    argv, variables = words(command)
    done = subprocess.run(
        [*argv, "--collect-only", "-q"], cwd=ROOT, env=environment(**variables), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.live
@pytest.mark.parametrize("command", SERVES)
def test_server_command_starts_and_shuts_down(command: str, tmp_path: Path) -> None:
    argv, variables = words(command)
    generator = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert generator is not None
    (tmp_path / "my_module.py").write_text(generator[1])
    with RealServer() as server:
        shared = environment(
            PYTHONPATH=str(ROOT),
            TOKENWIRE_PORT="0",
            TOKENWIRE_STORE=server.url,
            TOKENWIRE_DRAIN="1",
            # Without a key of a provider, the demo has to be chosen.
            TOKENWIRE_DEMO_RATE="40",
        )
        with Service(argv, {**shared, **variables}, str(tmp_path)) as process:
            process.until(lambda: any(line.startswith("Tokenwire") for line in list(process.output)))
            assert process.terminate(20.0) == 0, process.text


@pytest.mark.live
@pytest.mark.parametrize("command", ENDS)
def test_command_succeeds(command: str, tmp_path: Path) -> None:
    argv, variables = words(command)
    with RealServer() as server:
        shared = environment(TOKENWIRE_STORE=server.url, **variables)
        done = subprocess.run(argv, cwd=tmp_path, env=shared, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
