"""The generation of responses: first token immediately, further ones by ticks, independent of each other."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest

from gateway.streams import history_log, jobs, keys, log_entries, response_log
from gateway.streams.log_entries import End, Problem, Waiting
from gateway.streams.store.store import open_store
from gateway.streams.targets import Timeouts
from tests.gateway.streams.steps import Conversation, fold
from tests.stores import RealServer
from workers import history_reader, metrics
from workers.batch import BatchingInterval
from workers.breakers import Breakers
from workers.generation import Generation
from workers.history_reader import HistoryReader
from workers.options import GenerationOptions
from workers.providers import Event, Finish, ProviderError, Request, Served, Text
from workers.ticks import SharedTick

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from gateway.streams.store.store import Store

LONG_S: Final = 60.0
"""An interval that does not end during a test."""

OPTIONS: Final[dict[str, Any]] = {
    "lease_s": 5.0,
    "max_attempts": 3,
    "recovery": "restart",
    "store_patience_s": 60.0,
    "provider_patience_s": 60.0,
    "max_calls": 12,
    "max_call_tokens": 0,
    "first_token_timeout_s": 120.0,
    "idle_timeout_s": 60.0,
    "answer_timeout_s": 600.0,
    "max_answer_bytes": 1_000_000,
    "max_prompt_characters": 100_000,
}

Begin: TypeAlias = "Callable[..., Awaitable[Answer]]"


class ScriptedProvider:
    """A provider whose events a test supplies while it runs."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.requests: list[Request] = []
        self.closed = False

    @property
    def calls(self) -> int:
        return len(self.requests)

    async def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        try:
            while True:
                event = await self.events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True

    def send(self, *pieces: str) -> None:
        for piece in pieces:
            self.events.put_nowait(Text(piece))

    def fail(self, error: Exception) -> None:
        self.events.put_nowait(error)

    def finish(self) -> None:
        self.events.put_nowait(Finish("complete"))


class Answer:
    """One response and its generation."""

    def __init__(self, store: Store, interval_s: float, **options: Any) -> None:
        self.store = store
        self.conversation = Conversation(store)
        self.provider = ScriptedProvider()
        self.others: list[ScriptedProvider] = []
        """Further targets of the alias."""
        self.breakers = Breakers(store)
        self.histories = HistoryReader(store)
        self.tick = SharedTick(BatchingInterval(interval_s))
        self.options = GenerationOptions(**{**OPTIONS, "batching_interval_s": interval_s, **options})

    async def begin(self) -> Answer:
        await self.conversation.prepare()
        return await self.start()

    async def start(self) -> Answer:
        self.response = (await self.conversation.ask()).response
        self.task = asyncio.create_task((await self.generation()).run())
        return self

    async def generation(self) -> Generation:
        job = await self.conversation.take("w1")
        targets = {"default": [Served(provider, "m", "script") for provider in (self.provider, *self.others)]}
        return Generation(self.store, job, "w1", targets, self.breakers, self.options, self.tick, self.histories)

    async def entries(self) -> list[bytes]:
        return [value for _, value in await response_log.read(self.store, self.response)]

    async def texts(self) -> list[str]:
        """Return the text of each text entry."""
        return [log_entries.unescape(value[1:]) for value in await self.entries() if value[:1] == log_entries.TEXT]

    async def end(self) -> End:
        end = log_entries.decode_response_entry((await self.entries())[-1])
        assert isinstance(end, End)
        return end


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def answer(store: Store) -> AsyncIterator[Begin]:
    begun: list[Answer] = []

    async def begin(interval_s: float = LONG_S, **options: Any) -> Answer:
        begun.append(Answer(store, interval_s, **options))
        return await begun[-1].begin()

    yield begin
    for each in begun:
        each.task.cancel()
    await asyncio.gather(*(each.task for each in begun), return_exceptions=True)


async def test_first_piece_is_appended_immediately_others_at_the_tick(answer: Begin) -> None:
    one = await answer()
    one.provider.send("Be")

    async def first_written() -> bool:
        return await one.texts() == ["Be"]

    await until(first_written)
    one.provider.send("ca", "use")
    await asyncio.sleep(0.05)
    assert await one.texts() == ["Be"]
    one.tick._start()

    async def all_written() -> bool:
        return await one.texts() == ["Be", "cause"]

    await until(all_written)


