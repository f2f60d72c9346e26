"""Pipelining: calls of many tasks share round trips to one server.

One round trip is in flight at a time; calls that are made meanwhile go with the next one. A call into an idle pipeline
is sent immediately, and the busier the store, the more calls share a round trip: under constant load one starts every
`MIN_INTERVAL_S` seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway.streams import metrics, safe_writes
from gateway.streams.store import redis_internals
from gateway.streams.store.errors import is_read_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection, ConnectionPool

    OpenConnection: TypeAlias = "Callable[[Pipeline, AbstractConnection], PipelineConnection]"

Argument: TypeAlias = str | bytes | int

_INCOMPLETE: Final = object()

MIN_INTERVAL_S: Final = 0.002
"""Seconds between two round trips under load. A round trip costs the server more than one of its calls."""

MAX_CALLS: Final = 128
MAX_BYTES: Final = 262_144
"""Limits of one round trip: the other calls of the process wait for it. The last call may exceed the bytes."""


class _Call(NamedTuple):
    command: bytes
    reply: asyncio.Future[Any]


class PipelineConnection(Protocol):
    """A connection as the pipeline uses it. It reports replies to `replied` and its loss to `connection_failed`."""

    connection: AbstractConnection

    def send(self, commands: bytes, count: int) -> None:
        """Send the `count` commands of a round trip."""

    def abort(self) -> None:
        """Close the connection without flushing."""


class Pipeline:
    """The round trips to one server, or to one node of a cluster."""

    def __init__(self, pool: ConnectionPool, timeout_s: float, open_connection: OpenConnection | None = None) -> None:
        """`timeout_s`: seconds that a round trip may take. `open_connection`: wraps a connection of `pool`; by default
        `SocketConnection`.
        """
        self._pool = pool
        self._timeout_s = timeout_s
        self._open_connection: OpenConnection = open_connection or SocketConnection
        self._queued: list[_Call] = []
        self._in_flight: deque[_Call] = deque()
        self._connection: PipelineConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connected_at = 0.0
        self._flush_scheduled = False
        self._sent_at = 0.0
        self._timeout: asyncio.TimerHandle | None = None

    def call(self, *words: Argument) -> asyncio.Future[Any]:
        """Queue one command; return a future of its reply, of the server's error or of a connection error.

        Safe to cancel: a cancelled call is not sent, or its reply is dropped. Other calls are not affected.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        # hiredis' type stub declares a tuple of length one.
        self._queued.append(_Call(hiredis.pack_command(words), reply))  # type: ignore[arg-type]
        if not self._flush_scheduled and not self._in_flight:
            # Deferred, so that calls of the same iteration of the event loop share the round trip.
            self._flush_scheduled = True
            loop.call_soon(self._flush)
        return reply

    def fail_all(self, error: Exception) -> None:
        """Fail all calls with `error` and close the connection."""
        queued, self._queued = self._queued, []
        _fail(queued, error)
        if self._connection is not None:
            self.connection_failed(self._connection, error)

    async def close(self) -> None:
        """Cancel all calls and close the connection. Not safe to cancel: the connection may stay open."""
        for call in (*self._in_flight, *self._queued):
            call.reply.cancel()
        self._in_flight.clear()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
        if self._timeout is not None:
            self._timeout.cancel()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await self._release(connection)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._connecting is not None or self._in_flight:
            return
        batch = self._next_batch()
        if not batch:
            return
        if self._connection is None:
            self._connecting = asyncio.create_task(self._connect())
            return
        del self._queued[: len(batch)]
        self._in_flight.extend(batch)
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        if self._timeout is None:
            self._timeout = loop.call_later(self._timeout_s, self._check_timeout)
        self._connection.send(b"".join([call.command for call in batch]), len(batch))

    def _flush_after_reply(self) -> None:
        loop = asyncio.get_running_loop()
        due_at = self._sent_at + MIN_INTERVAL_S
        # Queued calls indicate load. A caller that sends one command after another finds none and is not delayed.
        if 0 < len(self._queued) < MAX_CALLS and not self._flush_scheduled and loop.time() < due_at:
            self._flush_scheduled = True
            loop.call_at(due_at, self._flush)
        else:
            self._flush()

    def _next_batch(self) -> list[_Call]:
        # Calls that were cancelled before they were sent.
        self._queued = [call for call in self._queued if not call.reply.done()]
        size = count = 0
        for call in self._queued[:MAX_CALLS]:
            if size >= MAX_BYTES:
                break
            size += len(call.command)
            count += 1
        return self._queued[:count]

    def replied(self, reply: Any) -> None:
        """Resolve the oldest call in flight; called by the connection."""
        future = self._in_flight.popleft().reply
        if not future.done():
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)
        if not self._in_flight:
            metrics.ROUND_TRIPS.observe(asyncio.get_running_loop().time() - self._sent_at)
            self._flush_after_reply()

    @property
    def connected_s(self) -> float:
        """Seconds for which the connection has been open; 0 without one."""
        return asyncio.get_running_loop().time() - self._connected_at if self._connection is not None else 0.0

    @property
    def expects_reply(self) -> bool:
        """Whether a call is in flight."""
        return bool(self._in_flight)

    def connection_failed(self, connection: PipelineConnection, error: Exception) -> None:
        """Fail the calls in flight and discard this connection; called by the connection."""
        if self._connection is not connection:
            return
        self._connection = None
        batch = list(self._in_flight)
        self._in_flight.clear()
        self._connecting = asyncio.create_task(self._discard(connection))
        _fail(batch, error)

    def _check_timeout(self) -> None:
        # One timer for many round trips: rescheduled for the one in flight when it fires.
        self._timeout = None
        if not self._in_flight:
            return
        loop = asyncio.get_running_loop()
        expires_at = self._sent_at + self._timeout_s
        if loop.time() < expires_at:
            self._timeout = loop.call_at(expires_at, self._check_timeout)
        elif self._connection is not None:
            self.connection_failed(self._connection, TimeoutError("no reply in time"))

    async def _connect(self) -> None:
        try:
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                # Reopened: events that redis-py's protocol already received, such as the end of the connection, would
                # not reach ours.
                await connection.disconnect(nowait=True)
                await connection.connect()
            except BaseException:
                await self._pool.release(connection)
                raise
            self._connection = self._open_connection(self, connection)
            self._connected_at = asyncio.get_running_loop().time()
        except Exception as error:  # any error: otherwise the queued calls would wait forever
            queued, self._queued = self._queued, []
            _fail(queued, error)
        finally:
            self._connecting = None
        self._flush()

    async def _discard(self, connection: PipelineConnection) -> None:
        try:
            await self._release(connection)
        finally:
            self._connecting = None
        self._flush()

    async def _release(self, connection: PipelineConnection) -> None:
        connection.abort()
        try:
            # redis-py opens it again for its next user.
            await connection.connection.disconnect(nowait=True)
            await self._pool.release(connection.connection)
        except (RedisError, OSError):
            # The connection was being closed anyway.
            pass


