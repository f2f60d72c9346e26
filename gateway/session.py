"""The protocol state of one WebSocket client: frames and time in, commands out. It also enforces the rate limits.

Two limits hold: one of this socket, which rejects a frame before it is parsed, and one of the client's subject, which
all of its sockets and HTTP requests share.

A core module: it never waits and reads no clock; times are arguments, in seconds. It never raises for what a client
sends: the answer is a command.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway import frame_codec
from gateway.auth import EXPIRED, Denied, Identity
from gateway.frame_codec import BadFrame, Frame
from gateway.rate_limits import BYTES_PER_UNIT, NAMES_PER_UNIT, subject_of
from gateway.streams import keys, log_entries
from gateway.subject_connections import RETRY_S, TOO_MANY
from gateway.wire import HELLO_WITHIN_S, Close, Hello, Older, Retry, Send, Stop, Token, Unwatch, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.rate_limits import RateLimits
    from gateway.subject_connections import SubjectConnections
    from gateway.token_limits import TokenLimits

MAX_FRAMES_PER_S: Final = 20.0
"""Rate limit of one socket's frames: a token bucket of MAX_BURST_FRAMES."""

MAX_BURST_FRAMES: Final = 60.0
MAX_BAD_FRAMES: Final = 10
MAX_REJECTED_FRAMES: Final = 100
"""Frames in a row that the rate limit rejects, before the socket is closed."""

Request: TypeAlias = Watch | Older | Unwatch | Send | Stop | Retry


class State(Enum):
    """The state of a client: new until it is authenticated."""

    NEW = "new"
    READY = "ready"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Send this frame to the client."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close the socket. No command follows."""

    code: Close
    reason: str


@dataclass(frozen=True, slots=True)
class Execute:
    """Execute an authorized request."""

    request: Request


Command: TypeAlias = SendFrame | CloseSocket | Execute


OTHER_SUBJECT: Final = Denied("other_subject", "the token has another subject")