async def test_end_is_written_without_waiting_for_a_tick(answer: Begin) -> None:
    one = await answer()
    one.provider.send("Be", "ca", "use")
    one.provider.finish()
    async with asyncio.timeout(10):
        await one.task
    assert "".join(await one.texts()) == "Because"
    assert (await one.end()).reason == "complete"


async def test_text_before_a_provider_failure_is_kept(answer: Begin) -> None:
    one = await answer(0.001)
    one.provider.send("Be", "cau")
    one.provider.fail(ProviderError("provider_incomplete", "It broke off.", retryable=True))
    await one.task
    assert "".join(await one.texts()) == "Becau"
    assert (await one.end()).reason == "failed"
    assert one.provider.calls == 1


async def test_unknown_finish_reason_is_the_detail_of_the_error(answer: Begin) -> None:
    one = await answer(0.001)
    error = ProviderError("provider_stopped", "It stopped.", retryable=True)
    error.detail, error.usage = "insufficient_system_resource", {"output_tokens": 3}
    one.provider.send("Beca")
    one.provider.fail(error)
    await one.task
    end = await one.end()
    assert end.error == Problem("provider_stopped", "It stopped.", "insufficient_system_resource")
    assert (end.reason, end.retryable, end.usage) == ("failed", True, {"output_tokens": 3})


async def test_failure_before_the_first_token_is_retried(answer: Begin) -> None:
    one = await answer(0.001)
    one.provider.fail(ProviderError("provider_overloaded", "Overloaded.", retryable=True, retry_after=0.01))
    one.provider.send("Because")
    one.provider.finish()
    async with asyncio.timeout(10):
        await one.task
    waiting = [
        entry for value in await one.entries() if isinstance(entry := log_entries.decode_response_entry(value), Waiting)
    ]
    assert len(waiting) == 1
    assert one.provider.calls == 2
    assert await one.texts() == ["Because"]


async def test_without_patience_the_provider_is_called_once_and_the_store_as_ever() -> None:
    store = await open_store("memory://")
    answer = await Answer(store, 0.0, provider_patience_s=0.0).begin()
    answer.provider.fail(ProviderError("provider_unavailable", "busy", retryable=True))
    await answer.task
    end = await answer.end()
    assert end.error is not None
    assert (end.error.code, answer.provider.calls) == ("provider_unavailable", 1)
    answer = await Answer(store, 0.0, provider_patience_s=0.0).start()
    answer.provider.send("Because.")
    answer.provider.finish()
    await answer.task
    assert ((await answer.end()).reason, await answer.texts()) == ("complete", ["Because."])
    await store.close()


@pytest.mark.live
async def test_silent_provider_times_out_after_its_last_token() -> None:
    one = await Answer(await open_store("memory://"), 0.001, idle_timeout_s=1.0).begin()
    for number in range(30):
        one.provider.send(f"{number} ")
        await asyncio.sleep(0.05)
    assert not one.task.done()
    async with asyncio.timeout(5):
        await one.task
    assert "".join(await one.texts()) == "".join(f"{number} " for number in range(30))
    end = await one.end()
    assert end.error is not None
    assert end.error.code == "provider_silent"
    assert one.provider.closed
    await one.store.close()


@pytest.mark.parametrize(("shown", "kind"), [((), log_entries.START), (("Bec",), log_entries.CONTINUE)])
async def test_take_over_continues_only_if_there_is_text(shown: tuple[str, ...], kind: bytes) -> None:
    """Otherwise the reasoning of both attempts would be shown."""
    store = await open_store("memory://")
    answer = Answer(store, 0.0, recovery="continue")
    await answer.conversation.prepare()
    answer.response = (await answer.conversation.ask()).response
    dead = await answer.conversation.begin("w0")
    dead.attempt.add([log_entries.REASONING + b"Hmm"])
    await dead.write(*shown)
    await answer.conversation.expire_lease(dead.job)
    answer.provider.send("ause")
    answer.provider.finish()
    await (await answer.generation()).run()
    starts = [value[:1] for value in await answer.entries() if value[:1] in (log_entries.START, log_entries.CONTINUE)]
    assert starts == [log_entries.START, kind]
    assert (await answer.end()).reason == "complete"
    assert fold(await response_log.read(store, answer.response)) == "".join(shown) + "ause"
    await store.close()


