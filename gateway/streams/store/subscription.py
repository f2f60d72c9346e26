"""Subscriptions: published messages at minimal cost per message.

redis-py opens the connection and handles names, TLS and passwords. Its path for published messages costs several times
as much as the gateway's own work, so a protocol feeds hiredis directly.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import hiredis

from gateway.streams import safe_writes
from gateway.streams.store import redis_internals

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.client import Redis
    from redis.asyncio.connection import AbstractConnection

    OnMessage = Callable[[bytes, bytes], None]
    """Called with channel and data of each message."""
    OnAcknowledged = Callable[[bytes], None]
    """Called with a channel when the server has subscribed to it."""
    OnRevoked = Callable[[bytes], None]
    """Called with a channel that the server unsubscribed without a request."""


COALESCE_S: Final = 0.001
"""Seconds. An event loop iteration and a system call cost more than a message: under load messages share them."""


class ChannelCommands(NamedTuple):
    """The command and reply words of one kind of channels."""

    subscribe: bytes
    unsubscribe: bytes
    message: bytes
    subscribed: bytes
    unsubscribed: bytes


PLAIN: Final = ChannelCommands(b"SUBSCRIBE", b"UNSUBSCRIBE", b"message", b"subscribe", b"unsubscribe")
SHARDED: Final = ChannelCommands(b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"smessage", b"ssubscribe", b"sunsubscribe")


class Subscription(Protocol):
    """A connection that receives published messages. `closed` completes when it ends, for any reason."""

    closed: asyncio.Future[None]

    def subscribe(self, *channels: bytes) -> None:
        """Subscribe to channels; each is acknowledged."""

    def unsubscribe(self, channel: bytes) -> None:
        """Unsubscribe from a channel."""

    async def close(self) -> None:
        """Close the connection. Not safe to cancel: the connection may stay open."""


async def open_subscription(
    client: Redis,
    on_message: OnMessage,
    on_acknowledged: OnAcknowledged,
    commands: ChannelCommands = PLAIN,
    on_revoked: OnRevoked | None = None,
) -> Subscription:
    """Open a subscription on a separate connection. Safe to cancel; raises RedisError, OSError."""
    connection: AbstractConnection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return _SocketSubscription(connection, on_message, on_acknowledged, commands, on_revoked)


class _SocketSubscription(asyncio.Protocol):
    def __init__(
        self,
        connection: AbstractConnection,
        on_message: OnMessage,
        on_acknowledged: OnAcknowledged,
        commands: ChannelCommands,
        on_revoked: OnRevoked | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed = self._loop.create_future()
        self._coalesce_until = 0.0
        self._connection = connection
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._commands = commands
        self._on_revoked = on_revoked
        self._unsubscribing: set[bytes] = set()
        self._reader = hiredis.Reader()
        self._transport = redis_internals.transport_of(connection)
        # redis-py closes the connection later and waits until its own protocol is informed.
        self._original_protocol = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def subscribe(self, *channels: bytes) -> None:
        safe_writes.write(self._transport, encode_command(self._commands.subscribe, *channels))

    def unsubscribe(self, channel: bytes) -> None:
        self._unsubscribing.add(channel)
        safe_writes.write(self._transport, encode_command(self._commands.unsubscribe, channel))

    async def close(self) -> None:
        # Without flushing: a frozen server does not read.
        self._transport.abort()
        await self._connection.disconnect()

    def data_received(self, data: bytes) -> None:
        now = self._loop.time()
        if now < self._coalesce_until:
            # Messages arrive in quick succession: pause, so that the next ones are read together.
            safe_writes.pause_reading(self._transport)
            self._loop.call_later(COALESCE_S, safe_writes.resume_reading, self._transport)
        self._coalesce_until = now + COALESCE_S
        reader, on_message, message_kind = self._reader, self._on_message, self._commands.message
        try:
            reader.feed(data)
            while (message := reader.gets()) is not False:
                kind = message[0]
                if kind == message_kind:
                    on_message(message[1], message[2])
                elif kind == self._commands.subscribed:
                    self._on_acknowledged(message[1])
                elif kind == self._commands.unsubscribed:
                    self._unsubscribed(message[1])
        except (hiredis.HiredisError, TypeError):
            # An error reply or another protocol: the next subscription reports it.
            self._transport.abort()

    def _unsubscribed(self, channel: bytes) -> None:
        if channel in self._unsubscribing:
            self._unsubscribing.discard(channel)
        elif self._on_revoked is not None:
            self._on_revoked(channel)

    def connection_lost(self, exc: Exception | None) -> None:
        self._original_protocol.connection_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)


def encode_command(*words: bytes) -> bytes:
    """Return a command in the Redis protocol (RESP2 and 3, "Sending commands to a Redis server")."""
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)])
