"""Half-open connections: no packet passes any more, and the sockets are freed.

Gateway and clients are in separate network namespaces, and the router between them drops all packets. Taking a link
down would not do: the kernel of the gateway would notice.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.live.client import Client
from tests.live.conftest import build
from tests.live.processes import Process
from tests.stores import RealServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

FREED_WITHIN_S: Final = 45.0
"""SILENT_WITHIN_S, and the interval of heartbeats, at which the gateway looks."""
GATEWAY, CLIENTS = "10.213.7.1", "10.213.8.1"
ESTABLISHED: Final = "01"

FOLLOW: Final = """
import asyncio, sys
from tests.live.client import Client

async def main():
    clients = [await Client(conversation).connect(sys.argv[1]) for conversation in sys.argv[2:]]
    for client in clients:
        await client.watches()
    print("following", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def run(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True, text=True)


class Network:
    """Three network namespaces: for the gateway, for the clients, and a router between them."""

    def __init__(self, stack: ExitStack) -> None:
        """Create them; `stack` removes them. Raises CalledProcessError without permission."""
        tag = secrets.token_hex(3)
        self.gateway, self._router, self.clients = (f"tw-{tag}-{end}" for end in "grc")
        for name in (self.gateway, self._router, self.clients):
            run("netns", "add", name)
            stack.callback(run, "netns", "delete", name)
            run("-n", name, "link", "set", "lo", "up")
        self._join(f"{tag}g", self.gateway, GATEWAY)
        self._join(f"{tag}c", self.clients, CLIENTS)
        run("netns", "exec", self._router, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _join(self, device: str, name: str, address: str) -> None:
        router = address.removesuffix("1") + "2"
        run(*f"link add {device}0 netns {name} type veth peer name {device}1 netns {self._router}".split())
        for place, end, own in ((name, "0", address), (self._router, "1", router)):
            run("-n", place, "address", "add", f"{own}/24", "dev", f"{device}{end}")
            run("-n", place, "link", "set", f"{device}{end}", "up")
        run("-n", name, "route", "add", "default", "via", router)

    def cut(self) -> None:
        """Drop every packet from now on, without a notification."""
        for address in (GATEWAY, CLIENTS):
            run("-n", self._router, "route", "add", "blackhole", f"{address}/32")


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` on this machine, which makes network namespaces")
    with ExitStack() as stack:
        try:
            made = Network(stack)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here ({error.stderr.strip()})")
        yield made


def connected(process: Process, port: int) -> int:
    """Return the number of open client sockets (proc_net_tcp in the documentation of the kernel)."""
    lines = Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
    sockets = [line.split()[1:4] for line in lines]
    return sum(own.endswith(f":{port:04X}") and state == ESTABLISHED for own, _, state in sockets)


async def test_half_open_connections_are_freed(network: Network, conversation: str) -> None:
    """Half of the clients are in mid-answer, the others idle: both are freed."""

    class Apart(Process):
        prefix = ("ip", "netns", "exec", network.gateway)

    with ExitStack() as stack:
        deployment = build(stack)
        deployment.worker()
        assert isinstance(deployment.server, RealServer)
        options = ("--host", GATEWAY, "--port", "0", "--auth", "none")
        gateway = stack.enter_context(Apart("gateway", deployment.server.socket_url, *options))
        port = int(gateway.announcement.rpartition(":")[2])
        url = f"ws://{GATEWAY}:{port}/v1/ws"
        followed = [conversation] * 5 + [f"{conversation}-idle"] * 5
        command = ["ip", "netns", "exec", network.clients, sys.executable, "-c", FOLLOW, url, *followed]
        followers = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(followers.kill)
        assert followers.stdout is not None
        assert await asyncio.to_thread(followers.stdout.readline) == b"following\n"
        assert connected(gateway, port) == len(followed)
        async with Client(conversation) as asker:
            await asker.connect(deployment.urls()[0])
            response = await asker.ask("/long 4000")
            await asker.shows(response)
            network.cut()
            begin = time.monotonic()
            async with asyncio.timeout(FREED_WITHIN_S):
                while connected(gateway, port):
                    await asyncio.sleep(0.1)
            print(f"{len(followed)} sockets were freed after {time.monotonic() - begin:.1f} s")
            await asker.stop(response)
            await asker.ended(response)
