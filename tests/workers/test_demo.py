"""The demo provider: deterministic answers, the rate, and the commands."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from workers.providers import Event, Finish, Provider, ProviderError, Reasoning, Request, Text, demo
from workers.providers import connect as connect_by_name
from workers.providers.demo import (
    BODIES,
    FLOOD_TOKENS,
    LONG_TOKENS,
    MAX_REJECTED,
    MAX_TOKENS,
    THOUGHT,
    answer,
    connect,
    tokens,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PROMPTS = [f"Why is the sky blue, take {number}?" for number in range(30)]


def request(prompt: str, *, response: str = "r1", max_tokens: int | None = None) -> Request:
    return Request("demo", [{"role": "user", "content": prompt}], max_tokens=max_tokens, response=response)


def started(asked: Request, provider: Provider | None = None) -> AsyncGenerator[Event, None]:
    return (provider or connect(0))(asked)


async def up_to_failure(asked: Request) -> tuple[list[Event], ProviderError]:
    found: list[Event] = []
    try:
        async for event in started(asked):
            found.append(event)  # noqa: PERF401 - what came before the failure must be kept
    except ProviderError as failure:
        return found, failure
    pytest.fail(f"no failure after {len(found)} events")


async def everything(asked: Request, provider: Provider | None = None) -> list[Event]:
    async with aclosing(started(asked, provider)) as events:
        return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


@pytest.mark.parametrize("prompt", ["Hi", "", "a\nb", "/help", "/long 300", "/unknown", *PROMPTS[:5]])
async def test_answer_is_deterministic(prompt: str) -> None:
    first, second = await everything(request(prompt)), await everything(request(prompt))
    assert first == second
    assert text_of(first) == answer(prompt)
    assert first[-1] == Finish("complete", {"input_tokens": len(tokens(prompt)), "output_tokens": len(first) - 1})


def test_answers_contain_all_kinds_of_markdown() -> None:
    answers = {prompt: answer(prompt) for prompt in PROMPTS}
    assert len(set(answers.values())) == len(PROMPTS)
    assert len({text.splitlines()[0] for text in answers.values()}) == len(BODIES)
    for prompt, text in answers.items():
        assert f"> {prompt}" in text
        assert text.count("```") == 2
        for mark in ("## ", "**", "| ", "](https://", "`"):
            assert mark in text
        assert any(line.startswith(("- ", "1. ")) for line in text.splitlines())
        assert any(ord(character) > 0xFFFF for character in text), "no character outside of the first plane"
        assert any(0x3000 <= ord(character) <= 0xD7A3 for character in text), "no Chinese, Japanese or Korean character"
        assert 150 <= len(tokens(text)) <= 300


def test_question_is_quoted_safely() -> None:
    assert "> a b {question}" in answer("a\n\nb {question}")
    assert len(answer("x" * 100_000)) < 3_000
    assert answer("half a pair \ud83d")


@pytest.mark.parametrize(
    "text", ["", "a", "Hello, world!", "😀👩‍👩‍👧 é\u0301 한국어 日本", "  \n\t x", "0" * 10, *BODIES]
)
def test_joined_tokens_are_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text
    assert all(0 < len(token) <= 9 or token.isspace() for token in tokens(text))


async def test_help_lists_every_command() -> None:
    for command in ("/fail", "/busy", "/stall", "/silent", "/flood", "/long", "/think", "/refuse", "/limit", "/drop"):
        assert f"`{command}`" in answer("/help")


async def test_fail_ends_in_the_middle() -> None:
    found, failure = await up_to_failure(request("/fail"))
    assert failure.retryable
    assert 0 < len(text_of(found)) < len(answer("/fail"))
    assert answer("/fail").startswith(text_of(found))


async def test_fail_early_fails_before_the_first_token() -> None:
    with pytest.raises(ProviderError) as failure:
        await anext(started(request("/fail early")))
    assert not failure.value.retryable


async def test_busy_answers_at_the_second_call() -> None:
    provider = connect(0)
    for response in ("r1", "r2"):
        with pytest.raises(ProviderError) as failure:
            await everything(request("/busy", response=response), provider)
        assert failure.value.retryable
        assert failure.value.retry_after == 1.0
        assert text_of(await everything(request("/busy", response=response), provider)) == answer("/busy")


async def test_busy_remembers_a_limited_number_of_responses() -> None:
    provider = connect(0)
    for number in range(MAX_REJECTED + 1):
        with pytest.raises(ProviderError):
            await anext(started(request("/busy", response=f"r{number}"), provider))
    assert await everything(request("/busy", response="r1"), provider)
    with pytest.raises(ProviderError):
        await everything(request("/busy", response="r0"), provider)


@pytest.mark.parametrize(("prompt", "some"), [("/stall", True), ("/silent", False)])
async def test_silence_can_be_cancelled(prompt: str, some: bool) -> None:
    found: list[Event] = []

    async def read() -> None:
        async with aclosing(started(request(prompt))) as events:
            async for event in events:
                found.append(event)  # noqa: PERF401 - looked at while it grows

    task = asyncio.ensure_future(read())
    # At rate 0 each loop iteration gives one token; after these iterations the provider is silent.
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert not task.done()
    assert bool(found) is some
    assert answer(prompt).startswith(text_of(found))
    assert len(text_of(found)) < len(answer(prompt))
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
async def test_long_answers_have_the_requested_tokens(prompt: str, count: int) -> None:
    # The rate does not apply to /flood: at 0.001 tokens per second this test would not end.
    events = await everything(request(prompt), connect(0.001 if prompt == "/flood" else 0))
    assert len(events) == count + 1
    assert isinstance(events[-1], Finish)
    assert events[-1].usage["output_tokens"] == count


def test_length_of_long_answers_is_limited() -> None:
    assert len(answer("/long 9999999999")) == len(answer(f"/long {MAX_TOKENS}"))


async def test_think_sends_reasoning_before_text() -> None:
    events = await everything(request("/think"))
    kinds = [type(event) for event in events]
    assert kinds == sorted(kinds, key=[Reasoning, Text, Finish].index)
    thought = [event.text for event in events if isinstance(event, Reasoning)]
    assert "".join(thought).startswith(THOUGHT)
    assert text_of(events) == answer("/think")
    assert isinstance(events[-1], Finish)
    assert events[-1].usage["reasoning_tokens"] == len(thought)
    assert events[-1].usage["output_tokens"] == len(events) - 1


@pytest.mark.parametrize(("prompt", "reason"), [("/refuse", "refused"), ("/limit", "length"), ("/help", "complete")])
async def test_commands_end_with_their_reason(prompt: str, reason: str) -> None:
    events = await everything(request(prompt))
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == reason
    assert text_of(events)
    assert (text_of(events) == answer(prompt)) is (reason != "length")


async def test_drop_ends_without_a_terminal_event() -> None:
    found, failure = await up_to_failure(request("/drop"))
    assert failure.code == "provider_incomplete"
    assert found
    assert all(isinstance(event, Text) for event in found)


@pytest.mark.parametrize("limit", [0, 1, 20])
async def test_max_tokens_limits_the_answer(limit: int) -> None:
    events = await everything(request("Hello", max_tokens=limit))
    assert len(events) == limit + 1
    assert events[-1] == Finish("length", {"input_tokens": 1, "output_tokens": limit})


async def test_max_tokens_of_the_whole_answer_is_complete() -> None:
    whole = len(tokens(answer("Hello")))
    events = await everything(request("Hello", max_tokens=whole))
    assert events[-1] == Finish("complete", {"input_tokens": 1, "output_tokens": whole})


async def test_input_tokens_count_instructions_and_messages() -> None:
    asked = Request(
        "demo",
        [
            {"role": "user", "content": "one two"},
            {"role": "assistant", "content": "three"},
            {"role": "user", "content": "four"},
        ],
        instructions="five six",
    )
    finish = (await everything(asked))[-1]
    assert isinstance(finish, Finish)
    assert finish.usage["input_tokens"] == 6


async def test_request_without_messages_is_answered() -> None:
    assert text_of(await everything(Request("demo", []))) == answer("")


async def test_tokens_keep_their_schedule_with_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    async def sleep(delay: float) -> None:
        nonlocal now
        now += max(delay, 0.0)

    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(demo, "asyncio", SimpleNamespace(sleep=sleep, get_running_loop=lambda: clock))
    times: list[float] = []
    async with aclosing(started(request("/long 40"), connect(200.0))) as events:
        async for event in events:
            if isinstance(event, Finish):
                break
            times.append(now)
            if len(times) == 1:
                # The reader pauses for 20 tokens; the tokens that become due follow immediately.
                now += 0.1
    assert times == pytest.approx([0.0, *(max(0.1, number / 200) for number in range(1, 40))])


async def test_other_tasks_run_during_a_flood() -> None:
    iterations = 0

    async def other() -> None:
        nonlocal iterations
        while True:
            iterations += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    count = len(await everything(request("/long 2000")))
    task.cancel()
    assert iterations >= count - 1


def test_negative_rate_is_rejected() -> None:
    with pytest.raises(ValueError, match="tokens per second"):
        connect(-1)


async def test_demo_is_connected_by_name() -> None:
    provider, model, *_ = connect_by_name("demo", demo_rate=0)
    assert model == "demo"
    assert text_of(await everything(request("Hi"), provider)) == answer("Hi")
