"""`memory://`: an emulated server in this process, for demos and tests. Adapter for fakeredis.

fakeredis has neither sockets nor transports, so this module uses only documented methods of its connections
(`send_packed_command`, `read_response`) and of its publish/subscribe client. Whether a store is emulated follows from
its address, never from the attributes of a connection: those change between versions of fakeredis.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fakeredis import FakeAsyncRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from gateway.streams.store.redis_internals import correct_connections
from gateway.streams.store.server import Server

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub
    from redis.asyncio.connection import AbstractConnection

    from gateway.streams.store.pipeline import Pipeline
    from gateway.streams.store.subscription import (
        ChannelCommands,
        OnAcknowledged,
        OnMessage,
        OnRevoked,
        Subscription,
    )


class MemoryServer(Server):
    """The emulated server; its data belong to this object."""

    def __init__(self) -> None:
        client = FakeAsyncRedis()
        correct_connections(client.connection_pool)
        super().__init__(client, _Connection)

    async def _open_subscription(
        self,
        on_message: OnMessage,
        on_acknowledged: OnAcknowledged,
        commands: ChannelCommands,
        on_revoked: OnRevoked | None,
    ) -> Subscription:
        return _Subscription(self.client.pubsub(), on_message, on_acknowledged)


class _Connection:
    """See `pipeline.PipelineConnection`."""

    def __init__(self, pipeline: Pipeline, connection: AbstractConnection) -> None:
        self.connection = connection
        self._pipeline = pipeline
        self._round_trip: asyncio.Task[None] | None = None

    def send(self, commands: bytes, count: int) -> None:
        self._round_trip = asyncio.create_task(self._send(commands, count))

    def abort(self) -> None:
        if self._round_trip is not None:
            self._round_trip.cancel()

    async def _send(self, commands: bytes, count: int) -> None:
        try:
            await self.connection.send_packed_command(commands)
            for _ in range(count):
                try:
                    reply = await self.connection.read_response()
                except ResponseError as error:
                    reply = error
                self._pipeline.replied(reply)
        except (RedisError, OSError) as error:
            self._pipeline.connection_failed(self, error)


class _Subscription:
    """See `subscription.Subscription`."""

    def __init__(self, pubsub: PubSub, on_message: OnMessage, on_acknowledged: OnAcknowledged) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._pubsub = pubsub
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lock = asyncio.Lock()
        self._reading = asyncio.create_task(self._read())
        self._subscribed = asyncio.Event()

    def subscribe(self, *channels: bytes) -> None:
        self._start(self._pubsub.subscribe(*channels))

    def unsubscribe(self, channel: bytes) -> None:
        self._start(self._pubsub.unsubscribe(channel))

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, *self._tasks, return_exceptions=True)
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    def _start(self, request: Any) -> None:
        async def in_order() -> None:
            async with self._lock:
                await request
            self._subscribed.set()

        task = asyncio.create_task(in_order())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self) -> None:
        try:
            await self._subscribed.wait()
            while True:
                message = await self._pubsub.get_message(timeout=1.0)
                if message is not None and message["type"] == "message":
                    self._on_message(message["channel"], message["data"])
                elif message is not None and message["type"] == "subscribe":
                    self._on_acknowledged(message["channel"])
        except (RedisConnectionError, OSError):
            pass
        finally:
            if not self.closed.done():
                self.closed.set_result(None)
