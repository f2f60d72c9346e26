"""Redis Cluster: each command goes to the node that owns its slot, and the slot map is refreshed.

redis-py opens the connections. Its own cluster client forgets all nodes after timeouts (redis/redis-py#3221), loses
connections of its pools (#4110) and does not share round trips, so routing is done here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio as aioredis
from redis.exceptions import AskError, MovedError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.streams.store.cluster_subscription import ClusterSubscription
from gateway.streams.store.errors import NoPrimaryError, is_transient
from gateway.streams.store.parallel_requests import ParallelRequests
from gateway.streams.store.pipeline import Argument, Pipeline
from gateway.streams.store.server import COMMAND_TIMEOUT_S, Server, connection_pool
from gateway.streams.store.subscription import SHARDED, ChannelCommands
from gateway.streams.store.topology import Endpoint, SlotMap, endpoint_of, key_of, slot_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.streams.store.subscription import OnAcknowledged, OnMessage, OnRevoked, Subscription

logger = logging.getLogger(__name__)

REFRESH_INTERVAL_S: Final = 0.5
"""Seconds until the replacement of a frozen node is detected."""

MAX_REQUESTS: Final = 3
"""Nodes that are asked for the slot map in parallel."""

MAX_REDIRECTIONS: Final = 8


class Cluster:
    """All primaries of a cluster; the interface of `Server`."""

    publish: Final = "SPUBLISH"

    def __init__(self, seeds: Sequence[Endpoint], options: Mapping[str, Any]) -> None:
        """`seeds`: nodes to contact first, and whenever no other node answers. `options`: redis-py's, for all nodes."""
        self._seeds = tuple(seeds)
        self._options = options
        self._slots = SlotMap()
        self._nodes: dict[Endpoint, _Node] = {}
        self._requests = ParallelRequests()
        self._refreshing: asyncio.Task[None] | None = None
        self._subscriptions: set[ClusterSubscription] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._refresh_loop = asyncio.create_task(self._refresh_periodically())
        self.client: aioredis.Redis = _Client(self, self._node(seeds[0]).client.connection_pool)

    @property
    def clients(self) -> list[aioredis.Redis]:
        """A client of every primary."""
        return [self._node(endpoint).client for endpoint in sorted(self._slots.owners)]

    async def check(self) -> None:
        """Return if the cluster answers. Safe to cancel; raises RedisError, OSError."""
        await self.refresh_slots()
        if not self._slots.owners:
            try:
                await self._node(self._seeds[0]).check()
            except aioredis.AuthenticationError:
                raise
            except (RedisError, OSError):
                pass
            raise NoPrimaryError("no node answers as part of a cluster with slots")
        await self.client.ping()

    async def send_command(self, key: str, *words: Argument) -> Any:
        """Send one command that concerns `key` to the owner of its slot.

        Safe to cancel, as `Pipeline.call`; raises RedisError, OSError.
        """
        return await self._route(slot_of(key), words, bulk=False)

    def connected_for_s(self, key: str) -> float:
        """See `Server.connected_for_s`."""
        endpoint = self._slots.owner(slot_of(key))
        node = self._nodes.get(endpoint) if endpoint is not None else None
        return node.connected_for_s(key) if node is not None else 0.0

    async def send_bulk_command(self, key: str | bytes | None, *words: Argument) -> Any:
        """Send a command with a long reply, so that it does not delay `send_command`; to any node without a `key`.

        Safe to cancel, as `Pipeline.call`; raises RedisError, OSError.
        """
        if key is None:
            if not self._slots.owners:
                await self.refresh_slots()
            endpoint = random.choice(sorted(self._slots.owners) or self._seeds)  # noqa: S311 - balances load
            return await self._node(endpoint).bulk_pipeline.call(*words)
        return await self._route(slot_of(key), words, bulk=True)

    async def _route(self, slot: int, words: Sequence[Argument], *, bulk: bool) -> Any:
        endpoint = self._slots.owner(slot)
        asking = False
        for _ in range(MAX_REDIRECTIONS):
            if endpoint is None:
                await self.refresh_slots()
                endpoint = self._slots.owner(slot)
                if endpoint is None:
                    raise NoPrimaryError("no node of the cluster owns the slot")
            try:
                return await self._node(endpoint).send(words, asking=asking, bulk=bulk)
            except AskError as error:
                # For this command only: the slot is being migrated and this key has moved already.
                endpoint, asking = endpoint_of(error.args[0].split(" ")[-1], endpoint), True
            except MovedError as error:
                endpoint, asking = endpoint_of(error.args[0].split(" ")[-1], endpoint), False
                self._slots.set_owner(slot, endpoint)
                self.schedule_refresh()
            except (RedisError, OSError) as error:
                if is_transient(error):
                    await self.refresh_slots()
                raise
        raise RedisConnectionError("the nodes of the cluster disagree about a slot")

    def _node(self, endpoint: Endpoint) -> _Node:
        node = self._nodes.get(endpoint)
        if node is None:
            node = self._nodes[endpoint] = _Node(endpoint, self._options)
        return node

    async def refresh_slots(self) -> None:
        """Update the slot map; it stays as it is if no node answers. Safe to cancel."""
        await asyncio.shield(self.schedule_refresh())

    def schedule_refresh(self) -> asyncio.Task[None]:
        """Start to update the slot map; return the running update if there is one."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        return self._refreshing

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("cluster_slots_refresh_failed", extra={"error": type(error).__name__})
        for subscription in self._subscriptions:
            subscription.settle()

    async def _refresh(self) -> None:
        nodes = sorted(self._slots.nodes)
        random.shuffle(nodes)
        # Seeds are asked only if no known node answers.
        for endpoints in (nodes[:MAX_REQUESTS], self._seeds):
            requests = [self._node(endpoint).slots() for endpoint in endpoints]
            for asked, reply in await self._requests.first(requests, 1):
                for endpoint in self._slots.update(reply, asked):
                    logger.warning("cluster_node_without_slots", extra={"node": str(endpoint)})
                    self._retire(self._nodes.pop(endpoint, None))
                return

    def _retire(self, node: _Node | None) -> None:
        if node is None:
            return
        task = asyncio.create_task(node.retire())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _refresh_periodically(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            # Not awaited with its result: `_refreshed` logs an exception, which must not end this task.
            await asyncio.wait((self.schedule_refresh(),))

    async def subscribe(self, on_message: OnMessage, on_acknowledged: OnAcknowledged) -> Subscription:
        """Open a subscription; its channels follow their slots from node to node until it is closed. Safe to cancel."""
        subscription = ClusterSubscription(self, on_message, on_acknowledged)
        self._subscriptions.add(subscription)
        subscription.closed.add_done_callback(lambda _: self._subscriptions.discard(subscription))
        return subscription

    def owner(self, slot: int) -> Endpoint | None:
        """Return the owner of a slot; None if it is unknown."""
        return self._slots.owner(slot)

    async def subscribe_at(
        self, endpoint: Endpoint, on_message: OnMessage, on_acknowledged: OnAcknowledged, on_revoked: OnRevoked
    ) -> Subscription:
        """Open a subscription at one node. Safe to cancel; raises RedisError, OSError."""
        return await self._node(endpoint).subscribe(on_message, on_acknowledged, SHARDED, on_revoked)

    async def close(self) -> None:
        """Cancel all calls and close every connection. Not safe to cancel: connections may stay open."""
        tasks = [task for task in (self._refresh_loop, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._requests.close()
        for subscription in list(self._subscriptions):
            await subscription.close()
        for node in self._nodes.values():
            await node.close()
        await asyncio.gather(*self._closing, return_exceptions=True)


class _Node(Server):
    """One node: a primary, or a replica that may be promoted."""

    def __init__(self, endpoint: Endpoint, options: Mapping[str, Any]) -> None:
        super().__init__(aioredis.Redis.from_pool(connection_pool(options, host=endpoint.host, port=endpoint.port)))
        self.endpoint = endpoint
        self.bulk_pipeline = Pipeline(self.client.connection_pool, COMMAND_TIMEOUT_S)
        self._retired = False

    def send(self, words: Sequence[Argument], *, asking: bool, bulk: bool) -> asyncio.Future[Any]:
        """Send a command on the connection for short replies, or on that for long ones (`bulk`)."""
        pipeline = self.bulk_pipeline if bulk else self._pipeline
        if asking:
            # ASKING applies to the next command of the connection; the pipeline keeps both together.
            pipeline.call("ASKING").add_done_callback(_ignore)
        return pipeline.call(*words)

    async def slots(self) -> tuple[Endpoint, Any]:
        """Return this node's endpoint and its reply to CLUSTER SLOTS. Safe to cancel; raises RedisError, OSError."""
        return self.endpoint, await self.client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]

    async def subscribe(
        self,
        on_message: OnMessage,
        on_acknowledged: OnAcknowledged,
        commands: ChannelCommands = SHARDED,
        on_revoked: OnRevoked | None = None,
    ) -> Subscription:
        """See `Server.subscribe`."""
        subscription = await super().subscribe(on_message, on_acknowledged, commands, on_revoked)
        if self._retired:
            await subscription.close()
            raise RedisConnectionError("the node owns no slots any more")
        return subscription

    async def retire(self) -> None:
        """Fail all calls, so that they are routed to another node, and close. Not safe to cancel."""
        self._retired = True
        for pipeline in (self._pipeline, self.bulk_pipeline):
            pipeline.fail_all(RedisConnectionError("another node owns the slot now"))
        await self.close()

    async def close(self) -> None:
        """See `Server.close`."""
        await self.bulk_pipeline.close()
        await super().close()


def _ignore(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled():
        reply.exception()


class _Client(aioredis.Redis):
    """redis-py's commands, each routed to the owner of its key."""

    def __init__(self, cluster: Cluster, connections: aioredis.ConnectionPool) -> None:
        super().__init__(connection_pool=connections)
        self._cluster = cluster

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and parse its reply as redis-py does. Safe to cancel, as `Pipeline.call`."""
        words = [*str(args[0]).split(" "), *args[1:]]
        reply = await self._cluster.send_bulk_command(key_of(words), *words)
        options.pop("keys", None)
        callback = self.response_callbacks.get(args[0])
        return callback(reply, **options) if callback else reply
