"""Frames that go out together, and their bytes on a WebSocket: made once, whoever and however many are given them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.frame_codec import Frame

# RFC 6455, section 5.2. A server masks nothing, so the same bytes serve every socket. Compression is never negotiated:
# a delta is too short to gain by it.
_FINAL_TEXT: Final = 0x81
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127


class FrameBatch(list["Frame"]):
    """Frames for one or many viewers, in order."""

    _packet = b""
    entries = 0
    """Log entries that these frames bring a viewer forward by."""

    @property
    def packet(self) -> bytes:
        """The frames as WebSocket frames, one behind the other; not to be changed after it was asked for."""
        packet = self._packet
        if not packet:
            packet = _spell(self[0].body) if len(self) == 1 else b"".join([_spell(frame.body) for frame in self])
            self._packet = packet
        return packet


def _spell(payload: bytes) -> bytes:
    """An unfragmented text frame."""
    length = len(payload)
    if length < _LENGTH_16:
        return b"%c%c%b" % (_FINAL_TEXT, length, payload)
    if length < 1 << 16:
        return b"%c%c%b%b" % (_FINAL_TEXT, _LENGTH_16, length.to_bytes(2), payload)
    return b"%c%c%b%b" % (_FINAL_TEXT, _LENGTH_64, length.to_bytes(8), payload)
