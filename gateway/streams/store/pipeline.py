"""Calls of many tasks share round trips: one is under way at a time, and what is asked meanwhile goes with the next.

So a call into an idle pipeline goes out at once, and the busier the store, the more calls share the cost of a trip:
where there is always something to send, a trip departs every `GATHER` seconds.

redis-py sets the connection up, whatever the address asks for: names, TLS, passwords. From then on a protocol writes to
it and feeds hiredis itself, because redis-py's own way costs several times what the rest of a call does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from gateway.streams import metrics
from gateway.streams.store.errors import is_read_only

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

Argument: TypeAlias = str | bytes | int

_NOTHING: Final = object()

GATHER: Final = 0.002
"""Seconds. A round trip costs the server more than a call of it does: under load they are shared."""

MAX_CALLS: Final = 128
MAX_BYTES: Final = 262_144
"""A round trip holds at most so many calls and, but for its last call, bytes: the others of the process wait for it."""


class _Call(NamedTuple):
    command: bytes
    reply: asyncio.Future[Any]


class Pipeline:
    """The round trips to one server, or to one node of a cluster."""

    def __init__(self, pool: ConnectionPool, timeout_s: float) -> None:
        """`pool`: where the connection comes from, and with which it is closed. `timeout_s`: the seconds that a server
        may take for a round trip.
        """
        self._pool = pool
        self._timeout_s = timeout_s
        self._waiting: list[_Call] = []
        self._under_way: deque[_Call] = deque()
        self._line: _Line | _Emulated | None = None
        self._changing: asyncio.Task[None] | None = None
        self._opened_at = 0.0
        self._departs = False
        self._sent_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def call(self, *words: Argument) -> asyncio.Future[Any]:
        """Ask for one command to be sent; what is returned becomes its reply, or the server's error, or the reason why
        the server could not be reached.

        A call that is cancelled is not sent any more, or its reply is dropped. No other call notices.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        # Its stub speaks of tuples of one.
        self._waiting.append(_Call(hiredis.pack_command(words), reply))  # type: ignore[arg-type]
        if not self._departs and not self._under_way:
            # Not yet: what is asked in the same turn of the loop goes along.
            self._departs = True
            loop.call_soon(self._depart)
        return reply

    def drop(self, error: Exception) -> None:
        """Give up what is under way or waits, which fails with `error`, and the connection."""
        waiting, self._waiting = self._waiting, []
        _fail(waiting, error)
        if self._line is not None:
            self.broke(self._line, error)

    async def close(self) -> None:
        """Give up what is under way or waits, which is cancelled, and the connection."""
        for call in (*self._under_way, *self._waiting):
            call.reply.cancel()
        self._under_way.clear()
        if self._changing is not None:
            self._changing.cancel()
            await asyncio.wait((self._changing,))
        if self._watch is not None:
            self._watch.cancel()
        if self._line is not None:
            line, self._line = self._line, None
            await self._give_back(line)

    def _depart(self) -> None:
        self._departs = False
        if self._changing is not None or self._under_way:
            return
        batch = self._next()
        if not batch:
            return
        if self._line is None:
            self._changing = asyncio.create_task(self._connect())
            return
        del self._waiting[: len(batch)]
        self._under_way.extend(batch)
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        if self._watch is None:
            self._watch = loop.call_later(self._timeout_s, self._look)
        self._line.send(b"".join([call.command for call in batch]), len(batch))

    def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        departs_at = self._sent_at + GATHER
        # That there is something to send already tells of load; who asks for one thing after the other is not held up.
        if 0 < len(self._waiting) < MAX_CALLS and not self._departs and loop.time() < departs_at:
            self._departs = True
            loop.call_at(departs_at, self._depart)
        else:
            self._depart()

    def _next(self) -> list[_Call]:
        """The calls of the next round trip, oldest first."""
        # Whoever has given up before its call was sent takes it back.
        self._waiting = [call for call in self._waiting if not call.reply.done()]
        size = count = 0
        for call in self._waiting[:MAX_CALLS]:
            if size >= MAX_BYTES:
                break
            size += len(call.command)
            count += 1
        return self._waiting[:count]

    def replied(self, reply: Any) -> None:
        """The next reply of the round trip has come."""
        future = self._under_way.popleft().reply
        if not future.done():
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)
        if not self._under_way:
            metrics.ROUND_TRIPS.observe(asyncio.get_running_loop().time() - self._sent_at)
            self._gather()

    @property
    def age(self) -> float:
        """For how many seconds the connection has been open; 0 where there is none."""
        return asyncio.get_running_loop().time() - self._opened_at if self._line is not None else 0.0

    @property
    def expects(self) -> bool:
        """Whether a reply is to come."""
        return bool(self._under_way)

    def broke(self, line: _Line | _Emulated, error: Exception) -> None:
        """This connection is of no use any more."""
        if self._line is not line:
            return
        self._line = None
        batch = list(self._under_way)
        self._under_way.clear()
        self._changing = asyncio.create_task(self._replace(line))
        _fail(batch, error)

    def _look(self) -> None:
        # One timer for many round trips: it looks whether one takes too long, and comes again for the one under way.
        self._watch = None
        if not self._under_way:
            return
        loop = asyncio.get_running_loop()
        over_at = self._sent_at + self._timeout_s
        if loop.time() < over_at:
            self._watch = loop.call_at(over_at, self._look)
        elif self._line is not None:
            self.broke(self._line, TimeoutError("no reply in time"))

    async def _connect(self) -> None:
        try:
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                # Opened anew: what its own protocol has heard of already, its end for one, ours would never hear of.
                await connection.disconnect(nowait=True)
                await connection.connect()
            except BaseException:
                await self._pool.release(connection)
                raise
            transport: asyncio.Transport | None = getattr(connection._writer, "transport", None)
            self._line = _Line(self, connection, transport) if transport else _Emulated(self, connection)
            self._opened_at = asyncio.get_running_loop().time()
        except Exception as error:  # whatever it is, those who wait have to hear of it
            waiting, self._waiting = self._waiting, []
            _fail(waiting, error)
        finally:
            self._changing = None
        self._depart()

    async def _replace(self, line: _Line | _Emulated) -> None:
        try:
            await self._give_back(line)
        finally:
            self._changing = None
        self._depart()

    async def _give_back(self, line: _Line | _Emulated) -> None:
        line.abort()
        try:
            # redis-py opens it anew for whoever gets it next.
            await line.connection.disconnect(nowait=True)
            await self._pool.release(line.connection)
        except (RedisError, OSError):
            # It was being given up.
            pass


