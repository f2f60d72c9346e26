"""The timers of a connection."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest

from gateway.auth import ANONYMOUS
from gateway.feed.feed import Feed
from gateway.hub import Hub
from gateway.rate_limits import RateLimits
from gateway.session import Session
from gateway.subject_connections import SubjectConnections
from gateway.timer_wheel import STEP_S, TimerWheel
from gateway.token_limits import TokenLimits
from gateway.transports.websocket import HEARTBEAT_INTERVAL_S, Connection
from gateway.watches import Watches
from gateway.write_progress import MIN_BYTES_PER_S, SILENT_WITHIN_S, WRITE_WITHIN_S

UNLIMITED: Final[Any] = {
    "limits": RateLimits(0),
    "tokens": TokenLimits(RateLimits(0)),
    "connections": SubjectConnections(0),
}


class Socket:
    """A socket that ignores writes."""

    direct_write = None

    def __init__(self) -> None:
        self.closed: list[int] = []
        self.unsent = 0
        self.silence = 0.0
        self.acknowledged = 0

    def write(self, batch: Any) -> None:
        pass

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)

    def abort(self) -> None:
        self.closed.append(0)


def test_paused_connection_still_meets_hello_deadline() -> None:
    """The deadline here is that of hello; an expired token behaves the same."""
    nothing: Any = None
    now = time.monotonic()
    wheel: TimerWheel[Connection] = TimerWheel(now)
    hub, socket = Hub(), Socket()
    session = Session("s", nothing, None, now, **UNLIMITED)
    connection = Connection(
        socket=socket,
        session=session,
        hub=hub,
        feed=Feed(nothing, hub, 0),
        submissions=nothing,
        timers=wheel,
        watches=Watches(0),
        lost=lambda _: None,
    )
    connection.pause_writing()
    assert session.due(now, time.time()) < now + WRITE_WITHIN_S
    assert wheel.due(session.due(now, time.time()) + STEP_S) == [connection]
    connection.tick(now + WRITE_WITHIN_S, time.time())
    assert socket.closed == [4408]


def test_closing_connection_has_no_timer() -> None:
    nothing: Any = None
    now = time.monotonic()
    wheel: TimerWheel[Connection] = TimerWheel(now)
    hub = Hub()
    session = Session("s", nothing, None, now, **UNLIMITED)
    connection = Connection(
        socket=Socket(),
        session=session,
        hub=hub,
        feed=Feed(nothing, hub, 0),
        submissions=nothing,
        timers=wheel,
        watches=Watches(0),
        lost=lambda _: None,
    )
    connection.closing()
    connection.pause_writing()
    assert wheel.due(now + 1000.0) == []


def test_slow_client_is_disconnected_when_it_stops_reading() -> None:
    nothing: Any = None
    now = time.monotonic()
    wheel: TimerWheel[Connection] = TimerWheel(now)
    hub, socket = Hub(), Socket()
    session = Session("s", lambda *_: ANONYMOUS, None, now, **UNLIMITED)
    connection = Connection(
        socket=socket,
        session=session,
        hub=hub,
        feed=Feed(nothing, hub, 0),
        submissions=nothing,
        timers=wheel,
        watches=Watches(0),
        lost=lambda _: None,
    )
    connection.receive('{"type":"hello"}')
    socket.unsent = 1_000_000
    connection.pause_writing()
    for _ in range(10):
        now += WRITE_WITHIN_S + STEP_S
        socket.unsent -= int(MIN_BYTES_PER_S * WRITE_WITHIN_S)
        socket.acknowledged += int(MIN_BYTES_PER_S * WRITE_WITHIN_S)
        assert wheel.due(now) == [connection]
        connection.tick(now, time.time())
    assert socket.closed == []
    now += WRITE_WITHIN_S + STEP_S
    connection.tick(now, time.time())
    assert socket.closed == [0]


@pytest.mark.parametrize(
    ("silence", "closed"), [(SILENT_WITHIN_S - 0.1, []), (SILENT_WITHIN_S, [0])], ids=["acknowledges", "unreachable"]
)
def test_client_that_acknowledges_nothing_is_disconnected(silence: float, closed: list[int]) -> None:
    """Its write buffer need not be full: heartbeats take minutes to fill it."""
    nothing: Any = None
    now = time.monotonic()
    wheel: TimerWheel[Connection] = TimerWheel(now)
    hub, socket = Hub(), Socket()
    connection = Connection(
        socket=socket,
        session=Session("s", lambda *_: ANONYMOUS, None, now, **UNLIMITED),
        hub=hub,
        feed=Feed(nothing, hub, 0),
        submissions=nothing,
        timers=wheel,
        watches=Watches(0),
        lost=lambda _: None,
    )
    connection.receive('{"type":"hello"}')
    socket.silence = silence
    connection.tick(now + HEARTBEAT_INTERVAL_S + STEP_S, time.time())
    assert socket.closed == closed


def test_client_that_takes_nothing_is_disconnected_while_writing_is_not_paused() -> None:
    nothing: Any = None
    now = time.monotonic()
    wheel: TimerWheel[Connection] = TimerWheel(now)
    hub, socket = Hub(), Socket()
    connection = Connection(
        socket=socket,
        session=Session("s", lambda *_: ANONYMOUS, None, now, **UNLIMITED),
        hub=hub,
        feed=Feed(nothing, hub, 0),
        submissions=nothing,
        timers=wheel,
        watches=Watches(0),
        lost=lambda _: None,
    )
    connection.receive('{"type":"hello"}')
    socket.unsent = 1000
    for acknowledged in (1, 2, 3, 3):
        socket.acknowledged = acknowledged
        now += HEARTBEAT_INTERVAL_S + STEP_S
        connection.tick(now, time.time())
        assert socket.closed == []
    connection.tick(now + HEARTBEAT_INTERVAL_S + STEP_S, time.time())
    assert socket.closed == [0]
