"""What a connection has to do by when."""

from __future__ import annotations

import time
from typing import Any

from gateway.feed.feed import Feed
from gateway.hub import Hub
from gateway.session import Session
from gateway.timer_wheel import STEP, TimerWheel
from gateway.transports.websocket import WRITE_WITHIN, Connection


class Socket:
    """One that takes what it is given."""

    direct = None

    def __init__(self) -> None:
        self.closed: list[int] = []

    def write(self, burst: Any) -> None:
        pass

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)

    def abort(self) -> None:
        self.closed.append(0)


def test_who_is_full_again_and_again_is_not_let_off_what_else_is_due() -> None:
    """Here the hello; it is the same with a token that expires."""
    nothing: Any = None
    now = time.monotonic()
    wheel: TimerWheel[Connection] = TimerWheel(now)
    hub, socket = Hub(), Socket()
    session = Session("s", nothing, None, now)
    connection = Connection(socket, session, hub, Feed(nothing, hub, 0), nothing, wheel, lambda _: None)
    connection.filled()
    assert session.due(now, time.time()) < now + WRITE_WITHIN
    assert wheel.due(session.due(now, time.time()) + STEP) == [connection]
    connection.tick(now + WRITE_WITHIN, time.time())
    assert socket.closed == [4408]


def test_nothing_is_due_of_one_that_closes() -> None:
    nothing: Any = None
    now = time.monotonic()
    wheel: TimerWheel[Connection] = TimerWheel(now)
    hub = Hub()
    session = Session("s", nothing, None, now)
    connection = Connection(Socket(), session, hub, Feed(nothing, hub, 0), nothing, wheel, lambda _: None)
    connection.closing()
    connection.filled()
    assert wheel.due(now + 1000.0) == []