def _fail(calls: list[_Call], error: Exception) -> None:
    for call in calls:
        if not call.reply.done():
            call.reply.set_exception(error)


class _Line(asyncio.Protocol):
    """A connection of redis-py's, written to and read from without it."""

    def __init__(self, pipeline: Pipeline, connection: AbstractConnection, transport: asyncio.Transport) -> None:
        self.connection = connection
        self._pipeline = pipeline
        self._transport = transport
        self._reader = hiredis.Reader(replyError=connection._parser.parse_error, notEnoughData=_NOTHING)
        # redis-py still closes the connection, and waits for its own protocol to hear of that.
        self._former = transport.get_protocol()
        transport.set_protocol(self)

    def send(self, commands: bytes, count: int) -> None:
        """Send the commands of a round trip; the pipeline is told of each reply."""
        self._transport.write(commands)

    def abort(self) -> None:
        """Close the connection at once, whatever is still to be sent."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        pipeline, reader = self._pipeline, self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                if isinstance(reply, hiredis.PushNotification):
                    # Nothing that we asked for.
                    continue
                if not pipeline.expects:
                    raise hiredis.ProtocolError("a reply to nothing")
                if isinstance(reply, Exception) and is_read_only(reply):
                    # A replica now. A connection anew may lead to who has taken its place.
                    self._transport.abort()
                pipeline.replied(reply)
        except hiredis.HiredisError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._former.connection_lost(exc)
        self._pipeline.broke(self, RedisConnectionError("the connection was closed"))


class _Emulated:
    """A connection to a store in this process, which has no transport."""

    def __init__(self, pipeline: Pipeline, connection: AbstractConnection) -> None:
        self.connection = connection
        self._pipeline = pipeline
        self._trip: asyncio.Task[None] | None = None

    def send(self, commands: bytes, count: int) -> None:
        """As `_Line.send`."""
        self._trip = asyncio.create_task(self._go(commands, count))

    def abort(self) -> None:
        """As `_Line.abort`."""
        if self._trip is not None:
            self._trip.cancel()

    async def _go(self, commands: bytes, count: int) -> None:
        try:
            await self.connection.send_packed_command(commands)
            for _ in range(count):
                try:
                    reply = await self.connection.read_response()
                except ResponseError as error:
                    reply = error
                self._pipeline.replied(reply)
        except (RedisError, OSError) as error:
            self._pipeline.broke(self, error)
