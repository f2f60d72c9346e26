"""A store on a cluster: slot migrations and node failures do not lose calls or channels."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.streams import keys
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import Store, open_store
from gateway.streams.store.topology import slot_of
from tests.gateway.streams.steps import Conversation, receiving
from tests.topologies import RealCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.stores import RealServer


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis", marks=pytest.mark.long)])
def cluster(request: pytest.FixtureRequest) -> Iterator[RealCluster]:
    with RealCluster(request.param) as started:
        yield started


@pytest.fixture
async def cluster_store(cluster: RealCluster) -> AsyncIterator[Store]:
    """An empty store on the cluster."""
    store = await open_store(cluster.url)
    for client in store.servers.clients:
        await client.flushall()
    yield store
    await store.close()


def slot(conversation: Conversation) -> int:
    return slot_of(keys.feed(conversation.name))


def other_primary(cluster: RealCluster, conversation: Conversation) -> RealServer:
    """Return a primary that does not own the slot of the conversation."""
    owner = cluster.owner(slot(conversation))
    return next(server for server in cluster.primaries() if server is not owner)


async def test_conversations_use_all_primaries(cluster: RealCluster, cluster_store: Store) -> None:
    conversations = {
        partition: conversation
        for conversation in (Conversation(cluster_store) for _ in range(200))
        for partition in [conversation.partition]
    }
    for conversation in conversations.values():
        async with receiving(conversation) as receiver:
            await conversation.ask()
            assert await receiver.feed()
    assert len({cluster.owner(slot(conversation)).port for conversation in conversations.values()}) == 3


async def test_answer_continues_while_its_slot_migrates(cluster: RealCluster, cluster_store: Store) -> None:
    """Keys move one by one, then the slot: each append reaches the owner of the log, and the channel follows."""
    conversation = Conversation(cluster_store)
    await conversation.prepare()
    async with receiving(conversation) as receiver:
        accepted = await conversation.ask()
        writer = await conversation.begin()
        target = other_primary(cluster, conversation)
        pieces = []

        async def write(piece: str) -> None:
            pieces.append(piece)
            assert await writer.write(piece)

        await write("a ")
        cluster.begin_migration(slot(conversation), target)
        await write("b ")
        while cluster.migrate_keys(slot(conversation), target, 1):
            await write("c ")
        await write("d ")
        cluster.end_migration(slot(conversation), target)
        await write("e ")
        await receiver.acknowledged.get()
        await receiver.feed()
        await write("f")
        assert any(b"Tf" in message for message in await receiver.feed())
        await writer.end()
    assert cluster.owner(slot(conversation)) is target
    assert await conversation.settled_text(accepted.response) == "".join(pieces)


async def test_script_is_retried_until_its_keys_are_on_one_node(cluster: RealCluster, cluster_store: Store) -> None:
    conversation = Conversation(cluster_store)
    await conversation.prepare()
    await conversation.ask()
    target = other_primary(cluster, conversation)
    cluster.begin_migration(slot(conversation), target)
    assert cluster.migrate_keys(slot(conversation), target, 1)
    # TRYAGAIN: its keys are on two nodes.
    asked = asyncio.create_task(conversation.ask())
    await asyncio.wait((asked,), timeout=0.3)
    assert not asked.done()
    while cluster.migrate_keys(slot(conversation), target):
        pass
    cluster.end_migration(slot(conversation), target)
    await asked
    assert len(await conversation.queue()) == 2


@pytest.mark.parametrize("how", ["killed", pytest.param("frozen", marks=pytest.mark.long), "in order"])
async def test_primary_is_replaced_by_its_replica(cluster: RealCluster, cluster_store: Store, how: str) -> None:
    conversation = Conversation(cluster_store)
    await conversation.prepare()
    primary = cluster.owner(slot(conversation))
    replica = cluster.replica(primary)
    try:
        async with receiving(conversation) as receiver:
            accepted = await conversation.ask()
            writer = await conversation.begin()
            await writer.write("Be")
            started_at = asyncio.get_running_loop().time()
            if how == "killed":
                primary.kill()
            elif how == "frozen":
                primary.freeze()
            else:
                replica.command("CLUSTER", "FAILOVER")
            assert await writer.write("cau")
            async with asyncio.timeout(15):
                await receiver.acknowledged.get()
            await receiver.feed()
            assert await writer.write("se")
            assert any(b"Tse" in message for message in await receiver.feed())
            await writer.end()
        assert (
            0.0
            < cluster_store.connected_for_s(keys.jobs(conversation.partition))
            < asyncio.get_running_loop().time() - started_at
        )
        assert cluster.owner(slot(conversation)) is replica
        assert await conversation.settled_text(accepted.response) == "Because"
    finally:
        if how == "killed":
            await asyncio.to_thread(primary.start)
        elif how == "frozen":
            primary.resume()
        await asyncio.to_thread(cluster.wait_until_agreed)


async def test_seed_node_may_fail_once_others_are_known(cluster: RealCluster) -> None:
    seed = cluster.primaries()[0]
    store = await open_store(f"cluster://127.0.0.1:{seed.port}")
    try:
        with seed.frozen():
            for _ in range(10):
                await Conversation(store).ask()
        await asyncio.to_thread(cluster.wait_until_agreed)
    finally:
        await store.close()


async def test_dropped_connections_do_not_affect_callers(cluster: RealCluster, cluster_store: Store) -> None:
    conversation = Conversation(cluster_store)
    async with receiving(conversation) as receiver:
        for count in range(3):
            for server in cluster.primaries():
                server.drop_connections()
            await conversation.ask()
            for _ in ("feed", "control"):
                await receiver.acknowledged.get()
            await receiver.received()
            assert len(await conversation.queue()) == count + 1


async def test_missing_cluster_and_database_are_reported(cluster: RealCluster) -> None:
    with pytest.raises(StoreError, match=r"no store answers at cluster://127\.0\.0\.1:1 "):
        await open_store("cluster://user:secret@127.0.0.1:1")
    with pytest.raises(StoreError, match="no databases"):
        await open_store(f"{cluster.url}/3")
