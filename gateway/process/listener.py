"""Listening sockets, and what accepted sockets inherit from them."""

from __future__ import annotations

import socket
from typing import Final

import click

IDLE_PROBE_S: Final = 10
PROBE_INTERVAL_S: Final = 5
PROBES: Final = 3
"""The kernel probes an idle client after IDLE_PROBE_S, and drops it after so many probes that it does not acknowledge.

A client that does not acknowledge data is disconnected by the gateway; see `gateway.write_progress`.
"""

SEND_BUFFER_BYTES: Final = 65_536
"""Send buffer of one client, which the kernel doubles. The default grows to megabytes, and backpressure would only be
noticed when they are full."""

BACKLOG: Final = 4096


def reserve(host: str, port: int, *, shared: bool = True, setting: str = "PORT") -> socket.socket:
    """Return a socket that is bound and does not listen; raises ClickException.

    `shared`: other processes may bind the same port, and the kernel distributes the connections (SO_REUSEPORT,
    socket(7)). `setting`: the one that names the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise click.ClickException(
            f"cannot listen on {host}:{port} ({error.strerror}): set TOKENWIRE_{setting} "
            f"(--{setting.lower().replace('_', '-')}) or TOKENWIRE_{setting.replace('PORT', 'HOST')}"
        ) from None
    return bound


def listen(host: str, port: int, *, shared: bool = False, setting: str = "PORT") -> socket.socket:
    """Return a listening socket whose accepted sockets probe idle clients; see `reserve`."""
    listener = reserve(host, port, shared=shared, setting=setting)
    # Accepted sockets inherit these options. Without them a client that vanished keeps its descriptor forever.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_PROBE_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
