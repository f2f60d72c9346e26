"""Failovers and slot migrations of the store during answers: the final text is exact, or a `reset` came before it.

`pytest tests/live/test_failover.py -m long` runs a hundred failovers that lose acknowledged entries, and fifty slot
migrations of each kind.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from typing import TYPE_CHECKING

import pytest

from gateway.streams import keys, response_log
from gateway.streams.store.topology import slot_of
from tests.gateway.streams.steps import lose_tail
from tests.live.client import Client
from tests.live.conftest import Deployment, entries, text_of
from tests.provider_server import Scenario
from tests.stores import RealServer
from tests.topologies import RealCluster

if TYPE_CHECKING:
    from gateway.streams.store.store import Store
    from tests.live.processes import WorkerProcess


pytestmark = pytest.mark.live

PIECES = tuple(f"word{n} " for n in range(100))
LOST = 60
"""Minimum of the characters that a failover loses of each answer."""

ALL = ["sentinel", "cluster", "redis-sentinel", "redis-cluster"]


class Answers:
    """Open answers, each with a tab on either gateway."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.clients: list[Client] = []
        self.responses: list[str] = []
        self.prompts: list[str] = []
        self.finish = threading.Event()
        """No answer ends before that: a failover that loses an end leads to another answer."""

    async def begin(self, conversations: list[str]) -> None:
        for number, conversation in enumerate(conversations):
            prompt = f"failover {secrets.token_hex(4)}"
            self.deployment.provider.scenarios[prompt] = Scenario(pieces=PIECES, delay=0.02, finish=self.finish)
            asking, other = Client(conversation), Client(conversation)
            await asking.connect(self.deployment.urls()[number % 2])
            await other.connect(self.deployment.urls()[(number + 1) % 2])
            response = await asking.ask(prompt, model="fake")
            self.clients += [asking, other]
            self.responses += [response, response]
            self.prompts.append(prompt)
        await self.show(30)

    async def show(self, characters: int) -> None:
        """Wait until so many more characters of each answer are shown."""
        seen = [len(self.text(number)) for number in range(len(self.clients))]
        for number, client in enumerate(self.clients):
            await client.shows(self.responses[number], seen[number] + characters)

    def text(self, number: int) -> str:
        return self.clients[number].answer(self.responses[number]).text

    async def end(self, calls: int = 1) -> int:
        """Wait for the ends; return the number of tabs that got a `reset`.

        `Client` raises an error where the shown text does not follow from the frames.
        """
        self.finish.set()
        resets = 0
        for client, response in zip(self.clients, self.responses, strict=True):
            answer = await client.ended(response, 60.0)
            assert answer.reason == "complete"
            log = await entries(self.deployment.server.url, response)
            assert answer.text == "".join(PIECES) == text_of(log) == await client.settled(response)
            assert [entry.seq for entry, _ in log] == list(range(1, len(log) + 1))
            assert client.close_code is None
            resets += bool(answer.resets)
            await client.close()
        assert {self.deployment.calls(prompt) for prompt in self.prompts} <= set(range(1, calls + 1)), (
            self.deployment.logs()
        )
        return resets


def named(partitions: set[int], count: int) -> list[str]:
    """Return names of new conversations in some partitions."""
    found: list[str] = []
    while len(found) < count:
        name = f"failover-{secrets.token_hex(5)}"
        if keys.partition_of(name) in partitions:
            found.append(name)
    return found


