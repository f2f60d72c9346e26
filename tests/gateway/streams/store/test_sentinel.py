"""A store behind sentinels: whoever is the primary, and whatever becomes of the sentinels."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.streams import keys
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import Store, open_store
from tests.gateway.streams.steps import Talk, listening
from tests.topologies import DOWN_AFTER_S, RealSentinels, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# Where everything is slow, sentinels go on changing their minds, and one test's outcome decides the next one's.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=["valkey", "redis"])
def sentinels(request: pytest.FixtureRequest) -> Iterator[RealSentinels]:
    with RealSentinels(request.param) as started:
        yield started


@pytest.fixture
async def behind(sentinels: RealSentinels) -> AsyncIterator[Store]:
    """An empty store behind them."""
    store = await open_store(sentinels.url)
    for client in store.servers.clients:
        await client.flushall()
    yield store
    await store.close()


async def test_a_failover_in_order_costs_nothing(sentinels: RealSentinels, behind: Store) -> None:
    talk = Talk(behind)
    await talk.prepare()
    accepted = await talk.ask()
    writer = await talk.begin()
    failover = asyncio.create_task(asyncio.to_thread(sentinels.promote))
    said = 0
    while not failover.done():
        assert await writer.write(f"{said} ")
        said += 1
    await failover
    assert await writer.write("end")
    await writer.end()
    assert await talk.settled_text(accepted.response) == "".join(f"{number} " for number in range(said)) + "end"


async def test_a_primary_that_is_killed_is_followed_by_its_replica(sentinels: RealSentinels, behind: Store) -> None:
    talk = Talk(behind)
    await talk.prepare()
    accepted = await talk.ask()
    writer = await talk.begin()
    await writer.write("Be")
    primary = sentinels.primary
    began = asyncio.get_running_loop().time()
    primary.kill()
    assert await writer.write("cause")
    await writer.end()
    assert 0.0 < behind.connected_for_s(keys.jobs(talk.partition)) < asyncio.get_running_loop().time() - began
    assert await talk.settled_text(accepted.response) == "Because"
    await asyncio.to_thread(primary.start)
    await asyncio.to_thread(sentinels.wait_until_agreed)


async def test_a_primary_that_is_frozen_is_left_and_heard_no_more(sentinels: RealSentinels, behind: Store) -> None:
    """Its connections live: only the sentinels know that it has been replaced."""
    talk = Talk(behind)
    async with listening(talk) as ear:
        frozen = sentinels.primary
        frozen.freeze()
        began = asyncio.get_running_loop().time()
        # Sent to the frozen one, and failed once it has been replaced.
        await talk.ask()
        assert asyncio.get_running_loop().time() - began < DOWN_AFTER_S + 4.0
        await asyncio.wait_for(ear.closed, 5)
    frozen.resume()
    await asyncio.to_thread(sentinels.wait_until_agreed)


async def test_a_demoted_primary_is_left_at_its_first_refusal(sentinels: RealSentinels, behind: Store) -> None:
    """Where nobody cuts its connections, it says READONLY."""
    talk = Talk(behind)
    await talk.ask()
    primary, replica = sentinels.primary, sentinels.replica
    # As it is for a moment, before the sentinels mend it.
    replica.command("REPLICAOF", "NO", "ONE")
    primary.command("REPLICAOF", "127.0.0.1", replica.port)
    await talk.ask()
    await asyncio.to_thread(sentinels.wait_until_agreed)
    assert len(await talk.queue()) >= 1


async def test_sentinels_may_be_dead_or_frozen_as_long_as_most_live(sentinels: RealSentinels) -> None:
    with sentinels.one_frozen():
        began = asyncio.get_running_loop().time()
        store = await open_store(sentinels.url)
        assert asyncio.get_running_loop().time() - began < 0.9
        await Talk(store).ask()
        await store.close()
    dead = "127.0.0.1:1"
    store = await open_store(sentinels.url.replace("sentinel://", f"sentinel://{dead},"))
    await Talk(store).ask()
    await store.close()


async def test_without_a_sentinel_or_a_service_the_operator_is_told_what_to_do(sentinels: RealSentinels) -> None:
    with pytest.raises(StoreError, match=r"no store answers at sentinel://127\.0\.0\.1:1/main \(.*no sentinel answers"):
        await open_store("sentinel://user:secret@127.0.0.1:1/main")
    with pytest.raises(StoreError, match="the sentinels know no service other"):
        await open_store(sentinels.url.replace("/tokenwire", "/other"))


def test_the_sentinels_are_real(sentinels: RealSentinels) -> None:
    before = sentinels.primary
    sentinels.promote()
    assert sentinels.primary is not before
    until(lambda: before.command("ROLE")[0] == b"slave", "the old primary follows")
