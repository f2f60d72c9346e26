"""Model test: three workers and a gateway act on one conversation in any order, and any reply may be lost.

A worker of this test continues when it should have stopped: it ignores stops, and only a refused append shows it that
another worker has taken over.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.streams import history_log, jobs, keys, log_entries, response_log
from gateway.streams.history_log import Accepted
from gateway.streams.log_entries import LogId, Settled
from gateway.streams.response_log import Claimed, Ended
from gateway.streams.store.store import Store, open_store
from tests.gateway.streams.steps import COMPLETE, START, Conversation, Writer, claim, dump, fold, lose_tail
from tests.stores import with_lost_replies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from gateway.streams.queued_jobs import Job

WORKERS = st.sampled_from(["w1", "w2", "w3"])
LOST = st.booleans()
PIECES = st.lists(st.text('ab"\\\n😀', max_size=3), min_size=1, max_size=3)


class Writers(RuleBasedStateMachine):
    """One conversation, and its log entries in the store after every step."""

    url = "memory://"

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(debug=False)
        self.store: Store = self.run(open_store(self.url))
        self.run(self.store.client.flushall())
        self.conversation = Conversation(self.store, "c1")
        self.run(self.conversation.prepare())
        self.taken: dict[str, Job] = {}
        self.writers: dict[str, Writer] = {}
        self.responses: list[str] = []
        self.entries: dict[str, Sequence[tuple[LogId, bytes]]] = {}

    def run(self, call: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await call

        return self.runner.run(wait())

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()

    def through(self, lost: bool) -> Store:
        return with_lost_replies(self.store) if lost else self.store

    # The gateway

    @precondition(lambda self: len(self.responses) < 4)
    @rule(lost=LOST)
    def ask(self, lost: bool) -> None:
        accepted = self.run(Conversation(self.through(lost), "c1").ask(key=f"k{len(self.responses)}"))
        assert isinstance(accepted, Accepted)
        self.responses.append(accepted.response)

    @precondition(lambda self: self.responses)
    @rule(data=st.data(), lost=LOST)
    def ask_again(self, data: st.DataObject, lost: bool) -> None:
        number = data.draw(st.integers(0, len(self.responses) - 1))
        again = self.run(Conversation(self.through(lost), "c1").ask(key=f"k{number}"))
        assert (again.response, again.duplicate) == (self.responses[number], True)

    @precondition(lambda self: self.responses)
    @rule(data=st.data(), lost=LOST)
    def stop(self, data: st.DataObject, lost: bool) -> None:
        response = data.draw(st.sampled_from(self.responses))
        was_open = response in self.run(self.conversation.open())
        ended = self.run(Conversation(self.through(lost), "c1").stop(response))
        assert isinstance(ended, Ended)
        assert ended.now == (was_open and not lost)

    # The workers

    @rule(worker=WORKERS, over=st.booleans())
    def take(self, worker: str, over: bool) -> None:
        lease = 0 if over else 60
        for job in self.run(self.conversation.takes(worker, lease, room=1)):
            self.taken[worker] = job

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), keep=st.booleans(), lost=LOST)
    def claim(self, data: st.DataObject, keep: bool, lost: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.taken)))
        job = self.taken[worker]
        holds = self.run(self.conversation.pending()).get(job.id) == worker
        outcome = self.run(self.try_to_claim(self.through(lost), job, worker, keep))
        if isinstance(outcome, Writer):
            assert holds
            self.writers[worker] = outcome
        else:
            assert outcome == ("exhausted" if holds else "lost")

    async def try_to_claim(self, store: Store, job: Job, worker: str, keep: bool) -> Writer | str:
        number = (await response_log.read(self.store, job.response))[-1][0].number
        if (await self.conversation.pending()).get(job.id) == worker and number < 3:
            return await claim(store, job, worker, keep_text=keep)
        outcome = await response_log.claim(store, job, worker, START, keep_text=keep, max_attempts=3)
        assert not isinstance(outcome, Claimed)
        return outcome

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), pieces=PIECES, lost=LOST)
    def write(self, data: st.DataObject, pieces: list[str], lost: bool) -> None:
        writer = self.writers[data.draw(st.sampled_from(sorted(self.writers)))]
        fenced = self.is_fenced(writer)
        before = self.run(dump(self.store))
        writer.store = self.through(lost)
        assert self.run(writer.write(*pieces)) == (not fenced)
        if fenced:
            assert self.run(dump(self.store)) == before, "a fenced writer changes nothing"
        else:
            assert self.entries_now(writer)[-1] == (
                writer.attempt.tail,
                log_entries.TEXT + log_entries.escape(pieces[-1]),
            )

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), lost=LOST)
    def end(self, data: st.DataObject, lost: bool) -> None:
        writer = self.writers[data.draw(st.sampled_from(sorted(self.writers)))]
        fenced = self.is_fenced(writer)
        before = self.run(dump(self.store))
        writer.store = self.through(lost)
        outcome = self.run(writer.end(COMPLETE))
        if fenced:
            assert outcome == "fenced" or not outcome.now
            assert self.run(dump(self.store)) == before, "a fenced writer changes nothing"
        else:
            assert outcome.now == (not lost)
            assert self.run(self.conversation.settled(writer.job.response)).reason == "complete"

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), lost=LOST)
    def renew_or_release(self, data: st.DataObject, lost: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.taken)))
        job = self.taken[worker]
        holds = self.run(self.conversation.pending()).get(job.id) == worker
        assert self.run(jobs.renew(self.through(lost), job, worker)) == ("held" if holds else "lost")
        if data.draw(st.booleans()):
            self.run(jobs.release(self.through(lost), job, worker))

    # Redis

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), most=st.integers(1, 4))
    def lose_the_tail(self, data: st.DataObject, most: int) -> None:
        writer = self.writers[data.draw(st.sampled_from(sorted(self.writers)))]
        entries = self.entries_now(writer)
        last, value = entries[-1]
        if value[:1] == log_entries.END or last.number == 0:
            # An end and a submit change several keys, which a failover loses together.
            return
        mine = sum(entry.attempt == last.attempt for entry, _ in entries)
        self.run(lose_tail(self.store, writer.job.response, min(most, mine)))
        self.entries.pop(writer.job.response)

    @rule(what=st.sampled_from(["jobs", "response queue"]))
    def lose_jobs_and_requeue(self, what: str) -> None:
        lost = [keys.jobs(self.conversation.partition)]
        if what == "response queue":
            lost.append(keys.response_queue("c1"))
        self.run(self.store.client.delete(*lost))
        self.run(self.store.client.delete(keys.requeue_lock(self.conversation.partition)))
        assert self.run(jobs.requeue_lost(self.store, self.conversation.partition, 60)) == []
        self.run(jobs.prepare(self.store))

    # Invariants

    def entries_now(self, writer: Writer) -> Sequence[tuple[LogId, bytes]]:
        entries: Sequence[tuple[LogId, bytes]] = self.run(response_log.read(self.store, writer.job.response))
        return entries

    def is_fenced(self, writer: Writer) -> bool:
        """Return whether the log has an end or entries of a later attempt, even if entries of this writer were lost."""
        last, value = self.entries_now(writer)[-1]
        return (
            value[:1] == log_entries.END
            or (last.attempt != writer.start.attempt and last.seq >= writer.start.seq)
            or (last.seq < writer.start.seq and last != writer.attempt._before)
        )

    @invariant()
    def store_is_consistent(self) -> None:
        for response in self.responses:
            entries = self.run(response_log.read(self.store, response))
            previous = self.entries.get(response, entries[:1])
            assert entries[: len(previous)] == previous, "entries never change"
            self.entries[response] = entries
            self.check_log(entries)
        ended = {response for response in self.responses if self.entries[response][-1][1][:1] == log_entries.END}
        self.check_conversation(ended)
        self.check_jobs(ended)

    def check_log(self, entries: Sequence[tuple[LogId, bytes]]) -> None:
        ids = [entry for entry, _ in entries]
        assert ids == sorted(set(ids))
        assert [entry.seq for entry in ids] == list(range(1, len(ids) + 1))
        kinds = [value[:1] for _, value in entries]
        assert kinds[0] == log_entries.QUEUED
        assert log_entries.END not in kinds[:-1], "the only end is the last entry"
        for (before, _), (entry, value) in pairwise(entries):
            if value[:1] in (log_entries.START, log_entries.CONTINUE):
                assert entry.number == before.number + 1
            else:
                assert entry.attempt == before.attempt or value[:1] == log_entries.END

    def check_conversation(self, ended: set[str]) -> None:
        entries = self.run(history_log.read(self.store, "c1"))
        assert [entry.seq for entry, _ in entries] == list(range(1, len(entries) + 1))
        history = [log_entries.decode_history_entry(value) for _, value in entries]
        settled = [entry for entry in history if isinstance(entry, Settled)]
        texts = {entry.response: log_entries.unescape(bytes(entry.text)[1:-1]) for entry in settled}
        assert len(texts) == len(settled)
        assert texts == {response: fold(self.entries[response]) for response in ended}

    def check_jobs(self, ended: set[str]) -> None:
        opened, queue, held = (
            self.run(self.conversation.open()),
            self.run(self.conversation.queue()),
            self.run(self.conversation.jobs()),
        )
        assert set(opened) == set(self.responses) - ended
        assert sorted(queue) == sorted(opened)
        assert set(held) == set(queue[:1]), "only the head of the queue has a job"
        assert held == {response: job for response, job in opened.items() if job}
        assert set(self.run(self.conversation.pending())) <= set(held.values())


def examples(part: int) -> settings:
    """Return the profile with fewer examples: each has fifty steps of several scripts."""
    profile = settings.get_profile(settings.get_current_profile_name())
    # No shrinking: it takes minutes, and a failure prints its steps anyway.
    return settings(profile, max_examples=max(3, profile.max_examples // part), phases=(Phase.explicit, Phase.generate))


def test_model_on_the_memory_store() -> None:
    run_state_machine_as_test(Writers, settings=examples(14))


@pytest.mark.parametrize("kind", ["embedded", "redis"])
def test_model_on_a_real_server(request: pytest.FixtureRequest, kind: str) -> None:
    class OnServer(Writers):
        url = request.getfixturevalue(f"{kind}_url")

    run_state_machine_as_test(OnServer, settings=examples(50))
