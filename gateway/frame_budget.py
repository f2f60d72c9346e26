"""The rate limit of one socket's WebSocket frames of any kind: text, fragments, pings and pongs.

`gateway.session` limits messages. This limit is below it and wider: parsing a frame costs the gateway the same whether
it completes a message or not, so fragments and control frames have to be counted too.

A core module: it reads no clock; times are arguments, in seconds.
"""

from __future__ import annotations

from typing import Final

MAX_FRAMES_PER_S: Final = 25.0
"""Sustained rate of one socket's frames; the session accepts 20 messages a second."""

MAX_BURST_FRAMES: Final = 256
"""Frames at once: 60 messages, as the session accepts them, in four fragments each, and pings."""

MAX_FRAMES_BEFORE_MESSAGE: Final = 16
"""Frames before the first complete message, which must be `hello`. Until then a client has shown no token."""


class FrameBudget:
    """A token bucket; before the first message it is small and is not refilled."""

    __slots__ = ("_spent", "_spent_at", "in_use")

    def __init__(self) -> None:
        self._spent = 0.0
        self._spent_at = 0.0
        self.in_use = False
        """Whether the first message has arrived."""

    def first_message(self, now: float) -> None:
        """Replace the limit before the first message by the rate limit."""
        self.in_use = True
        self._spent = 0.0
        self._spent_at = now

    def spend(self, frames: int, now: float) -> bool:
        """Count frames; return whether the client kept the limit."""
        if not self.in_use:
            self._spent += frames
            return self._spent <= MAX_FRAMES_BEFORE_MESSAGE
        self._spent = max(0.0, self._spent - (now - self._spent_at) * MAX_FRAMES_PER_S) + frames
        self._spent_at = now
        return self._spent <= MAX_BURST_FRAMES
