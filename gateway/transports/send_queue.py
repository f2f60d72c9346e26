"""How much of what was written to a transport its client has not taken yet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

if sys.platform == "linux":
    import fcntl
    import termios

    def _kernel_queue(file: int) -> int:
        """Return the bytes of a TCP connection that its peer has not acknowledged; see tcp(7), SIOCOUTQ."""
        size = bytearray(4)
        fcntl.ioctl(file, termios.TIOCOUTQ, size)
        return int.from_bytes(size, sys.byteorder)

else:

    def _kernel_queue(file: int) -> int:
        """Return 0: only Linux tells. A client must then take a good part of its kernel buffer within the window."""
        return 0


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
