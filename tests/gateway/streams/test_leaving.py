"""Model test: workers leave while their commands are late; the store runs these in any order. No job is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.streams import jobs, keys
from gateway.streams.liveness import TakeOverRule
from gateway.streams.store.store import open_store
from tests.gateway.streams.steps import LEASE, Conversation

if TYPE_CHECKING:
    from gateway.streams.queued_jobs import Candidate, Job
    from gateway.streams.store.store import Store

STEP = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["list", "take", "renew", "release", "leave"]), st.integers(0, 2)),
)
STEPS = st.lists(STEP, min_size=3, max_size=14)
NAMES = [
    "c1",
    *[
        name
        for name in (f"c{number}" for number in range(2, 200))
        if keys.partition_of(name) == keys.partition_of("c1")
    ][:3],
]
PARTITION = keys.partition_of("c1")


@pytest.fixture(autouse=True)
def _no_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has no time: a busy machine must not make a command fail."""
    monkeypatch.setattr(jobs, "ACQUIRE_TIMEOUT_S", 600.0)
    monkeypatch.setattr(jobs, "RENEW_TIMEOUT_S", 600.0)


class Schedule:
    """What the store runs. Every command may be late: each works on what its worker saw some time before."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.listed: dict[int, list[Candidate]] = {}
        self.held: dict[int, list[Job]] = {}
        self.open: set[str] = set()

    async def run(self, step: str, number: int) -> None:
        worker = f"w{number}"
        match step:
            case "submit":
                conversation = Conversation(self.store, NAMES[number])
                self.open.add((await conversation.ask()).response)
            case "list":
                self.listed[number] = await jobs.candidates(self.store, [PARTITION], 5, TakeOverRule(LEASE))
            case "take":
                # Also after this worker left, and of a list that is old: the command was on its way.
                acquired = await jobs.take(self.store, worker, self.listed.get(number, [])[:2])
                self.held.setdefault(number, []).extend(acquired.jobs)
            case "renew":
                for job in self.held.get(number, []):
                    await jobs.renew(self.store, job, worker)
            case "release":
                for job in self.held.pop(number, []):
                    await jobs.release(self.store, job, worker)
            case _:
                await jobs.leave(self.store, worker)

    async def check(self) -> None:
        """Let every lease expire; a worker that lives must find all jobs, without a search for lost ones."""
        conversation = Conversation(self.store, "c1")
        found: set[str] = set()
        for _ in range(len(self.open) + 2):
            for held, holder in (await conversation.pending()).items():
                await self.store.client.xclaim(
                    keys.jobs(PARTITION), keys.GROUP, holder, 0, [held], idle=int(LEASE * 3000), justid=True
                )
            for job in await conversation.takes("survivor"):
                found.add(job.response)
                await conversation_of(self.store, job).stop(job.response)
        assert found == self.open


def conversation_of(store: Store, job: Job) -> Conversation:
    return Conversation(store, job.conversation)


async def play(steps: list[tuple[str, int]]) -> None:
    store = await open_store("memory://")
    try:
        await jobs.prepare(store)
        schedule = Schedule(store)
        for step, number in steps:
            await schedule.run(step, number)
        await schedule.check()
    finally:
        await store.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_delayed_commands_of_leaving_workers_lose_no_job(steps: list[tuple[str, int]]) -> None:
    asyncio.run(play(steps))


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_ten_thousand_delayed_schedules_lose_no_job(steps: list[tuple[str, int]]) -> None:
    asyncio.run(play(steps))
