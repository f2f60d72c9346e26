"""What accepted sockets inherit, and what the gateway reads of them."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest

from gateway.process.listener import IDLE_PROBE_S, PROBE_INTERVAL_S, PROBES, listen
from gateway.transports.send_queue import silence_s, unsent_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads options of Linux")


def test_accepted_sockets_probe_idle_clients_and_have_no_limit_for_a_closed_window() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            option = accepted.getsockopt
            assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == IDLE_PROBE_S
            assert option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == PROBE_INTERVAL_S
            assert option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == PROBES
            # Else the kernel resets a client that reads slowly, whatever it acknowledges.
            assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


class Accepted(asyncio.Protocol):
    """The server's side of a connection."""

    def __init__(self) -> None:
        self.made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.made.set_result(transport)


async def test_silence_is_that_of_a_client_with_data_on_the_way() -> None:
    protocol = Accepted()
    with listen("127.0.0.1", 0) as listener:
        server = await asyncio.get_running_loop().create_server(lambda: protocol, sock=listener)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(server.sockets[0].getsockname())
            transport = await protocol.made
            assert silence_s(transport) == 0.0
            transport.write(b"x" * 1_000_000)
            assert unsent_bytes(transport) > 900_000
            async with asyncio.timeout(60):
                # The client acknowledges probes at intervals that double: some milliseconds pass without an answer.
                while not silence_s(transport):
                    await asyncio.sleep(0)
            assert silence_s(transport) < 60
            transport.abort()
            assert silence_s(transport) == 0.0
        server.close()
        await server.wait_closed()
