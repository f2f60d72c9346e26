"""A worker's answers: the first token at once, the others by beats, and each answer for itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import pytest

from gateway.streams import jobs, keys, log_entries, response_log
from gateway.streams.log_entries import End
from gateway.streams.store.store import open_store
from tests.gateway.streams.steps import Talk, fold
from workers.batch import Window
from workers.generation import Generation, GenerationOptions
from workers.providers import Event, Finish, ProviderError, Request, Served, Text
from workers.ticks import SharedTick

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from gateway.streams.store.store import Store

LONG = 60.0
"""Seconds; a window that no test sees the end of."""

Begin: TypeAlias = "Callable[..., Awaitable[Answer]]"


class Script:
    """A provider that says what a test tells it to, when the test tells it."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.closed = False

    async def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        try:
            while True:
                event = await self.told.get()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True

    def say(self, *pieces: str) -> None:
        for piece in pieces:
            self.told.put_nowait(Text(piece))

    def finish(self) -> None:
        self.told.put_nowait(Finish("complete"))


class Answer:
    """One answer of a worker, as it runs."""

    def __init__(self, store: Store, window: float, **terms: float) -> None:
        self.store = store
        self.talk = Talk(store)
        self.script = Script()
        self.beats = SharedTick(Window(window))
        self.terms = GenerationOptions(window=window, **terms)  # type: ignore[arg-type]

    async def begin(self) -> Answer:
        await self.talk.prepare()
        return await self.start()

    async def start(self) -> Answer:
        self.response = (await self.talk.ask()).response
        job = await self.talk.take("w1")
        generation = Generation(
            self.store, job, "w1", {"default": Served(self.script, "m", "script")}, self.terms, self.beats
        )
        self.task = asyncio.create_task(generation.run())
        return self

    async def texts(self) -> list[str]:
        """The text of each entry."""
        entries = await response_log.read(self.store, self.response)
        return [log_entries.unescape(value[1:]) for _, value in entries if value[:1] == log_entries.TEXT]

    async def end(self) -> End:
        _, value = (await response_log.read(self.store, self.response))[-1]
        end = log_entries.decode_response_entry(value)
        assert isinstance(end, End)
        return end


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def answer(store: Store) -> AsyncIterator[Begin]:
    begun: list[Answer] = []

    async def begin(window: float = LONG, **terms: float) -> Answer:
        begun.append(Answer(store, window, **terms))
        return await begun[-1].begin()

    yield begin
    for each in begun:
        each.task.cancel()
    await asyncio.gather(*(each.task for each in begun), return_exceptions=True)


async def test_the_first_piece_goes_at_once_and_the_others_with_the_next_beat(answer: Begin) -> None:
    one = await answer()
    one.script.say("Be")

    async def written() -> bool:
        return await one.texts() == ["Be"]

    await until(written)
    one.script.say("ca", "use")
    await asyncio.sleep(0.05)
    assert await one.texts() == ["Be"]
    one.beats._begin()

    async def all_written() -> bool:
        return await one.texts() == ["Be", "cause"]

    await until(all_written)


async def test_the_end_waits_for_no_beat(answer: Begin) -> None:
    one = await answer()
    one.script.say("Be", "ca", "use")
    one.script.finish()
    async with asyncio.timeout(10):
        await one.task
    assert "".join(await one.texts()) == "Because"
    assert (await one.end()).reason == "complete"


async def test_what_was_said_before_a_failure_is_kept(answer: Begin) -> None:
    one = await answer(0.001)
    one.script.say("Be", "cau")
    one.script.told.put_nowait(ProviderError("provider_incomplete", "It broke off.", retryable=True))
    await one.task
    assert "".join(await one.texts()) == "Becau"
    assert (await one.end()).reason == "failed"


async def test_a_provider_that_falls_silent_is_given_up_and_one_that_talks_is_not() -> None:
    one = await Answer(await open_store("memory://"), 0.001, idle_timeout=1.0).begin()
    for number in range(30):
        one.script.say(f"{number} ")
        await asyncio.sleep(0.05)
    assert not one.task.done()
    async with asyncio.timeout(5):
        await one.task
    assert "".join(await one.texts()) == "".join(f"{number} " for number in range(30))
    end = await one.end()
    assert end.error is not None
    assert end.error.code == "provider_silent"
    assert one.script.closed
    await one.store.close()


async def test_a_worker_that_is_fenced_leaves_its_provider(answer: Begin) -> None:
    one = await answer(0.001)
    one.script.say("Be")

    async def written() -> bool:
        return await one.texts() == ["Be"]

    await until(written)
    await one.talk.stop(one.response)
    one.script.say("cause")
    async with asyncio.timeout(5):
        await one.task
    assert one.script.closed
    assert await one.texts() == ["Be"]


async def test_cancelling_one_answer_neither_loses_nor_doubles_anothers_tokens(store: Store) -> None:
    """They share beats and round trips."""
    await jobs.prepare(store)
    beats = SharedTick(Window(0.002))
    said = [[f"{number}.{each} " for each in range(40)] for number in range(8)]
    answers = [Answer(store, 0.002) for _ in said]
    for one in answers:
        one.beats = beats
        await one.start()
    for each in range(40):
        for number, one in enumerate(answers):
            one.script.say(said[number][each])
        await asyncio.sleep(0.002)
        if each % 10 == 5:
            answers[each // 10].task.cancel()
    for one in answers[4:]:
        one.script.finish()
    await asyncio.gather(*(one.task for one in answers), return_exceptions=True)
    for number, one in enumerate(answers):
        entries = await response_log.read(store, one.response)
        assert [entry.seq for entry, _ in entries] == list(range(1, len(entries) + 1))
        if number < 4:
            assert "".join(said[number]).startswith(fold(entries))
        else:
            assert fold(entries) == "".join(said[number])
        assert one.script.closed


async def test_no_provider_is_asked_for_an_answer_to_a_message_that_is_no_longer_kept(store: Store) -> None:
    """Found by tests.chaos, seed 1013: it was asked nothing, and what it said passed for the answer."""
    one = Answer(store, LONG)
    await one.talk.prepare()
    response = (await one.talk.ask()).response
    await store.client.delete(keys.conversation(one.talk.name))
    generation = Generation(
        store, await one.talk.take("w1"), "w1", {"default": Served(one.script, "m", "script")}, one.terms, one.beats
    )
    one.response = response
    await generation.run()
    end = await one.end()
    assert (end.reason, end.error and end.error.code) == ("failed", "expired")
