"""Calls of a transport that may be closed: uvloop raises where asyncio's own transports ignore the call.

An exception out of one write would end the loop over all viewers, or the subscription that made it. No other module
calls these methods; tests/test_structure.py enforces it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def write(transport: asyncio.WriteTransport, data: bytes | bytearray | memoryview) -> None:
    """Write to a transport; do nothing if it is closing or closed."""
    if not transport.is_closing():
        transport.write(data)


def pause_reading(transport: asyncio.ReadTransport) -> None:
    """Stop reading from a transport; do nothing if it is closing or closed."""
    if not transport.is_closing():
        transport.pause_reading()


def resume_reading(transport: asyncio.ReadTransport) -> None:
    """Continue reading from a transport; do nothing if it is closing or closed."""
    if not transport.is_closing():
        transport.resume_reading()


def write_eof(transport: asyncio.WriteTransport) -> None:
    """Close the sending side after the write buffer is flushed; do nothing if the transport is closing or closed."""
    if not transport.is_closing():
        transport.write_eof()


def set_write_buffer_limits(transport: asyncio.WriteTransport, high: int, low: int) -> None:
    """Set the sizes at which writing is paused and resumed; do nothing if the transport is closing or closed."""
    if not transport.is_closing():
        transport.set_write_buffer_limits(high, low)


def unchecked_write(transport: asyncio.WriteTransport) -> Callable[[bytes], None]:
    """Return the transport's own `write`, for the hot path: a check costs 40 ns for each viewer and token.

    The caller drops it in `connection_lost`. Until that has returned, a transport ignores writes after `abort`.
    """
    return transport.write
