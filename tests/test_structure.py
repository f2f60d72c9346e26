"""Structure of the code: core modules are synchronous, packages import nothing, each import contract can fail."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.core_coverage import CORE, ROOT, source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS: Final[dict[str, dict[str, Any]]] = {
    contract["id"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]
}


def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def test_core_contract_lists_modules_with_own_coverage() -> None:
    assert sorted(CONTRACTS["core"]["source_modules"]) == sorted(CORE)


@pytest.mark.parametrize("module", CORE)
def test_core_module_is_synchronous(module: str) -> None:
    asynchronous = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    for node in ast.walk(parsed(source_of(module))):
        assert not isinstance(node, asynchronous), f"line {node.lineno}"
        assert not (isinstance(node, ast.comprehension) and node.is_async)


@pytest.mark.parametrize("module", CORE)
def test_core_module_docstring_starts_with_a_sentence(module: str) -> None:
    first = (ast.get_docstring(parsed(source_of(module))) or "").partition("\n")[0]
    assert first.endswith((".", ":"))
    assert first[:1].isupper()
    assert len(first.split()) > 3


PACKAGES: Final = ("", "streams/", "streams/store/", "feed/", "transports/", "operations/", "process/", "cli/")


@pytest.mark.parametrize("package", [f"gateway/{package}__init__.py" for package in PACKAGES])
def test_package_init_contains_only_a_docstring(package: str) -> None:
    (only,) = parsed(Path(package)).body
    assert isinstance(only, ast.Expr)
    assert isinstance(only.value, ast.Constant)


def public_coroutines() -> Iterator[tuple[str, str]]:
    """Yield the place and the docstring of every public coroutine of the product."""
    for package in ("gateway", "workers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for owner in ast.walk(ast.parse(path.read_text())):
                if isinstance(owner, (ast.Module, ast.ClassDef)) and not getattr(owner, "name", "").startswith("_"):
                    for node in owner.body:
                        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
                            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", ast.get_docstring(node) or ""


def test_public_coroutines_document_cancellation() -> None:
    missing = [
        place
        for place, docstring in public_coroutines()
        # An override refers to the method that it overrides.
        if "cancel" not in docstring.lower() and not docstring.startswith("See ")
    ]
    assert missing == []


WORKER_IMPORTS: Final = """
import sys
import gateway.cli.worker, workers.providers.demo
print(sorted({name.partition(".")[0] for name in sys.modules} & {"starlette", "uvicorn", "jwt", "websockets"}))
"""


def test_a_worker_starts_without_an_http_server() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", WORKER_IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


LEASE_PROCESS_IMPORTS: Final = """
import sys
import workers.lease_process
heavy = {"starlette", "uvicorn", "jwt", "websockets", "openai", "anthropic", "pydantic", "httpx", "aiohttp", "click"}
print(sorted({name.partition(".")[0] for name in sys.modules} & heavy))
"""


def test_a_lease_process_starts_without_servers_and_clients_of_providers() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", LEASE_PROCESS_IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


TRANSPORT_METHODS: Final = ("writelines", "write_eof", "pause_reading", "resume_reading", "set_write_buffer_limits")
"""Methods of a transport that raise under uvloop when it is closed, as `write` does."""

OWN_WRAPPERS: Final = ("safe_writes", "super")


def unsafe_calls(source: str) -> list[str]:
    """Return the uses of a transport's methods, as lines and expressions, that do not go through `safe_writes`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            is_transport = "transport" in owner.lower() or owner.lower().endswith("writer")
            if owner not in OWN_WRAPPERS and (
                node.attr in TRANSPORT_METHODS or (node.attr == "write" and is_transport)
            ):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("package", ["gateway", "workers"])
def test_transports_are_written_through_safe_writes(package: str) -> None:
    """Under uvloop a call on a closed transport raises, and ends the loop or the task that made it."""
    unsafe = {
        str(path.relative_to(ROOT)): calls
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "safe_writes.py" and (calls := unsafe_calls(path.read_text()))
    }
    assert unsafe == {}


@pytest.mark.parametrize(
    "line",
    [
        "self._transport.write(b'x')",
        "write = transport.write",
        "writer.write(b'x')",
        "a.b.writelines([])",
        "loop.call_later(1, connection.resume_reading)",
        "socket.pause_reading()",
        "x.set_write_buffer_limits(1, 2)",
        "self.transport.write_eof()",
    ],
)
def test_unsafe_call_of_a_transport_is_detected(line: str) -> None:
    assert unsafe_calls(line)


@pytest.mark.parametrize("line", ["safe_writes.write(transport, b'x')", "self._socket.write(batch)", "file.write('x')"])
def test_other_write_is_no_call_of_a_transport(line: str) -> None:
    assert not unsafe_calls(line)


def check_contracts(folder: Path, contract: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(
        [*command, "--contract", contract] if contract else command, cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the packages that the contracts cover."""
    for package in ("gateway", "workers"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


VIOLATIONS: Final = [
    ("packages", "gateway/feed/feed.py", "from workers import pool"),
    ("worker-imports", "workers/batch.py", "from gateway import auth"),
    ("worker-imports", "workers/batch.py", "import gateway.wire"),
    ("gateway", "gateway/wire.py", "from gateway import hub"),
    ("gateway", "gateway/submissions.py", "from gateway.feed import feed"),
    ("gateway", "gateway/feed/feed.py", "from gateway.transports import websocket"),
    ("gateway", "gateway/unplaced.py", ""),
    ("transports", "gateway/transports/websocket.py", "from gateway.transports import http_api"),
    ("transports", "gateway/transports/unplaced.py", ""),
    ("feed", "gateway/feed/loader.py", "from gateway.feed import reconciler"),
    ("feed", "gateway/feed/unplaced.py", ""),
    ("operations", "gateway/operations/fleet.py", "from gateway.operations import live_page"),
    ("operations", "gateway/operations/unplaced.py", ""),
    ("process", "gateway/process/logs.py", "from gateway.process import server"),
    ("process", "gateway/process/unplaced.py", ""),
    ("cli", "gateway/cli/options.py", "from gateway.cli import main"),
    ("cli", "gateway/cli/unplaced.py", ""),
    ("streams", "gateway/streams/keys.py", "from gateway.streams import response_log"),
    ("streams", "gateway/streams/unplaced.py", ""),
    ("store", "gateway/streams/store/errors.py", "from gateway.streams.store import store"),
    ("store", "gateway/streams/store/unplaced.py", ""),
    ("workers", "workers/overlap.py", "from workers import batch"),
    ("workers", "workers/unplaced.py", ""),
    ("providers", "workers/providers/demo.py", "from workers.providers import python"),
    ("providers", "workers/providers/unplaced.py", ""),
    ("core", "workers/overlap.py", "import time"),
    ("core", "gateway/session.py", "from asyncio import sleep"),
    ("core", "gateway/replica.py", "import redis.asyncio"),
    # Indirect imports are detected too.
    ("core", "gateway/replica.py", "from gateway.streams import history_log"),
]


@pytest.mark.parametrize(("contract", "file", "line"), VIOLATIONS)
def test_contract_detects_violation(project: Path, contract: str, file: str, line: str) -> None:
    with (project / file).open("a") as module:
        module.write(f"\n{line}\n")
    checked = check_contracts(project, contract)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert "0 kept, 1 broken" in checked.stdout


def test_contracts_hold_and_each_has_a_violation(project: Path) -> None:
    checked = check_contracts(project)
    assert checked.returncode == 0, checked.stdout
    assert {contract for contract, _, _ in VIOLATIONS} == set(CONTRACTS)