class Failovers:
    """Failovers to a primary without the last entries that the old primary acknowledged."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.repaired = self.reset = 0

    async def round(self, count: int, worker: WorkerProcess | None = None) -> WorkerProcess | None:
        """Let `count` answers lose their tails at once; with `worker`, it dies too and leaves its own to another one,
        which is returned.
        """
        servers = self.deployment.server
        assert not isinstance(servers, RealServer)
        if isinstance(servers, RealCluster):
            primary = servers.primaries()[secrets.randbelow(3)]
            replica = servers.replica(primary)
            all_of = range(keys.PARTITIONS)
            names = named({each for each in all_of if servers.owner(slot_of(keys.jobs(each))) is primary}, count)
        else:
            primary, replica = servers.primary, servers.replica
            names = [f"failover-{secrets.token_hex(5)}" for _ in range(count)]
        answers = Answers(self.deployment)
        await answers.begin(names)
        servers.stop_replication(primary, replica)
        await answers.show(LOST)
        if worker is not None:
            worker.kill()
        # The old primary still acknowledges writes until it receives the new configuration.
        if isinstance(servers, RealCluster):
            replica.command("CLUSTER", "FAILOVER", "TAKEOVER")
        else:
            await asyncio.to_thread(servers.fail_over)
        await asyncio.to_thread(servers.restart_replication)
        another = await asyncio.to_thread(self.deployment.worker) if worker is not None else None
        # A take-over may be lost with the old primary, and is repeated.
        resets = await answers.end(3 if worker is not None else 1)
        self.reset += resets
        self.repaired += len(answers.clients) - resets
        return another


async def test_lost_tail_is_written_again_while_the_provider_is_silent(deployment: Deployment, store: Store) -> None:
    """Renewals find it out. No viewer is told, and the provider is not called again."""
    answers = Answers(deployment)
    await answers.begin(["tail-lost"])
    for client in answers.clients:
        await client.shows(answers.responses[0], len("".join(PIECES[:-1])))
    before = await response_log.read(store, answers.responses[0])
    await lose_tail(store, answers.responses[0], 20)
    async with asyncio.timeout(30):
        while await response_log.read(store, answers.responses[0]) != before:
            await asyncio.sleep(0.02)
    assert await answers.end() == 0


@pytest.fixture
def failovers(deployment_without_worker: Deployment) -> Failovers:
    return Failovers(deployment_without_worker)


@pytest.mark.parametrize(
    "deployment_without_worker", ["cluster", pytest.param("sentinel", marks=pytest.mark.long)], indirect=True
)
async def test_live_worker_rewrites_lost_tail(failovers: Failovers) -> None:
    """With the same ids and bytes: clients that had it receive no frame, and the provider is not called again."""
    failovers.deployment.worker()
    await failovers.round(5)
    assert failovers.reset == 0, failovers.deployment.logs()


@pytest.mark.long
@pytest.mark.parametrize("deployment_without_worker", ["sentinel", "cluster"], indirect=True)
async def test_lost_tail_of_dead_worker_is_a_reset(failovers: Failovers) -> None:
    """Another worker restarts, with ids that differ from the lost ones."""
    await failovers.round(5, failovers.deployment.worker())
    assert failovers.repaired == 0


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("deployment_without_worker", ALL, indirect=True)
async def test_hundred_failovers_lose_nothing(failovers: Failovers) -> None:
    """Two workers do not fence each other, except every fourth time, when one of them dies."""
    workers = [failovers.deployment.worker() for _ in range(2)]
    reset = 0
    for number in range(100):
        another = await failovers.round(3, workers.pop(0) if number % 4 == 3 else None)
        workers += [another] if another is not None else []
        if number % 4 != 3:
            assert failovers.reset == reset, failovers.deployment.logs()
        reset = failovers.reset
    print(f"100 failovers that lost a tail: {failovers.repaired} tabs repaired, {failovers.reset} reset, none mixed")


async def move(deployment: Deployment, trials: int, *, at_once: bool = False) -> None:
    """Migrate the slot of open answers from primary to primary."""
    cluster = deployment.server
    assert isinstance(cluster, RealCluster)
    deployment.worker()
    tabs = 0
    for _ in range(trials):
        answers = Answers(deployment)
        partition = secrets.randbelow(keys.PARTITIONS)
        slot = slot_of(keys.jobs(partition))
        source = cluster.owner(slot)
        target = secrets.choice([server for server in cluster.primaries() if server is not source])
        await answers.begin(named({partition}, 3))
        if at_once:
            await asyncio.to_thread(cluster.migrate_atomically, slot, target)
        else:
            await asyncio.to_thread(cluster.migrate, slot, target, 2)
        assert cluster.owner(slot) is target
        assert await answers.end() == 0
        tabs += len(answers.clients)
    print(f"{trials} moves of slots: {tabs} tabs exact, none noticed it")


@pytest.mark.parametrize("deployment_without_worker", ["cluster"], indirect=True)
async def test_slot_migration_during_answers_loses_nothing(deployment_without_worker: Deployment) -> None:
    await move(deployment_without_worker, 1)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("deployment_without_worker", ["cluster", "redis-cluster"], indirect=True)
async def test_fifty_slot_migrations_lose_nothing(deployment_without_worker: Deployment) -> None:
    await move(deployment_without_worker, 50)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("deployment_without_worker", ["cluster"], indirect=True)
async def test_fifty_concurrent_slot_migrations_lose_nothing(deployment_without_worker: Deployment) -> None:
    """With the atomic slot migration of Valkey 9."""
    await move(deployment_without_worker, 50, at_once=True)
