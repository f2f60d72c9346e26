"""What is published, with the least of Python for each message: a connection of redis-py's that only listens.

redis-py sets it up, whatever the address asks for: names, TLS, passwords. From then on a protocol feeds what arrives
to hiredis itself, because redis-py's own way to a published message costs several times what the gateway does with it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.client import PubSub, Redis
    from redis.asyncio.connection import AbstractConnection

    OnMessage = Callable[[bytes, bytes], None]
    OnAcknowledged = Callable[[bytes], None]


GATHER: Final = 0.001
"""Seconds. A turn of the loop and a system call cost more than a message: under load they are shared."""


class Vocabulary(NamedTuple):
    """The words of one kind of channels: what is sent, and what is heard."""

    subscribe: bytes
    unsubscribe: bytes
    message: bytes
    subscribed: bytes
    unsubscribed: bytes


PLAIN: Final = Vocabulary(b"SUBSCRIBE", b"UNSUBSCRIBE", b"message", b"subscribe", b"unsubscribe")
SHARDED: Final = Vocabulary(b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"smessage", b"ssubscribe", b"sunsubscribe")


class Subscription(Protocol):
    """Open until `closed` is done, for whatever reason."""

    closed: asyncio.Future[None]

    def subscribe(self, *channels: bytes) -> None:
        """Ask for channels; each is acknowledged."""

    def unsubscribe(self, channel: bytes) -> None:
        """Ask for a channel no longer."""

    async def close(self) -> None:
        """Give the connection up."""


async def open_subscription(
    client: Redis,
    on_message: OnMessage,
    on_acknowledged: OnAcknowledged,
    vocabulary: Vocabulary = PLAIN,
    moved: OnAcknowledged | None = None,
) -> Subscription:
    """Open a subscription: `heard` is called with channel and data of each message, `acknowledged` with a channel, and
    `moved` with a channel that the server has given up of itself.

    Raises RedisError, OSError.
    """
    connection: AbstractConnection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    transport: asyncio.Transport | None = getattr(connection._writer, "transport", None)
    if transport is None:
        await connection.disconnect()
        return _Emulated(client.pubsub(), on_message, on_acknowledged)
    return _Listener(connection, transport, on_message, on_acknowledged, vocabulary, moved)


class _Listener(asyncio.Protocol):
    def __init__(
        self,
        connection: AbstractConnection,
        transport: asyncio.Transport,
        on_message: OnMessage,
        on_acknowledged: OnAcknowledged,
        vocabulary: Vocabulary,
        moved: OnAcknowledged | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed = self._loop.create_future()
        self._quiet_until = 0.0
        self._connection = connection
        self._transport = transport
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._vocabulary = vocabulary
        self._moved = moved
        self._dropped: set[bytes] = set()
        self._reader = hiredis.Reader()
        # redis-py still closes the connection, and waits for its own protocol to hear of that.
        self._former = transport.get_protocol()
        transport.set_protocol(self)

    def subscribe(self, *channels: bytes) -> None:
        self._transport.write(packed(self._vocabulary.subscribe, *channels))

    def unsubscribe(self, channel: bytes) -> None:
        self._dropped.add(channel)
        self._transport.write(packed(self._vocabulary.unsubscribe, channel))

    async def close(self) -> None:
        # Not after what is still to be sent: a frozen server reads nothing any more.
        self._transport.abort()
        await self._connection.disconnect()

    def data_received(self, data: bytes) -> None:
        now = self._loop.time()
        if now < self._quiet_until:
            # One message after another: the next ones are left to gather for a moment, and then read as one.
            self._transport.pause_reading()
            self._loop.call_later(GATHER, self._transport.resume_reading)
        self._quiet_until = now + GATHER
        reader, on_message, message_kind = self._reader, self._on_message, self._vocabulary.message
        try:
            reader.feed(data)
            while (message := reader.gets()) is not False:
                kind = message[0]
                if kind == message_kind:
                    on_message(message[1], message[2])
                elif kind == self._vocabulary.subscribed:
                    self._on_acknowledged(message[1])
                elif kind == self._vocabulary.unsubscribed:
                    self._given_up(message[1])
        except (hiredis.HiredisError, TypeError):
            # It refuses us, or speaks something else; a subscription anew will tell.
            self._transport.abort()

    def _given_up(self, channel: bytes) -> None:
        if channel in self._dropped:
            self._dropped.discard(channel)
        elif self._moved is not None:
            self._moved(channel)

    def connection_lost(self, exc: Exception | None) -> None:
        self._former.connection_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)


def packed(*words: bytes) -> bytes:
    """A command in Redis' protocol (RESP2 and 3, "Sending commands to a Redis server")."""
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)])


class _Emulated:
    """On a store in this process, which has no transport."""

    def __init__(self, pubsub: PubSub, on_message: OnMessage, on_acknowledged: OnAcknowledged) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self._pubsub = pubsub
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lock = asyncio.Lock()
        self._listening = asyncio.create_task(self._listen())
        self._first = asyncio.Event()

    def subscribe(self, *channels: bytes) -> None:
        self._run(self._pubsub.subscribe(*channels))

    def unsubscribe(self, channel: bytes) -> None:
        self._run(self._pubsub.unsubscribe(channel))

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, *self._tasks, return_exceptions=True)
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    def _run(self, work: Any) -> None:
        async def one_at_a_time() -> None:
            async with self._lock:
                await work
            self._first.set()

        task = asyncio.create_task(one_at_a_time())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        try:
            await self._first.wait()
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