class Session:
    """The state of one client."""

    __slots__ = (
        "_address",
        "_authenticate",
        "_bad_frames",
        "_connections",
        "_counted",
        "_limits",
        "_models",
        "_name",
        "_opened_at",
        "_rejected_frames",
        "_spent",
        "_spent_at",
        "_tokens",
        "identity",
        "state",
        "subject",
    )

    def __init__(
        self,
        name: str,
        authenticate: Callable[[str | None, float], Identity | Denied],
        models: tuple[str, ...] | None,
        now: float,
        *,
        limits: RateLimits,
        tokens: TokenLimits,
        connections: SubjectConnections,
        address: str = "",
    ) -> None:
        """`authenticate` checks a token at a time in seconds since 1970. `models`: see `frame_codec.ready`.

        `limits`: the rate limit of subjects. `tokens`: of tokens that are not known. `connections`: the limit of a
        subject's connections. `address`: of the client.
        """
        self.state = State.NEW
        self.identity: Identity | None = None
        self._name = name
        self._authenticate = authenticate
        self._models = models
        self._limits = limits
        self._tokens = tokens
        self._connections = connections
        self._counted: Identity | None = None
        """The identity for which this client is counted in `connections`."""
        self._address = address
        self.subject: str | None = None
        """Names the client's bucket in `limits`."""
        self._opened_at = now
        self._bad_frames = 0
        self._rejected_frames = 0
        self._spent = 0.0
        """Tokens of the bucket that are used, at the time `_spent_at`."""
        self._spent_at = now

    def tick(self, now: float, wall: float) -> list[Command]:
        """Return what the passing of time requires. `now` is monotonic, `wall` is seconds since 1970."""
        if self.state is State.NEW and now - self._opened_at > HELLO_WITHIN_S:
            return self._close(Close.NO_HELLO, "no hello within five seconds")
        if self.state is State.READY and self.identity is not None and wall >= self.identity.expires:
            return self._deny(EXPIRED)
        return []

    def due(self, now: float, wall: float) -> float:
        """Return the time at which `tick` has a command, on the clock of `now`; infinity if it never has."""
        if self.state is State.NEW:
            return self._opened_at + HELLO_WITHIN_S
        return now + self.identity.expires - wall if self.identity is not None else math.inf

    def receive(self, data: str | bytes, now: float, wall: float) -> list[Command]:
        """Return the commands for one frame of the client; `now` and `wall` as in `tick`."""
        if self.state is State.CLOSED:
            return []
        if isinstance(data, bytes):
            return self._close(Close.NOT_THE_PROTOCOL, "frames must be text")
        self._spent = max(0.0, self._spent - (now - self._spent_at) * MAX_FRAMES_PER_S) + 1
        self._spent_at = now
        if self._spent > MAX_BURST_FRAMES:
            self._spent -= 1
            self._rejected_frames += 1
            if self._rejected_frames > MAX_REJECTED_FRAMES:
                return self._close(Close.TOO_FAST, "too many frames")
            return [SendFrame(frame_codec.error("too_fast", "Too many frames at once.", retry_after=1.0))]
        self._rejected_frames = 0
        frame = frame_codec.decode(data)
        if self.state is State.NEW:
            if isinstance(frame, Hello):
                return self._greet(frame.token, now, wall)
            return self._close(Close.NOT_THE_PROTOCOL, "the first frame must be hello")
        match frame:
            case BadFrame(reason):
                return self._reject_bad_frame(reason)
            case Hello():
                return self._reject_bad_frame("hello may be sent only once")
            case Token(token):
                # The check of a signature costs more than most requests. A separate bucket: a subject that is in debt
                # for what it read must not lose its sockets for want of a token.
                retry_after = self._limits.admit(f"token of {self.subject}" if self.subject else None, now)
                if retry_after is not None:
                    return [SendFrame(frame_codec.error("too_fast", "Too many requests.", retry_after=retry_after))]
                return self._log_in(token, wall)
            case Watch() | Older() | Send():
                return self._authorize(frame, now)
            case Stop() | Retry():
                if not keys.is_response(frame.response):
                    return [SendFrame(frame_codec.refusal(frame, "not_found", "There is no such response."))]
                return self._admit(frame, now)
            case _:
                # An unwatch costs nothing, and a refused one would keep the watch's cost up.
                return [Execute(frame)]

    def _admit(self, request: Request, now: float) -> list[Command]:
        names = len(request.responses) if isinstance(request, Watch) else 0
        retry_after = self._limits.admit(self.subject, now, 1.0 + names / NAMES_PER_UNIT)
        if retry_after is None:
            return [Execute(request)]
        return [SendFrame(frame_codec.refusal(request, "too_fast", "Too many requests.", round(retry_after, 3)))]

    def forbids(self, request: Request) -> Frame | None:
        """Return the refusal of a request that waited, if a token that arrived meanwhile does not open it."""
        if not isinstance(request, Watch | Older | Send) or (
            self.identity is not None and self.identity.opens(request.conversation)
        ):
            return None
        return frame_codec.refusal(request, "forbidden", "This conversation is not open to you.")

    def charge(self, size: int, now: float) -> None:
        """Count the bytes that an executed request brought against the rate limit of the client's subject."""
        self._limits.spend(self.subject, now, size / BYTES_PER_UNIT)

    def _authorize(self, request: Watch | Older | Send, now: float) -> list[Command]:
        if not keys.is_conversation(request.conversation):
            return self._reject_bad_frame("a conversation is 1 to 128 letters, digits and _ . : ~ -")
        if (refusal := self.forbids(request)) is not None:
            return [SendFrame(refusal)]
        if isinstance(request, Older) and log_entries.parse_history_id(request.before) is None:
            return self._reject_bad_frame("`before` is not the `earlier` of a snapshot or page")
        if isinstance(request, Watch) and not all(keys.is_response(response) for response in request.responses):
            return self._reject_bad_frame("`responses` has a key that is not the id of a response")
        return self._admit(request, now)

    def ended(self) -> None:
        """Stop to count this client for its subject: its socket is closed. Repeating it changes nothing."""
        if self._counted is not None:
            self._connections.close(self._counted)
            self._counted = None

    def _greet(self, token: str | None, now: float, wall: float) -> list[Command]:
        if token is None:
            commands = self._log_in(None, wall)
        else:
            retry_after = self._tokens.admit(token, self._address, now)
            if retry_after is not None:
                return self._refuse("too_fast", "Too many requests without a valid token.", retry_after)
            commands = self._log_in(token, wall)
            self._tokens.checked(token, self.identity, self._address, now)
        if self.identity is None:
            return commands
        if not self._connections.open(self.identity):
            return self._refuse("too_many", TOO_MANY, RETRY_S)
        self._counted = self.identity
        return [SendFrame(frame_codec.ready(self._name, self._models))]

    def _refuse(self, code: str, message: str, retry_after: float) -> list[Command]:
        error = frame_codec.error(code, message, retry_after=round(retry_after, 3))
        return [SendFrame(error), *self._close(Close.OVERLOADED, message.rstrip("."))]

    def _log_in(self, token: str | None, wall: float) -> list[Command]:
        identity = self._authenticate(token, wall)
        if self.identity is not None and isinstance(identity, Identity) and identity.subject != self.identity.subject:
            identity = OTHER_SUBJECT
        if isinstance(identity, Denied):
            return self._deny(identity)
        self.identity = identity
        self.subject = subject_of(identity, self._address)
        self.state = State.READY
        return []

    def _deny(self, denied: Denied) -> list[Command]:
        explanation = frame_codec.unauthenticated(denied.problem, denied.sentence)
        return [SendFrame(explanation), *self._close(Close.NOT_AUTHENTICATED, denied.reason)]

    def _reject_bad_frame(self, reason: str) -> list[Command]:
        self._bad_frames += 1
        if self._bad_frames > MAX_BAD_FRAMES:
            return self._close(Close.NOT_THE_PROTOCOL, "too many frames that are not valid")
        return [SendFrame(frame_codec.error("bad_frame", reason))]

    def _close(self, code: Close, reason: str) -> list[Command]:
        self.state = State.CLOSED
        return [CloseSocket(code, reason)]
