"""The built-in provider: the same words each time, at the rate, and each command's failure."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from workers.providers import Event, Finish, Provider, ProviderError, Reasoning, Request, Text
from workers.providers import connect as connect_by_name
from workers.providers.demo import (
    BODIES,
    FLOOD_TOKENS,
    LONG_TOKENS,
    MAX_TOKENS,
    REMEMBERED,
    THOUGHT,
    answer,
    connect,
    tokens,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PROMPTS = [f"Why is the sky blue, take {number}?" for number in range(30)]


def asking(prompt: str, *, response: str = "r1", max_tokens: int | None = None) -> Request:
    return Request("demo", [{"role": "user", "content": prompt}], max_tokens=max_tokens, response=response)


def started(request: Request, provider: Provider | None = None) -> AsyncGenerator[Event, None]:
    return (provider or connect(0))(request)


async def up_to_failure(request: Request) -> tuple[list[Event], ProviderError]:
    seen: list[Event] = []
    try:
        async for event in started(request):
            seen.append(event)  # noqa: PERF401 - what came before the failure must be kept
    except ProviderError as failure:
        return seen, failure
    pytest.fail(f"no failure after {len(seen)} events")


async def everything(request: Request, provider: Provider | None = None) -> list[Event]:
    async with aclosing(started(request, provider)) as events:
        return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


@pytest.mark.parametrize("prompt", ["Hi", "", "a\nb", "/help", "/long 300", "/unknown", *PROMPTS[:5]])
async def test_an_answer_is_the_same_each_time_and_known_beforehand(prompt: str) -> None:
    first, second = await everything(asking(prompt)), await everything(asking(prompt))
    assert first == second
    assert text_of(first) == answer(prompt)
    assert first[-1] == Finish("complete", {"input_tokens": len(tokens(prompt)), "output_tokens": len(first) - 1})


def test_answers_show_all_that_a_chat_has_to_show() -> None:
    answers = {prompt: answer(prompt) for prompt in PROMPTS}
    assert len(set(answers.values())) == len(PROMPTS)
    assert len({text.splitlines()[0] for text in answers.values()}) == len(BODIES)
    for prompt, text in answers.items():
        assert f"> {prompt}" in text
        assert text.count("```") == 2
        for mark in ("## ", "**", "| ", "](https://", "`"):
            assert mark in text
        assert any(line.startswith(("- ", "1. ")) for line in text.splitlines())
        assert any(ord(character) > 0xFFFF for character in text), "nothing outside of the first plane"
        assert any(0x3000 <= ord(character) <= 0xD7A3 for character in text), "nothing in Chinese, Japanese or Korean"
        assert 150 <= len(tokens(text)) <= 300


def test_a_question_cannot_break_the_answer() -> None:
    assert "> a b {question}" in answer("a\n\nb {question}")
    assert len(answer("x" * 100_000)) < 3_000
    assert answer("half a pair \ud83d")


@pytest.mark.parametrize(
    "text", ["", "a", "Hello, world!", "😀👩‍👩‍👧 é\u0301 한국어 日本", "  \n\t x", "0" * 10, *BODIES]
)
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text
    assert all(0 < len(token) <= 9 or token.isspace() for token in tokens(text))


async def test_help_names_every_command() -> None:
    for command in ("/fail", "/busy", "/stall", "/silent", "/flood", "/long", "/think", "/refuse", "/limit", "/drop"):
        assert f"`{command}`" in answer("/help")


async def test_fail_breaks_off_in_the_middle() -> None:
    seen, failure = await up_to_failure(asking("/fail"))
    assert failure.retryable
    assert 0 < len(text_of(seen)) < len(answer("/fail"))
    assert answer("/fail").startswith(text_of(seen))


async def test_fail_early_comes_before_the_first_token() -> None:
    with pytest.raises(ProviderError) as failure:
        await anext(started(asking("/fail early")))
    assert not failure.value.retryable


async def test_busy_works_at_the_second_call_of_each_response() -> None:
    provider = connect(0)
    for response in ("r1", "r2"):
        with pytest.raises(ProviderError) as failure:
            await everything(asking("/busy", response=response), provider)
        assert failure.value.retryable
        assert failure.value.retry_after == 1.0
        assert text_of(await everything(asking("/busy", response=response), provider)) == answer("/busy")


async def test_busy_forgets_the_oldest_and_only_the_oldest() -> None:
    provider = connect(0)
    for number in range(REMEMBERED + 1):
        with pytest.raises(ProviderError):
            await anext(started(asking("/busy", response=f"r{number}"), provider))
    assert await everything(asking("/busy", response="r1"), provider)
    with pytest.raises(ProviderError):
        await everything(asking("/busy", response="r0"), provider)


@pytest.mark.parametrize(("prompt", "some"), [("/stall", True), ("/silent", False)])
async def test_silence_is_for_ever_and_can_be_cancelled(prompt: str, some: bool) -> None:
    seen: list[Event] = []

    async def read() -> None:
        async with aclosing(started(asking(prompt))) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - looked at while it grows

    task = asyncio.ensure_future(read())
    # Each turn of the loop is one token at rate 0: after more turns than an answer has tokens, only silence is left.
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert not task.done()
    assert bool(seen) is some
    assert answer(prompt).startswith(text_of(seen))
    assert len(text_of(seen)) < len(answer(prompt))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ("/flood", FLOOD_TOKENS),
        ("/long", LONG_TOKENS),
        ("/long x", LONG_TOKENS),
        ("/long ²", LONG_TOKENS),
        ("/long 123", 123),
        ("/long 0", 0),
        ("  /long 12 and more", 12),
    ],
)
async def test_long_answers_have_as_many_tokens_as_they_say(prompt: str, count: int) -> None:
    # The demo's rate does not hold a flood back: at 1 token in 1000 s this test would not end.
    events = await everything(asking(prompt), connect(0.001 if prompt == "/flood" else 0))
    assert len(events) == count + 1
    assert isinstance(events[-1], Finish)
    assert events[-1].usage["output_tokens"] == count


def test_the_longest_answer_is_bounded() -> None:
    assert len(answer("/long 9999999999")) == len(answer(f"/long {MAX_TOKENS}"))


async def test_think_thinks_before_it_answers() -> None:
    events = await everything(asking("/think"))
    kinds = [type(event) for event in events]
    assert kinds == sorted(kinds, key=[Reasoning, Text, Finish].index)
    thought = [event.text for event in events if isinstance(event, Reasoning)]
    assert "".join(thought).startswith(THOUGHT)
    assert text_of(events) == answer("/think")
    assert isinstance(events[-1], Finish)
    assert events[-1].usage["reasoning_tokens"] == len(thought)
    assert events[-1].usage["output_tokens"] == len(events) - 1


@pytest.mark.parametrize(("prompt", "reason"), [("/refuse", "refused"), ("/limit", "length"), ("/help", "complete")])
async def test_reasons(prompt: str, reason: str) -> None:
    events = await everything(asking(prompt))
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == reason
    assert text_of(events)
    assert (text_of(events) == answer(prompt)) is (reason != "length")


async def test_drop_ends_without_saying_so() -> None:
    seen, failure = await up_to_failure(asking("/drop"))
    assert failure.code == "provider_incomplete"
    assert seen
    assert all(isinstance(event, Text) for event in seen)


@pytest.mark.parametrize("bound", [0, 1, 20])
async def test_max_tokens_is_kept(bound: int) -> None:
    events = await everything(asking("Hello", max_tokens=bound))
    assert len(events) == bound + 1
    assert events[-1] == Finish("length", {"input_tokens": 1, "output_tokens": bound})


async def test_max_tokens_of_just_the_whole_answer_is_no_limit() -> None:
    whole = len(tokens(answer("Hello")))
    events = await everything(asking("Hello", max_tokens=whole))
    assert events[-1] == Finish("complete", {"input_tokens": 1, "output_tokens": whole})


async def test_input_is_all_that_was_said() -> None:
    request = Request(
        "demo",
        [
            {"role": "user", "content": "one two"},
            {"role": "assistant", "content": "three"},
            {"role": "user", "content": "four"},
        ],
        instructions="five six",
    )
    finish = (await everything(request))[-1]
    assert isinstance(finish, Finish)
    assert finish.usage["input_tokens"] == 6


async def test_a_request_without_messages_gets_an_answer() -> None:
    assert text_of(await everything(Request("demo", []))) == answer("")


async def test_tokens_come_by_schedule_whatever_the_reader_loses() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    times: list[float] = []
    async with aclosing(started(asking("/long 40"), connect(200.0))) as events:
        async for event in events:
            times.append(loop.time() - began)
            if len(times) == 1:
                # A reader that is away for 20 tokens' time; those that came due meanwhile follow at once.
                await asyncio.sleep(0.1)
            if isinstance(event, Finish):
                break
    for number, seen in enumerate(times[:-1]):
        assert seen > number / 200 - 0.005, f"token {number} came early"
    # The sum of the sleeps would be 0.2 s and 0.1 s; the schedule ends at 0.195 s.
    assert times[-1] < 0.28


async def test_others_get_their_turn_during_a_flood() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    count = len(await everything(asking("/long 2000")))
    task.cancel()
    assert turns >= count - 1


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens per second"):
        connect(-1)


async def test_it_is_found_by_name() -> None:
    provider, model, _ = connect_by_name("demo", demo_rate=0)
    assert model == "demo"
    assert text_of(await everything(asking("Hi"), provider)) == answer("Hi")
