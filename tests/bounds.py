"""`python -m tests.bounds newest | oldest`: the quick tests and one real answer on other versions of the dependencies.

`newest` resolves to the highest versions that `pyproject.toml` allows, without the lock; `oldest` to the lowest. Each
has its own environment below .venv, so that the locked one stays as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
RESOLUTIONS: Final = {"newest": "highest", "oldest": "lowest-direct"}


def main(name: str) -> int:
    """Resolve, install and test; return the exit status."""
    environment = ROOT / ".venv" / name
    python = environment / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    # Tools are not what is tested: they stay at the locked versions.
    tools = [
        item for item in groups["dev"] if item.startswith(("coverage", "hypothesis", "jsonschema", "pytest", "pyyaml"))
    ]
    steps = [
        [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)],
        [*uv, "pip", "install", "--quiet", "--python", str(python), "--resolution", RESOLUTIONS[name], "."],
        [*uv, "pip", "install", "--quiet", "--python", str(python), *tools, "import-linter", "opentelemetry-sdk"],
        [*uv, "pip", "list", "--python", str(python)],
        [str(python), "-m", "tests.quick"],
        [str(python), "-m", "pytest", "-q", "tests/live/test_command.py", "-k", "run_answers"],
    ]
    for step in steps:
        print("$", " ".join(step[1:]), flush=True)
        if status := subprocess.run(step, cwd=ROOT, env={**os.environ, "TOKENWIRE_HYPOTHESIS": "quick"}).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
