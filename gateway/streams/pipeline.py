"""Calls of many tasks share round trips: one is under way at a time, and what is asked meanwhile goes with the next.

So a call into an idle pipeline goes out at once, and the busier the store, the more calls share the cost of a trip.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import hiredis
from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

Argument: TypeAlias = str | bytes | int

MOST_CALLS: Final = 128
MOST_BYTES: Final = 262_144
"""A round trip holds at most so many calls and, but for its last call, bytes: the others of the process wait for it."""


class _Call(NamedTuple):
    command: bytes
    reply: asyncio.Future[Any]


class Pipeline:
    """The round trips to one server, or to one node of a cluster."""

    def __init__(self, pool: ConnectionPool, patience: float) -> None:
        """`pool`: where each round trip takes its connection from, and brings it back to. `patience`: the seconds that
        a server may take for the replies of one.
        """
        self._pool = pool
        self._patience = patience
        self._waiting: list[_Call] = []
        self._trips: asyncio.Task[None] | None = None

    async def call(self, *words: Argument) -> Any:
        """Send one command and return its reply; raise the server's error, or why it could not be reached.

        A call that is cancelled is not sent any more, or its reply is dropped. No other call notices.
        """
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Its stub speaks of tuples of one.
        self._waiting.append(_Call(hiredis.pack_command(words), reply))  # type: ignore[arg-type]
        if self._trips is None:
            self._trips = asyncio.create_task(self._travel())
        return await reply

    async def close(self) -> None:
        """Give up what is under way or waits: its callers are cancelled."""
        for call in self._waiting:
            call.reply.cancel()
        if self._trips is not None:
            self._trips.cancel()
            await asyncio.wait((self._trips,))

    async def _travel(self) -> None:
        batch: list[_Call] = []
        try:
            while batch := self._next():
                try:
                    connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
                    try:
                        while batch:
                            await self._go(connection, batch)
                            batch = self._next()
                    finally:
                        await self._pool.release(connection)
                except Exception as error:  # whatever it is, those who wait for a reply have to hear of it
                    for call in batch:
                        if not call.reply.done():
                            call.reply.set_exception(error)
        finally:
            # Nobody waits any more, unless this was given up in the middle.
            for call in batch:
                call.reply.cancel()
            self._trips = None

    def _next(self) -> list[_Call]:
        """The calls of the next round trip, oldest first."""
        # Whoever has given up before its call was sent takes it back.
        waiting = [call for call in self._waiting if not call.reply.done()]
        size = count = 0
        for call in waiting[:MOST_CALLS]:
            if size >= MOST_BYTES:
                break
            size += len(call.command)
            count += 1
        self._waiting = waiting[count:]
        return waiting[:count]

    async def _go(self, connection: AbstractConnection, batch: list[_Call]) -> None:
        await connection.send_packed_command(b"".join([call.command for call in batch]))
        async with asyncio.timeout(self._patience):
            for call in batch:
                await self._read(connection, call.reply)

    @staticmethod
    async def _read(connection: AbstractConnection, reply: asyncio.Future[Any]) -> None:
        try:
            # The round trip has one limit of time; one of redis-py's for each reply would cost more than reading it.
            answer = await connection.read_response(timeout=math.inf)
        except ResponseError as error:
            if not reply.done():
                reply.set_exception(error)
        else:
            if not reply.done():
                reply.set_result(answer)
