"""A store behind sentinels: failovers of the primary and failures of sentinels."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.streams import keys
from gateway.streams.store import parallel_requests, sentinel
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import Store, open_store
from tests.gateway.streams.steps import Conversation, receiving
from tests.topologies import RealSentinels, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# Failovers take seconds, and a failed one affects the tests that share these servers.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=["valkey", "redis"])
def sentinels(request: pytest.FixtureRequest) -> Iterator[RealSentinels]:
    with RealSentinels(request.param) as started:
        yield started


@pytest.fixture
async def sentinel_store(sentinels: RealSentinels) -> AsyncIterator[Store]:
    """An empty store behind the sentinels."""
    store = await open_store(sentinels.url)
    for client in store.servers.clients:
        await client.flushall()
    yield store
    await store.close()


async def test_orderly_failover_loses_nothing(sentinels: RealSentinels, sentinel_store: Store) -> None:
    conversation = Conversation(sentinel_store)
    await conversation.prepare()
    accepted = await conversation.ask()
    writer = await conversation.begin()
    # A claim that the new primary lacks makes the writer a fenced one.
    assert await conversation.redis.wait(1, 30_000) == 1
    failover = asyncio.create_task(asyncio.to_thread(sentinels.promote))
    count = 0
    while not failover.done():
        assert await writer.write(f"{count} ")
        count += 1
    await failover
    assert await writer.write("end")
    await writer.end()
    assert (
        await conversation.settled_text(accepted.response) == "".join(f"{number} " for number in range(count)) + "end"
    )


async def test_killed_primary_is_replaced_by_its_replica(sentinels: RealSentinels, sentinel_store: Store) -> None:
    conversation = Conversation(sentinel_store)
    await conversation.prepare()
    accepted = await conversation.ask()
    writer = await conversation.begin()
    await writer.write("Be")
    primary = sentinels.primary
    started_at = asyncio.get_running_loop().time()
    primary.kill()
    assert await writer.write("cause")
    await writer.end()
    assert (
        0.0
        < sentinel_store.connected_for_s(keys.jobs(conversation.partition))
        < asyncio.get_running_loop().time() - started_at
    )
    assert await conversation.settled_text(accepted.response) == "Because"
    await asyncio.to_thread(primary.start)
    await asyncio.to_thread(sentinels.wait_until_agreed)


async def test_connections_to_a_frozen_primary_are_closed(sentinels: RealSentinels, sentinel_store: Store) -> None:
    """Its connections stay open; only the sentinels report that it was replaced."""
    conversation = Conversation(sentinel_store)
    async with receiving(conversation) as receiver:
        frozen = sentinels.primary
        frozen.freeze()
        # Sent to the frozen primary, which never replies; retried once the primary is replaced.
        await conversation.ask()
        await asyncio.wait_for(receiver.closed, 30)
    frozen.resume()
    await asyncio.to_thread(sentinels.wait_until_agreed)


async def test_demoted_primary_is_left_at_its_first_rejection(sentinels: RealSentinels, sentinel_store: Store) -> None:
    """Its connections stay open and it replies READONLY."""
    conversation = Conversation(sentinel_store)
    await conversation.ask()
    primary, replica = sentinels.primary, sentinels.replica
    # A state that the sentinels repair soon.
    replica.command("REPLICAOF", "NO", "ONE")
    primary.command("REPLICAOF", "127.0.0.1", replica.port)
    await conversation.ask()
    await asyncio.to_thread(sentinels.wait_until_agreed)
    assert len(await conversation.queue()) >= 1


async def test_minority_of_dead_or_frozen_sentinels_is_tolerated(
    sentinels: RealSentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the test: opening must not wait for the frozen sentinel to time out.
    monkeypatch.setattr(sentinel, "REPLY_TIMEOUT_S", 600.0)
    monkeypatch.setattr(parallel_requests, "REPLY_TIMEOUT_S", 600.0)
    with sentinels.one_frozen():
        async with asyncio.timeout(30):
            store = await open_store(sentinels.url)
        await Conversation(store).ask()
        await store.close()
    dead = "127.0.0.1:1"
    store = await open_store(sentinels.url.replace("sentinel://", f"sentinel://{dead},"))
    await Conversation(store).ask()
    await store.close()


async def test_missing_sentinel_and_unknown_service_are_reported(sentinels: RealSentinels) -> None:
    with pytest.raises(StoreError, match=r"no store answers at sentinel://127\.0\.0\.1:1/main \(.*no sentinel answers"):
        await open_store("sentinel://user:secret@127.0.0.1:1/main")
    with pytest.raises(StoreError, match="the sentinels know no service other"):
        await open_store(sentinels.url.replace("/tokenwire", "/other"))


def test_sentinels_of_the_fixture_fail_over(sentinels: RealSentinels) -> None:
    before = sentinels.primary
    sentinels.promote()
    assert sentinels.primary is not before
    until(lambda: before.command("ROLE")[0] == b"slave", "the old primary is a replica")
