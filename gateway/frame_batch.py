"""Frame batches: frames that are sent together, encoded once as WebSocket bytes for any number of viewers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.frame_codec import Frame

# RFC 6455, section 5.2. A server does not mask, so the same bytes serve every socket. Compression is never negotiated:
# a delta is too short to gain from it.
_FINAL_TEXT: Final = 0x81
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127


class FrameBatch(list["Frame"]):
    """Frames for one or more viewers, in order."""

    _encoded = b""
    entries = 0
    """Number of log entries by which these frames advance a viewer."""
    partial = False
    """Whether the viewer is not up to date after these frames: the next flush continues."""

    @property
    def encoded(self) -> bytes:
        """The concatenated WebSocket frames. They are cached: do not change the batch after the first access."""
        encoded = self._encoded
        if not encoded:
            encoded = _encode(self[0].body) if len(self) == 1 else b"".join([_encode(frame.body) for frame in self])
            self._encoded = encoded
        return encoded


def _encode(payload: bytes) -> bytes:
    """Return an unfragmented text frame."""
    length = len(payload)
    if length < _LENGTH_16:
        return b"%c%c%b" % (_FINAL_TEXT, length, payload)
    if length < 1 << 16:
        return b"%c%c%b%b" % (_FINAL_TEXT, _LENGTH_16, length.to_bytes(2), payload)
    return b"%c%c%b%b" % (_FINAL_TEXT, _LENGTH_64, length.to_bytes(8), payload)
