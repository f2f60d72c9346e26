"""Frames that go out together, and their bytes on a WebSocket: made once, whoever and however many are given them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.wire import Frame

# RFC 6455, section 5.2. A server masks nothing, so the same bytes serve every socket. Compression is never negotiated:
# a delta is too short to gain by it.
_FINAL_TEXT: Final = 0x81
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127


class Burst(list["Frame"]):
    """Frames for one or many viewers, in order."""

    __slots__ = ("_packet",)

    @property
    def packet(self) -> bytes:
        """The frames as WebSocket frames, one behind the other; not to be changed after it was asked for."""
        try:
            return self._packet
        except AttributeError:
            self._packet: bytes = b"".join([part for frame in self for part in (_head(len(frame.body)), frame.body)])
            return self._packet


def _head(length: int) -> bytes:
    """What stands before the payload of an unfragmented text frame of `length` bytes."""
    if length < _LENGTH_16:
        return bytes((_FINAL_TEXT, length))
    if length < 1 << 16:
        return bytes((_FINAL_TEXT, _LENGTH_16)) + length.to_bytes(2)
    return bytes((_FINAL_TEXT, _LENGTH_64)) + length.to_bytes(8)
