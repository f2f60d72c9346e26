"""Installed peers deliver every token; missing peers name what to install."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from ..load import compiler
from ..mixes.fan_out import FanOut
from ..run import Machine
from . import node, peers, programs

if TYPE_CHECKING:
    from ..contender import Contender

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmark needs Linux"),
]

PEERS = peers(durable=False)


def named(name: str) -> Contender:
    return next(peer for peer in PEERS if peer.name == name)


@pytest.mark.skipif(compiler() is None, reason="the load generator needs a C compiler")
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_viewer_receives_every_token(peer: Contender) -> None:
    if peer.name in ("ws", "socketio") and not node.installed():
        pytest.skip("packages are not installed: run `python -m tests.bench A20 --contenders ws`")
    if reason := peer.missing():
        pytest.skip(reason)
    cpus = frozenset(os.sched_getaffinity(0))
    result = FanOut("tiny", 2, 10, 50).run(peer, Machine(cpus, cpus), 1.0)
    assert result.exact, result.problem
    assert result.figures["tokens_per_s"] > 0


@pytest.mark.parametrize(("name", "package"), [("nchan", "libnginx-mod-nchan"), ("nats", "nats-server")])
def test_missing_server_names_its_package(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setattr(programs, "find", lambda program: None)
    assert package in (named(name).missing() or "")


def test_missing_node_is_reported_without_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    node.missing.cache_clear()
    try:
        assert "install Node" in (named("ws").missing() or "")
    finally:
        node.missing.cache_clear()