@pytest.mark.parametrize(
    ("own", "code"),
    [
        (Timeouts(first_timeout=0.05), "provider_silent"),
        (Timeouts(idle_timeout=0.05), "provider_silent"),
        (Timeouts(answer_timeout=0.05), "answer_timeout"),
    ],
)
async def test_timeouts_of_an_alias_hold_instead_of_the_settings(own: Timeouts, code: str) -> None:
    store = await open_store("memory://")
    answer = await Answer(
        store, 0.0, max_calls=1, timeouts={"default": own, "other": Timeouts(answer_timeout=0.01)}
    ).begin()
    if own.first_timeout is None:
        answer.provider.send("Bec")
    await answer.task
    end = await answer.end()
    assert end.error is not None
    assert end.error.code == code
    await store.close()


async def test_attempt_that_takes_too_long_ends_with_its_text() -> None:
    store = await open_store("memory://")
    answer = await Answer(store, 0.0, answer_timeout_s=0.05).begin()
    answer.provider.send("Because")
    await answer.task
    end = await answer.end()
    assert end.error is not None
    assert (end.reason, end.error.code, end.retryable) == ("failed", "answer_timeout", True)
    assert await answer.texts() == ["Because"]
    assert answer.provider.closed
    await store.close()


async def test_fenced_attempt_closes_its_provider_call(answer: Begin) -> None:
    one = await answer(0.001)
    one.provider.send("Be")

    async def written() -> bool:
        return await one.texts() == ["Be"]

    await until(written)
    await one.conversation.stop(one.response)
    one.provider.send("cause")
    async with asyncio.timeout(5):
        await one.task
    assert one.provider.closed
    assert await one.texts() == ["Be"]


