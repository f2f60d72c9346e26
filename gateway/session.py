"""What one client may do next: frames in, commands out.

Rules of this file: it never waits and asks no clock; time comes in as an argument, in seconds. It never raises for what
a client does: the answer to that is a command.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway import frame_codec
from gateway.auth import Denied, Identity
from gateway.frame_codec import BadFrame, Frame
from gateway.streams import keys
from gateway.wire import HELLO_WITHIN_S, Close, Hello, Retry, Send, Stop, Token, Unwatch, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

FRAMES_A_SECOND: Final = 20.0
BURST: Final = 60.0
MAX_BAD_FRAMES: Final = 10
MAX_REFUSED: Final = 100
"""Frames refused in a row as too fast, before the socket is closed."""


class State(Enum):
    """Where a client stands."""

    NEW = "new"
    READY = "ready"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Say:
    """Give the client this frame."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class End:
    """Close the socket. Nothing is carried out after it."""

    code: Close
    reason: str


@dataclass(frozen=True, slots=True)
class Carry:
    """Carry out what the client asked for; it may."""

    request: Watch | Unwatch | Send | Stop | Retry


Command: TypeAlias = Say | End | Carry


class Session:
    """One client's state: new, then ready once somebody is known, then closed."""

    __slots__ = (
        "_bad",
        "_check",
        "_models",
        "_name",
        "_opened",
        "_refused",
        "_spent",
        "_spent_at",
        "identity",
        "state",
    )

    def __init__(
        self,
        name: str,
        check: Callable[[str | None, float], Identity | Denied],
        models: tuple[str, ...] | None,
        now: float,
    ) -> None:
        self.state = State.NEW
        self.identity: Identity | None = None
        self._name = name
        self._check = check
        self._models = models
        self._opened = now
        self._bad = 0
        self._refused = 0
        self._spent = 0.0
        self._spent_at = now

    def tick(self, now: float, wall: float) -> list[Command]:
        """What the passing of time demands. `now` is monotonic, `wall` seconds since 1970."""
        if self.state is State.NEW and now - self._opened > HELLO_WITHIN_S:
            return self._close(Close.NO_HELLO, "no hello within five seconds")
        if self.state is State.READY and self.identity is not None and wall >= self.identity.expires:
            return self._close(Close.NOT_AUTHENTICATED, "the token has expired")
        return []

    def due(self, now: float, wall: float) -> float:
        """When `tick` has something to do, on the clock of `now`; infinite, if nothing changes."""
        if self.state is State.NEW:
            return self._opened + HELLO_WITHIN_S
        return now + self.identity.expires - wall if self.identity is not None else math.inf

    def receive(self, data: str | bytes, now: float, wall: float) -> list[Command]:
        """One frame of the client; `now` and `wall` as in `tick`."""
        if self.state is State.CLOSED:
            return []
        if isinstance(data, bytes):
            return self._close(Close.NOT_THE_PROTOCOL, "frames are text")
        self._spent = max(0.0, self._spent - (now - self._spent_at) * FRAMES_A_SECOND) + 1
        self._spent_at = now
        if self._spent > BURST:
            self._spent -= 1
            self._refused += 1
            if self._refused > MAX_REFUSED:
                return self._close(Close.TOO_FAST, "too many frames")
            return [Say(frame_codec.error("too_fast", "Too many frames at once.", retry_after=1.0))]
        self._refused = 0
        frame = frame_codec.decode(data)
        if self.state is State.NEW:
            if isinstance(frame, Hello):
                return self._admit(frame.token, wall, first=True)
            return self._close(Close.NOT_THE_PROTOCOL, "the first frame must be hello")
        match frame:
            case BadFrame(reason):
                return self._complain(reason)
            case Hello():
                return self._complain("hello comes once")
            case Token(token):
                return self._admit(token, wall, first=False)
            case Watch() | Send():
                return self._enter(frame)
            case Stop() | Retry():
                if not keys.is_response(frame.response):
                    return [Say(frame_codec.refusal(frame, "not_found", "There is no such response."))]
                return [Carry(frame)]
            case _:
                return [Carry(frame)]

    def _enter(self, request: Watch | Send) -> list[Command]:
        if not keys.is_conversation(request.conversation):
            return self._complain("a conversation is 1 to 128 letters, digits and _ . : ~ -")
        if self.identity is None or not self.identity.opens(request.conversation):
            return [Say(frame_codec.refusal(request, "forbidden", "This conversation is not open to you."))]
        if isinstance(request, Watch) and not all(keys.is_response(response) for response in request.responses):
            return self._complain("`responses` has a name that no response has")
        return [Carry(request)]

    def _admit(self, token: str | None, wall: float, *, first: bool) -> list[Command]:
        identity = self._check(token, wall)
        if isinstance(identity, Denied):
            return self._close(Close.NOT_AUTHENTICATED, identity.reason)
        if self.identity is not None and identity.subject != self.identity.subject:
            return self._close(Close.NOT_AUTHENTICATED, "the token is somebody else's")
        self.identity = identity
        self.state = State.READY
        return [Say(frame_codec.ready(self._name, self._models))] if first else []

    def _complain(self, reason: str) -> list[Command]:
        self._bad += 1
        if self._bad > MAX_BAD_FRAMES:
            return self._close(Close.NOT_THE_PROTOCOL, "too many frames that are not the protocol's")
        return [Say(frame_codec.error("bad_frame", reason))]

    def _close(self, code: Close, reason: str) -> list[Command]:
        self.state = State.CLOSED
        return [End(code, reason)]