def _fail(calls: list[_Call], error: Exception) -> None:
    for call in calls:
        if not call.reply.done():
            call.reply.set_exception(error)


class SocketConnection(asyncio.Protocol):
    """A connection that redis-py opened, then written and parsed without redis-py.

    redis-py handles names, TLS and passwords. Its command path costs several times as much as the rest of a call, so a
    protocol feeds hiredis directly.
    """

    def __init__(self, pipeline: Pipeline, connection: AbstractConnection) -> None:
        self.connection = connection
        self._pipeline = pipeline
        self._reader = hiredis.Reader(replyError=redis_internals.error_parser(connection), notEnoughData=_INCOMPLETE)
        self._transport = redis_internals.transport_of(connection)
        # redis-py closes the connection later and waits until its own protocol is informed.
        self._original_protocol = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def send(self, commands: bytes, count: int) -> None:
        """See `PipelineConnection.send`."""
        safe_writes.write(self._transport, commands)

    def abort(self) -> None:
        """See `PipelineConnection.abort`."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        pipeline, reader = self._pipeline, self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _INCOMPLETE:
                if isinstance(reply, hiredis.PushNotification):
                    # Not a reply to a command.
                    continue
                if not pipeline.expects_reply:
                    raise hiredis.ProtocolError("a reply without a command")
                if isinstance(reply, Exception) and is_read_only(reply):
                    # The server is a replica now; a new connection may lead to its primary.
                    self._transport.abort()
                pipeline.replied(reply)
        except hiredis.HiredisError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._original_protocol.connection_lost(exc)
        self._pipeline.connection_failed(self, RedisConnectionError("the connection was closed"))
