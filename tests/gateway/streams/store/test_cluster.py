"""A store that is a cluster: slots move, nodes die, and every call and channel finds its way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.streams import keys
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import Store, open_store
from gateway.streams.store.topology import slot_of
from tests.gateway.streams.steps import Talk, listening
from tests.topologies import RealCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.stores import RealServer


@pytest.fixture(scope="module", params=["valkey", pytest.param("redis", marks=pytest.mark.long)])
def cluster(request: pytest.FixtureRequest) -> Iterator[RealCluster]:
    with RealCluster(request.param) as started:
        yield started


@pytest.fixture
async def spread(cluster: RealCluster) -> AsyncIterator[Store]:
    """An empty store on the cluster."""
    store = await open_store(cluster.url)
    for client in store.servers.clients:
        await client.flushall()
    yield store
    await store.close()


def slot(talk: Talk) -> int:
    return slot_of(keys.feed(talk.name))


def another(cluster: RealCluster, talk: Talk) -> RealServer:
    """A primary that does not have the conversation."""
    owner = cluster.owner(slot(talk))
    return next(server for server in cluster.primaries() if server is not owner)


async def test_conversations_are_spread_over_all_primaries(cluster: RealCluster, spread: Store) -> None:
    talks = {partition: talk for talk in (Talk(spread) for _ in range(200)) for partition in [talk.partition]}
    for talk in talks.values():
        async with listening(talk) as ear:
            await talk.ask()
            assert await ear.feed()
    assert len({cluster.owner(slot(talk)).port for talk in talks.values()}) == 3


async def test_an_answer_goes_on_while_its_slot_moves(cluster: RealCluster, spread: Store) -> None:
    """Key by key, and then the slot: each append goes to who has the log, and the channel is heard at its new place."""
    talk = Talk(spread)
    await talk.prepare()
    async with listening(talk) as ear:
        accepted = await talk.ask()
        writer = await talk.begin()
        target = another(cluster, talk)
        pieces = []

        async def write(piece: str) -> None:
            pieces.append(piece)
            assert await writer.write(piece)

        await write("a ")
        cluster.begin_migration(slot(talk), target)
        await write("b ")
        while cluster.migrate_keys(slot(talk), target, 1):
            await write("c ")
        await write("d ")
        cluster.end_migration(slot(talk), target)
        await write("e ")
        await ear.acknowledged.get()
        await ear.feed()
        await write("f")
        assert any(b"Tf" in said for said in await ear.feed())
        await writer.end()
    assert cluster.owner(slot(talk)) is target
    assert await talk.settled_text(accepted.response) == "".join(pieces)


async def test_a_script_over_many_keys_waits_until_they_are_together_again(cluster: RealCluster, spread: Store) -> None:
    talk = Talk(spread)
    await talk.prepare()
    await talk.ask()
    target = another(cluster, talk)
    cluster.begin_migration(slot(talk), target)
    assert cluster.migrate_keys(slot(talk), target, 1)
    # TRYAGAIN: some of its keys are at either place.
    asked = asyncio.create_task(talk.ask())
    await asyncio.wait((asked,), timeout=0.3)
    assert not asked.done()
    while cluster.migrate_keys(slot(talk), target):
        pass
    cluster.end_migration(slot(talk), target)
    await asked
    assert len(await talk.queue()) == 2


@pytest.mark.parametrize("how", ["killed", pytest.param("frozen", marks=pytest.mark.long), "in order"])
async def test_a_primary_is_followed_by_its_replica(cluster: RealCluster, spread: Store, how: str) -> None:
    talk = Talk(spread)
    await talk.prepare()
    primary = cluster.owner(slot(talk))
    replica = cluster.replica(primary)
    try:
        async with listening(talk) as ear:
            accepted = await talk.ask()
            writer = await talk.begin()
            await writer.write("Be")
            began = asyncio.get_running_loop().time()
            if how == "killed":
                primary.kill()
            elif how == "frozen":
                primary.freeze()
            else:
                replica.command("CLUSTER", "FAILOVER")
            assert await writer.write("cau")
            async with asyncio.timeout(15):
                await ear.acknowledged.get()
            await ear.feed()
            assert await writer.write("se")
            assert any(b"Tse" in said for said in await ear.feed())
            await writer.end()
        assert 0.0 < spread.connected_for_s(keys.jobs(talk.partition)) < asyncio.get_running_loop().time() - began
        assert cluster.owner(slot(talk)) is replica
        assert await talk.settled_text(accepted.response) == "Because"
    finally:
        if how == "killed":
            await asyncio.to_thread(primary.start)
        elif how == "frozen":
            primary.resume()
        await asyncio.to_thread(cluster.wait_until_agreed)


async def test_the_node_that_was_named_may_go_once_others_are_known(cluster: RealCluster) -> None:
    named = cluster.primaries()[0]
    store = await open_store(f"cluster://127.0.0.1:{named.port}")
    try:
        with named.frozen():
            for _ in range(10):
                await Talk(store).ask()
        await asyncio.to_thread(cluster.wait_until_agreed)
    finally:
        await store.close()


async def test_cut_connections_are_no_ones_concern(cluster: RealCluster, spread: Store) -> None:
    talk = Talk(spread)
    async with listening(talk) as ear:
        for turn in range(3):
            for server in cluster.primaries():
                server.drop_connections()
            await talk.ask()
            for _ in ("feed", "control"):
                await ear.acknowledged.get()
            await ear.heard()
            assert len(await talk.queue()) == turn + 1


async def test_without_a_cluster_the_operator_is_told_what_to_do(cluster: RealCluster) -> None:
    with pytest.raises(StoreError, match=r"no store answers at cluster://127\.0\.0\.1:1 "):
        await open_store("cluster://user:secret@127.0.0.1:1")
    with pytest.raises(StoreError, match="no databases"):
        await open_store(f"{cluster.url}/3")
