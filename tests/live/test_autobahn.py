"""RFC 6455 by the cases of the Autobahn test suite, which `kosoku` runs against the protocol class of `/v1/ws`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from gateway import frame_budget
from tests.live import test_rfc6455
from tests.live.test_rfc6455 import echo, served

pytestmark = pytest.mark.live

KOSOKU: Final = Path(sys.executable).parent / "kosoku"

COMPRESSION: Final = ("12.*", "13.*")
"""Cases of per-message compression, which a gateway does not offer."""

OF_THE_LIBRARY: Final = {"7.1.5"}
"""A close frame within a fragmented message: `websockets` closes with 1002 instead of 1000."""

LATE: Final = {*("3.2", "3.3", "3.4"), *(f"4.{part}.{case}" for part in (1, 2) for case in (3, 4, 5)), "5.15"}
"""What is valid before an invalid frame of the same read is not answered; the suite calls that not strict."""

UTF8_AT_THE_END: Final = {f"6.4.{case}" for case in (1, 2, 3, 4)}
"""Text that is not UTF-8 is refused at the end of its message; the suite calls that not strict."""

LARGEST: Final = 1 << 24
"""The suite's largest message."""


async def test_cases_of_the_autobahn_suite_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(test_rfc6455, "LARGEST", LARGEST)
    # The cases send more frames at once than clients may.
    monkeypatch.setattr(frame_budget, "MAX_FRAMES_BEFORE_MESSAGE", 1 << 30)
    monkeypatch.setattr(frame_budget, "MAX_BURST_FRAMES", 1 << 30)
    async with served(Starlette(routes=[WebSocketRoute("/", echo)])) as port:
        excluded = [word for pattern in COMPRESSION for word in ("--exclude", pattern)]
        suite = await asyncio.create_subprocess_exec(
            *(str(KOSOKU), f"127.0.0.1:{port}", *excluded, "--outdir", str(tmp_path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await suite.communicate()
    (results,) = json.loads((tmp_path / "index.json").read_text()).values()
    assert len(results) > 290, printed
    by_behaviour: dict[str, set[str]] = {}
    for case, result in results.items():
        for behaviour in {result["behavior"], result["behaviorClose"]}:
            by_behaviour.setdefault(behaviour, set()).add(case)
    accepted = by_behaviour.pop("OK") | by_behaviour.pop("INFORMATIONAL")
    assert by_behaviour.pop("NON-STRICT", set()) <= LATE | UTF8_AT_THE_END
    assert set().union(*by_behaviour.values()) == OF_THE_LIBRARY, by_behaviour
    assert len(accepted) > 280