async def test_cancelling_one_answer_does_not_affect_others(store: Store) -> None:
    """They share ticks and round trips."""
    await jobs.prepare(store)
    tick = SharedTick(BatchingInterval(0.002))
    pieces = [[f"{number}.{each} " for each in range(40)] for number in range(8)]
    answers = [Answer(store, 0.002) for _ in pieces]
    for one in answers:
        one.tick = tick
        await one.start()
    for each in range(40):
        for number, one in enumerate(answers):
            one.provider.send(pieces[number][each])
        await asyncio.sleep(0.002)
        if each % 10 == 5:
            answers[each // 10].task.cancel()
    for one in answers[4:]:
        one.provider.finish()
    await asyncio.gather(*(one.task for one in answers), return_exceptions=True)
    for number, one in enumerate(answers):
        entries = await response_log.read(store, one.response)
        assert [entry.seq for entry, _ in entries] == list(range(1, len(entries) + 1))
        if number < 4:
            assert "".join(pieces[number]).startswith(fold(entries))
        else:
            assert fold(entries) == "".join(pieces[number])
        assert one.provider.closed


async def test_response_to_an_expired_message_fails_without_a_call(store: Store) -> None:
    """Found by tests.chaos, seed 1013: the provider got no messages, and its output became the answer."""
    one = Answer(store, LONG_S)
    await one.conversation.prepare()
    one.response = (await one.conversation.ask()).response
    await store.client.delete(keys.history(one.conversation.name))
    await (await one.generation()).run()
    end = await one.end()
    assert (end.reason, end.error and end.error.code) == ("failed", "expired")
    # A retry could only fail in the same way.
    assert end.retryable is False
    assert one.provider.calls == 0


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the bytes of each piece of a history that is read."""
    read: list[int] = []
    entries = history_log.entries

    def counted(reply: Any) -> list[tuple[Any, bytes]]:
        found = entries(reply)
        read.append(sum(len(value) for _, value in found))
        return found

    monkeypatch.setattr(history_log, "entries", counted)
    return read


async def long_conversation(store: Store, messages: int = 100, text: str = "x" * 20_000) -> Answer:
    one = Answer(store, LONG_S, max_prompt_characters=100_000)
    for number in range(1, messages + 1):
        value = log_entries.encode(log_entries.MESSAGE, log_entries.UserMessage(f"m{number}", text))
        await store.client.xadd(keys.history(one.conversation.name), {log_entries.FIELD: value}, id=f"{number}-1")
    return one


@pytest.mark.parametrize("lost", [False, True])
async def test_large_details_reach_the_generator_or_the_answer_expires(store: Store, *, lost: bool) -> None:
    one = Answer(store, LONG_S)
    await one.conversation.prepare()
    metadata = {"page": "/" * 400, "theme": "x" * 500, "place": "y" * 500}
    one.response = (await one.conversation.ask(metadata=metadata)).response
    if lost:
        queued = await response_log.request(store, one.response)
        assert queued is not None
        assert queued.details_id is not None
        await store.client.delete(keys.details(one.conversation.name, queued.details_id))
    one.provider.send("Because")
    one.provider.finish()
    await (await one.generation()).run()
    assert [request.metadata for request in one.provider.requests] == ([] if lost else [metadata])
    end = await one.end()
    assert (end.error and end.error.code) == ("expired" if lost else None)


async def test_history_is_read_as_far_as_the_context_reaches(store: Store, read_bytes: list[int]) -> None:
    """Found by a hostile client: 38 MB were read for an answer of 40 tokens."""
    one = await long_conversation(store)
    await one.conversation.prepare()
    one.response = (await one.conversation.ask()).response
    one.provider.send("Because")
    one.provider.finish()
    await (await one.generation()).run()
    assert one.provider.calls == 1
    assert 100_000 <= sum(read_bytes) <= 200_000


async def test_large_old_entries_are_read_one_by_one(store: Store, read_bytes: list[int]) -> None:
    one = await long_conversation(store, messages=20, text="x" * 400_000)
    await one.conversation.prepare()
    one.response = (await one.conversation.ask()).response
    one.provider.send("Because")
    one.provider.finish()
    await (await one.generation()).run()
    assert 100_000 <= sum(read_bytes) <= 900_000


async def test_retry_of_an_answer_without_text_reads_as_far_as_the_context(store: Store, read_bytes: list[int]) -> None:
    """Found by a hostile client: the worker read the whole history to find its text."""
    one = await long_conversation(store)
    await one.conversation.prepare()
    first = await one.conversation.ask()
    await one.conversation.stop(first.response)
    again = await one.conversation.ask(None, message=first.message, replaces=first.response, mode="continue")
    one.response = again.response
    one.provider.send("Because")
    one.provider.finish()
    await (await one.generation()).run()
    assert one.provider.calls == 1
    assert await one.texts() == ["Because"]
    assert 100_000 <= sum(read_bytes) <= 200_000


async def test_one_long_history_is_read_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = HistoryReader(store)
    long = [await long_conversation(store, messages=60) for _ in range(3)]
    short = await long_conversation(store, messages=60)
    sizes: dict[str, int] = {}
    read_piece = history_log._read_piece
    held: list[int] = []

    async def counted(read_from: Store, name: str, *arguments: Any) -> Any:
        reply = await read_piece(read_from, name, *arguments)
        sizes[name] = sizes.get(name, 0) + sum(len(value) for _, value in reply[1])
        held.append(sum(sizes.values()))
        return reply

    monkeypatch.setattr(history_log, "_read_piece", counted)

    async def read(one: Answer, replaces: str | None) -> None:
        accepted = await one.conversation.ask()
        # Its first wording is no longer in the history.
        value = log_entries.encode(log_entries.MESSAGE, log_entries.UserMessage("m", "Why not?", replaces))
        await store.client.xadd(keys.history(one.conversation.name), {log_entries.FIELD: value}, id="1000-1")
        queued = log_entries.Queued(one.conversation.name, "m", "default")
        request, _ = await reader.read(
            queued, "m", None, response=accepted.response, max_characters=100_000, timeout_s=10.0
        )
        assert request is not None
        del sizes[one.conversation.name]

    await asyncio.gather(*(read(one, "r00aaaaaaaaaaaaaaaa") for one in long), read(short, None))
    whole = 60 * 20_000
    assert max(held) < whole + 4 * 600_000


async def test_neither_history_nor_log_is_held_while_the_answer_streams(store: Store) -> None:
    one = await long_conversation(store)
    await one.conversation.prepare()
    one.response = (await one.conversation.ask()).response
    running = asyncio.create_task((await one.generation()).run())
    one.provider.send("Because")
    await until(lambda: asyncio.sleep(0, bool(one.provider.calls)))
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each).__name__ == "History"]
    one.provider.finish()
    await running


@pytest.mark.parametrize(("limit", "calls"), [(5_000, 0), (1 << 20, 1)])
async def test_history_that_is_read_for_one_prompt_is_limited(
    store: Store, monkeypatch: pytest.MonkeyPatch, limit: int, calls: int
) -> None:
    monkeypatch.setattr(history_log, "FIRST_PIECE", 2)
    monkeypatch.setattr(history_reader, "MAX_HISTORY_BYTES", limit)
    one = Answer(store, LONG_S)
    await one.conversation.prepare()
    one.response = (await one.conversation.ask()).response
    newest, _ = history_log.entries(await store.client.xrevrange(keys.history(one.conversation.name), count=1))[0]
    for number in range(1, 11):
        value = log_entries.encode(log_entries.MESSAGE, log_entries.UserMessage(f"m{number}", "x" * 1_000))
        name = f"{newest.seq + number}-1"
        await store.client.xadd(keys.history(one.conversation.name), {log_entries.FIELD: value}, id=name)
    running = asyncio.create_task((await one.generation()).run())
    one.provider.send("Because")
    one.provider.finish()
    await running
    assert one.provider.calls == calls
    end = await one.end()
    assert (end.error and end.error.code) == (None if calls else "expired")


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ProviderError(429, "Too many.", retryable=False), "generator_failed"),  # type: ignore[arg-type]
        (ProviderError("mine", "Mine.", retryable=False), "mine"),
    ],
)
async def test_error_of_a_provider_is_checked_before_it_is_written(
    answer: Begin, failure: ProviderError, code: str
) -> None:
    one = await answer()
    one.provider.send("a")
    one.provider.fail(failure)
    await one.task
    end = await one.end()
    assert end.error is not None
    assert (end.reason, end.error.code) == ("failed", code)


@pytest.mark.parametrize("last", [Finish("complete", {"cost_usd": 0.00012}), "text"])  # type: ignore[dict-item]
async def test_invalid_event_of_a_provider_fails_the_answer_and_keeps_its_text(answer: Begin, last: Any) -> None:
    one = await answer()
    one.provider.send("a")
    one.provider.events.put_nowait(last)
    await one.task
    end = await one.end()
    assert end.error is not None
    assert (end.reason, end.error.code, end.retryable) == ("failed", "generator_failed", False)
    assert await one.texts() == ["a"]


def test_codes_are_limited_as_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_codes", set())
    labels = {metrics.code_label(f"code_{number}") for number in range(metrics.MAX_CODES + 10)}
    assert len(labels) == metrics.MAX_CODES + 1
    assert "other" in labels


async def test_full_store_ends_the_answer_with_its_text_and_without_a_second_call() -> None:
    with RealServer() as server:
        store = await open_store(server.url)
        one = await Answer(store, 0.001).begin()
        one.provider.send("Be")

        async def written() -> bool:
            return await one.texts() == ["Be"]

        await until(written)
        server.command("CONFIG", "SET", "maxmemory", 1)
        one.provider.send("cause")
        await one.task
        end = await one.end()
        assert end.error is not None
        assert (end.reason, end.error.code, end.retryable) == ("failed", "store_full", True)
        assert await one.conversation.settled_text(one.response) == "Be"
        assert (one.provider.calls, one.provider.closed) == (1, True)
        assert await one.conversation.jobs() == {}
        await store.close()


async def test_full_store_before_the_attempt_leaves_the_job_without_a_call() -> None:
    with RealServer() as server:
        store = await open_store(server.url)
        one = Answer(store, 0.001)
        await one.conversation.prepare()
        one.response = (await one.conversation.ask()).response
        generation = await one.generation()
        server.command("CONFIG", "SET", "maxmemory", 1)
        await generation.run()
        assert (one.provider.calls, len(await one.entries())) == (0, 1)
        assert list(await one.conversation.jobs()) == [one.response]
        await store.close()
