"""What the client of a transport has not taken yet, and for how long it has acknowledged nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

if sys.platform == "linux":
    import fcntl
    import struct
    import termios
    from socket import IPPROTO_TCP, TCP_INFO

    _LAST_ACK_AT = 56
    """Where `tcpi_last_ack_recv` is in the `tcp_info` of the kernel (linux/tcp.h): milliseconds, 32 bits."""

    _BYTES_ACKED_AT = 120
    """Where `tcpi_bytes_acked` is: 64 bits."""

    def _bytes_acknowledged(socket: Any, unsent: int) -> int:
        """Return the bytes of a TCP connection that its peer acknowledged."""
        info = socket.getsockopt(IPPROTO_TCP, TCP_INFO, _BYTES_ACKED_AT + 8)
        # Kernels before 4.1 return less.
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED_AT)[0]) if len(info) == _BYTES_ACKED_AT + 8 else -unsent

    def _last_acknowledged(socket: Any) -> float:
        """Return the seconds since the peer of a TCP connection acknowledged anything."""
        info = socket.getsockopt(IPPROTO_TCP, TCP_INFO, _LAST_ACK_AT + 4)
        return float(struct.unpack_from("=I", info, _LAST_ACK_AT)[0]) / 1000

    def _kernel_queue(file: int) -> int:
        """Return the bytes of a TCP connection that its peer has not acknowledged; see tcp(7), SIOCOUTQ."""
        size = bytearray(4)
        fcntl.ioctl(file, termios.TIOCOUTQ, size)
        return int.from_bytes(size, sys.byteorder)

else:

    def _kernel_queue(file: int) -> int:
        """Return 0: only Linux tells. A client must then take a good part of its kernel buffer within the window."""
        return 0

    def _bytes_acknowledged(socket: Any, unsent: int) -> int:
        """Return a number that changes when the write buffer of this process does: only Linux tells more."""
        return -unsent

    def _last_acknowledged(socket: Any) -> float:
        """Return 0: only Linux tells. Elsewhere the kernel closes the connection after minutes."""
        return 0.0


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Return the bytes in the write buffer of this process and of the kernel.

    The kernel holds megabytes, so the write buffer of this process alone may not change for minutes.
    """
    unsent = transport.get_write_buffer_size()
    socket = transport.get_extra_info("socket")
    if socket is not None and not transport.is_closing():
        try:
            unsent += _kernel_queue(socket.fileno())
        except OSError:
            # No TCP: a Unix socket, behind a proxy.
            pass
    return unsent


def silence_s(transport: asyncio.Transport) -> float:
    """Return for how long the client has acknowledged nothing; 0 if all that was written is acknowledged."""
    socket = transport.get_extra_info("socket")
    if socket is None or transport.is_closing() or not unsent_bytes(transport):
        return 0.0
    try:
        return _last_acknowledged(socket)
    except OSError:
        # As above.
        return 0.0


def acknowledged_bytes(transport: asyncio.Transport) -> int:
    """Return the bytes that the client has acknowledged since it connected, or any number that changes with them."""
    socket, unsent = transport.get_extra_info("socket"), transport.get_write_buffer_size()
    if socket is None or transport.is_closing():
        return -unsent
    try:
        return _bytes_acknowledged(socket, unsent)
    except OSError:
        # As above.
        return -unsent
