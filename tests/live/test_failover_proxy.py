"""`tokenwire run --gateways 2`: one port and two gateways behind it; the page may kill the one that serves it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.live.processes import Process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.live

WITHIN = 20.0


def gone(process: int) -> bool:
    """Return whether a process ends and its parent reaps it in time."""
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def asked(client: httpx2.Client) -> int:
    """Return the gateway that answers, possibly after a take-over."""
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            return int(client.get("/kill").json()["gateway"])
        except httpx2.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_page_kills_its_gateway_and_the_other_serves_it(tmp_path: Path) -> None:
    deployment = Process("run", f"embedded://{tmp_path}", "--gateways", "2", "--port", "0")
    try:
        url = deployment.announcement.split()[-1]
        with httpx2.Client(base_url=url, timeout=WITHIN) as client:
            first = asked(client)
            for origin in ({}, {"origin": "http://127.0.0.1:1"}, {"origin": "https://other.example"}):
                assert client.post("/kill", headers=origin).status_code == 403
            assert asked(client) == first
            killed = [first]
            for _ in range(3):
                with pytest.raises(httpx2.TransportError):
                    client.post("/kill", headers={"origin": url})
                assert gone(killed[-1])
                killed.append(asked(client))
            # The killed gateway is restarted as another process.
            assert len(set(killed)) == len(killed)
            assert client.get("/readyz").status_code == 200
        deployment.terminate()
        assert deployment.wait() == 0
        assert gone(killed[-1])
    finally:
        deployment.close()


def test_single_gateway_is_not_killable() -> None:
    gateway = Process("run", "memory://", "--port", "0")
    try:
        url = gateway.announcement.split()[-1]
        with httpx2.Client(base_url=url, timeout=WITHIN) as client:
            for answer in (client.get("/kill"), client.post("/kill", headers={"origin": url})):
                assert (answer.status_code, answer.content) == (204, b"")
            assert client.get("/healthz").status_code == 200
    finally:
        gateway.close()
