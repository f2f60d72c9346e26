"""A cluster: each command to the node that has its slot, and a subscription that is heard from all of them.

redis-py sets connections up. Its own client for clusters forgets every node after time-outs (redis/redis-py#3221) and
loses connections of its pools (#4110), and knows no round trips that are shared, so who has what is decided here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio as aioredis
from redis.exceptions import AskError, MovedError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.streams.store.errors import NoPrimaryError, is_transient
from gateway.streams.store.pipeline import Argument, Pipeline
from gateway.streams.store.poll import Poll
from gateway.streams.store.server import COMMAND_TIMEOUT, Server, pool
from gateway.streams.store.subscription import SHARDED, Vocabulary
from gateway.streams.store.topology import Endpoint, Placement, SlotMap, endpoint_of, key_of, slot_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.streams.store.subscription import OnAcknowledged, OnMessage, Subscription

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.5
"""Seconds until it is noticed that a frozen node was replaced."""

MAX_ASKED: Final = 3
"""Nodes that are asked at once where the slots are."""

MAX_REDIRECTIONS: Final = 8

PAUSE: Final = 0.2
"""Seconds between two subscriptions at one node."""


class Cluster:
    """Every primary of a cluster, as a store uses them."""

    publish: Final = "SPUBLISH"

    def __init__(self, places: Sequence[Endpoint], options: Mapping[str, Any]) -> None:
        """`places`: the nodes to ask first, and whenever no other answers. `options`: redis-py's, for every node."""
        self._first = tuple(places)
        self._options = options
        self._slots = SlotMap()
        self._nodes: dict[Endpoint, _Node] = {}
        self._poll = Poll()
        self._learning: asyncio.Task[None] | None = None
        self._subscriptions: set[_Subscription] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._looking = asyncio.create_task(self._look())
        self.client: aioredis.Redis = _Client(self, self._node(places[0]).client.connection_pool)

    @property
    def clients(self) -> list[aioredis.Redis]:
        """A client of every primary."""
        return [self._node(place).client for place in sorted(self._slots.owners)]

    async def check(self) -> None:
        """Return if the cluster answers; raises RedisError, OSError."""
        await self.learn()
        if not self._slots.owners:
            raise NoPrimaryError("no node answers as one of a cluster with slots")
        await self.client.ping()

    async def send_command(self, key: str, *words: Argument) -> Any:
        """Send one command, which concerns `key`, to who has it; raises RedisError, OSError."""
        return await self._route(slot_of(key), words, bulk=False)

    def connected_for_s(self, key: str) -> float:
        """As Server.connected_for_s."""
        place = self._slots.owner(slot_of(key))
        node = self._nodes.get(place) if place is not None else None
        return node.connected_for_s(key) if node is not None else 0.0

    async def command(self, key: str | bytes | None, *words: Argument) -> Any:
        """As `ask`, for what has a long reply; to any node where there is no `key`."""
        if key is None:
            if not self._slots.owners:
                await self.learn()
            place = random.choice(sorted(self._slots.owners) or self._first)  # noqa: S311 - spreads the work
            return await self._node(place).reads.call(*words)
        return await self._route(slot_of(key), words, bulk=True)

    async def _route(self, slot: int, words: Sequence[Argument], *, bulk: bool) -> Any:
        place = self._slots.owner(slot)
        asking = False
        for _ in range(MAX_REDIRECTIONS):
            if place is None:
                await self.learn()
                place = self._slots.owner(slot)
                if place is None:
                    raise NoPrimaryError("no node of the cluster has the slot")
            try:
                return await self._node(place).send(words, asking=asking, bulk=bulk)
            except AskError as error:
                # This once: the slot is on its way, and this key has gone ahead.
                place, asking = endpoint_of(error.args[0].split(" ")[-1], place), True
            except MovedError as error:
                place, asking = endpoint_of(error.args[0].split(" ")[-1], place), False
                self._slots.moved(slot, place)
                self.learn_soon()
            except (RedisError, OSError) as error:
                if is_transient(error):
                    await self.learn()
                raise
        raise RedisConnectionError("the nodes of the cluster disagree about a slot")

    def _node(self, place: Endpoint) -> _Node:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes[place] = _Node(place, self._options)
        return node

    async def learn(self) -> None:
        """Ask the cluster where its slots are, and leave those who have none any more; nothing where nobody answers."""
        await asyncio.shield(self.learn_soon())

    def learn_soon(self) -> asyncio.Task[None]:
        """Begin to learn, or return what was begun."""
        if self._learning is None:
            self._learning = asyncio.create_task(self._learn())
            self._learning.add_done_callback(self._learned)
        return self._learning

    def _learned(self, task: asyncio.Task[None]) -> None:
        self._learning = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the cluster's slots could not be taken (%s)", type(error).__name__)
        for subscription in self._subscriptions:
            subscription.settle()

    async def _learn(self) -> None:
        known = sorted(self._slots.known)
        random.shuffle(known)
        # The first ones are never forgotten, but asked only where those known since do not answer.
        for places in (known[:MAX_ASKED], self._first):
            for asked, reply in await self._poll.answers([self._node(place).slots() for place in places], 1):
                for place in self._slots.learn(reply, asked):
                    logger.warning("the cluster's node %s has no slots any more", place)
                    self._leave(self._nodes.pop(place, None))
                return

    def _leave(self, node: _Node | None) -> None:
        if node is None:
            return
        task = asyncio.create_task(node.leave())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.learn()

    async def subscribe(self, on_message: OnMessage, on_acknowledged: OnAcknowledged) -> Subscription:
        """Open a subscription, which follows its channels from node to node until it is closed."""
        subscription = _Subscription(self, on_message, on_acknowledged)
        self._subscriptions.add(subscription)
        subscription.closed.add_done_callback(lambda _: self._subscriptions.discard(subscription))
        return subscription

    def owner(self, slot: int) -> Endpoint | None:
        """Who has a slot, as far as is known."""
        return self._slots.owner(slot)

    async def open(
        self, place: Endpoint, on_message: OnMessage, on_acknowledged: OnAcknowledged, moved: OnAcknowledged
    ) -> Subscription:
        """Open a subscription at one node; `moved` is called with each channel that is not heard there any more."""
        return await self._node(place).subscribe(on_message, on_acknowledged, SHARDED, moved)

    async def close(self) -> None:
        """Close every connection; what is under way is cancelled."""
        tasks = [task for task in (self._looking, self._learning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._poll.close()
        for subscription in list(self._subscriptions):
            await subscription.close()
        for node in self._nodes.values():
            await node.close()
        await asyncio.gather(*self._closing, return_exceptions=True)


class _Node(Server):
    """One primary, or a node that may become one."""

    def __init__(self, place: Endpoint, options: Mapping[str, Any]) -> None:
        super().__init__(aioredis.Redis.from_pool(pool(options, host=place.host, port=place.port)))
        self.place = place
        self.reads = Pipeline(self.client.connection_pool, COMMAND_TIMEOUT)
        self._left = False

    def send(self, words: Sequence[Argument], *, asking: bool, bulk: bool) -> asyncio.Future[Any]:
        """Send a command on the connection for short replies, or on that for long ones (`bulk`)."""
        pipeline = self.reads if bulk else self._pipeline
        if asking:
            # It counts for the next command of the connection, and nothing comes in between.
            pipeline.call("ASKING").add_done_callback(_ignore)
        return pipeline.call(*words)

    async def slots(self) -> tuple[Endpoint, Any]:
        """This node's place, and what it replies to CLUSTER SLOTS."""
        return self.place, await self.client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]

    async def subscribe(
        self,
        on_message: OnMessage,
        on_acknowledged: OnAcknowledged,
        vocabulary: Vocabulary = SHARDED,
        moved: OnAcknowledged | None = None,
    ) -> Subscription:
        """As Server.subscribe."""
        subscription = await super().subscribe(on_message, on_acknowledged, vocabulary, moved)
        if self._left:
            await subscription.close()
            raise RedisConnectionError("the node has left")
        return subscription

    async def leave(self) -> None:
        """Fail what is under way, so that it is sent to another node, and close."""
        self._left = True
        for pipeline in (self._pipeline, self.reads):
            pipeline.drop(RedisConnectionError("another node has the slot now"))
        await self.close()

    async def close(self) -> None:
        """As Server.close."""
        await self.reads.close()
        await super().close()


def _ignore(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled():
        reply.exception()


class _Client(aioredis.Redis):
    """The commands of redis-py, each sent to who has its key."""

    def __init__(self, cluster: Cluster, connections: aioredis.ConnectionPool) -> None:
        super().__init__(connection_pool=connections)
        self._cluster = cluster

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and parse its reply as redis-py does."""
        words = [*str(args[0]).split(" "), *args[1:]]
        reply = await self._cluster.command(key_of(words), *words)
        options.pop("keys", None)
        callback = self.response_callbacks.get(args[0])
        return callback(reply, **options) if callback else reply


class _Subscription:
    """What is published at all nodes: a connection for each that has channels of ours."""

    def __init__(self, cluster: Cluster, on_message: OnMessage, on_acknowledged: OnAcknowledged) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cluster = cluster
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._placement = Placement()
        self._parts: dict[Endpoint, Subscription] = {}
        self._listening: dict[Endpoint, asyncio.Task[None]] = {}
        self._opened_at: dict[Endpoint, float] = {}

    def subscribe(self, *channels: bytes) -> None:
        """As Subscription.subscribe."""
        self._placement.want(channels)
        self.settle()

    def unsubscribe(self, channel: bytes) -> None:
        """As Subscription.unsubscribe."""
        place = self._placement.drop(channel)
        if place is not None and place in self._parts:
            self._parts[place].unsubscribe(channel)

    def settle(self) -> None:
        """Ask for each channel at who has its slot, as far as that is known and not done."""
        if self.closed.done():
            return
        for place, groups in self._placement.due(self._cluster.owner).items():
            part = self._parts.get(place)
            if part is not None:
                for channels in groups:
                    part.subscribe(*channels)
                    self._placement.asked(place, channels)
            elif place not in self._listening:
                self._listening[place] = asyncio.create_task(self._listen(place))

    async def _listen(self, place: Endpoint) -> None:
        """Have a connection to a node until it is lost."""
        loop = asyncio.get_running_loop()
        # A node that refuses us at once is not asked in a loop.
        await asyncio.sleep(self._opened_at.get(place, 0.0) + PAUSE - loop.time())
        self._opened_at[place] = loop.time()
        try:
            part = await self._cluster.open(place, self._on_message, self._on_acknowledged, partial(self._moved, place))
            try:
                self._parts[place] = part
                self.settle()
                await part.closed
            finally:
                del self._parts[place]
                await part.close()
        except (RedisError, OSError) as error:
            logger.warning("the cluster's node %s could not be listened to (%s)", place, type(error).__name__)
        finally:
            del self._listening[place]
            self._placement.lost(place)
        self._cluster.learn_soon()

    def _moved(self, place: Endpoint, channel: bytes) -> None:
        # Its slot went away, and the node says so with the last word on it.
        self._placement.lost(place, channel)
        self._cluster.learn_soon()

    async def close(self) -> None:
        """As Subscription.close."""
        if not self.closed.done():
            self.closed.set_result(None)
        tasks = list(self._listening.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
