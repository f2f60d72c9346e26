"""The provider for an operator's generator: import by name, validation of items, closing."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from workers import metrics
from workers.providers import Event, Finish, Provider, ProviderError, Reasoning, Request, Text, python
from workers.providers import connect as connect_by_name
from workers.providers.python import MAX_ITEMS_AHEAD, connect

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path
    from types import TracebackType

REQUEST = Request("m", [{"role": "user", "content": "Hi"}], instructions="Be brief", max_tokens=9)

MODULE = """
import asyncio, functools, threading
from workers.providers import Finish, ProviderError, Reasoning, Text

closed = []

async def generate(request):
    yield f"{request.messages[-1]['content']} {request.model} {request.instructions} {request.max_tokens}"
    yield ""
    yield "!"

async def events(request):
    yield Reasoning("hm")
    yield Text("a")
    yield "b"
    yield Finish("length", {"output_tokens": 2})
    closed.append("read past its end")

async def nothing(request):
    return
    yield

async def broken(request):
    yield "a"
    raise KeyError("sk-secret")

async def busy(request):
    raise ProviderError("mine", "Mine.", retryable=True, retry_after=3)
    yield

async def wrong(request):
    yield "a"
    yield 42

async def patient(request):
    try:
        yield "a"
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        closed.append("patient")

async def stubborn(request):
    yield "a"
    while not released.is_set():
        try:
            await released.wait()
        except asyncio.CancelledError:
            closed.append("ignored")

released = asyncio.Event()

async def hollow(request):
    while True:
        yield Text("")
        yield Reasoning("")

async def impatient(request):
    raise asyncio.CancelledError
    yield

async def leaving(request):
    raise SystemExit(3)
    yield

async def endless(request):
    while True:
        yield ""

class Counts(dict):
    def items(self):
        raise LookupError

async def counting(request):
    yield Finish("complete", Counts())

async def awkward():
    yield "takes no request"

class Assistant:
    async def __call__(self, request):
        yield "called"

    async def method(self, request):
        yield "method"

assistant = Assistant()
partial = functools.partial(generate)

async def coroutine(request):
    return "text"

def plain(request):
    return "text"

def iterator(request):
    yield request.messages[-1]["content"]
    yield Finish("length", {"output_tokens": 2})

go, threads = threading.Event(), []

def blocking(request):
    threads.append(threading.current_thread())
    try:
        yield "a"
        go.wait()
        yield "b"
    finally:
        closed.append("blocking")

def raising(request):
    yield "a"
    raise KeyError("sk-secret")

def exiting(request):
    yield "a"
    raise SystemExit(3)

def many(request):
    for number in range(1000):
        closed.append(number)
        yield "x"

class Called:
    def __call__(self, request):
        yield "called"

called = Called()
text = "text"
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the current directory, which is not in sys.path, as for an installed command."""
    (tmp_path / "my_module.py").write_text(MODULE)
    (tmp_path / "my_broken_module.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "my_wrong_module.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    for name in ("my_module", "my_broken_module", "my_wrong_module"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def started(provider: Provider) -> AsyncGenerator[Event, None]:
    return provider(REQUEST)


INVALID: Final = [
    Finish("complete", {"input_tokens": None}),  # type: ignore[dict-item]
    Finish("complete", {"input_tokens": 1.5}),  # type: ignore[dict-item]
    Finish("complete", {"input_tokens": True}),
    Finish("complete", {1: 2}),  # type: ignore[dict-item]
    Finish("complete", None),  # type: ignore[arg-type]
    Finish("done"),  # type: ignore[arg-type]
    Finish(None),  # type: ignore[arg-type]
    Text(5),  # type: ignore[arg-type]
    Reasoning(None),  # type: ignore[arg-type]
    5,
]


@pytest.mark.parametrize("item", INVALID, ids=repr)
async def test_an_invalid_yield_fails_before_it_is_written(item: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that cannot be decoded would make its conversation unreadable."""

    async def generate(_: Request) -> AsyncGenerator[object, None]:
        yield "before "
        yield item

    connect("my_module:generate")
    monkeypatch.setattr(sys.modules["my_module"], "generate", generate)
    events = started(connect("my_module:generate"))
    assert await anext(events) == Text("before ")
    with pytest.raises(ProviderError) as caught:
        await anext(events)
    assert (caught.value.code, caught.value.retryable) == ("generator_failed", False)


async def everything(model: str) -> list[Event]:
    return [event async for event in started(connect(model))]


def closed() -> list[str]:
    found: list[str] = sys.modules["my_module"].closed
    return found


async def test_strings_become_text_and_the_end_is_complete() -> None:
    assert await everything("my_module:generate") == [Text("Hi m Be brief 9"), Text("!"), Finish("complete")]


async def test_events_are_passed_on_until_a_finish() -> None:
    assert await everything("my_module:events") == [
        Reasoning("hm"),
        Text("a"),
        Text("b"),
        Finish("length", {"output_tokens": 2}),
    ]
    assert closed() == []


@pytest.mark.parametrize(
    ("model", "text"),
    [("my_module:assistant", "called"), ("my_module:assistant.method", "method"), ("my_module:partial", "Hi m")],
)
async def test_any_callable_that_returns_an_async_generator_works(model: str, text: str) -> None:
    first = (await everything(model))[0]
    assert isinstance(first, Text)
    assert first.text.startswith(text)


async def test_empty_answer_is_complete() -> None:
    assert await everything("my_module:nothing") == [Finish("complete")]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("my_module", "names no generator: write python/MODULE:NAME"),
        ("my_module:", "names no generator"),
        (":generate", "names no generator"),
        ("./my_module:generate", "names no generator"),
        ("my_modul:generate", "no module 'my_modul'; put it into"),
        ("my_module.py:generate", r"no module 'my_module\.py'"),
        ("absent.package:generate", "no module 'absent'"),
        ("my_module:generat", "has no 'generat'"),
        ("my_module:assistant.metho", "has no 'assistant.metho'"),
        ("my_module:coroutine", "is not a generator: write `async def coroutine"),
        ("my_module:plain", "is not a generator"),
        ("my_module:text", "is not a generator"),
        ("my_module:Assistant", "is not a generator"),
    ],
)
def test_invalid_path_is_reported(model: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        connect(model)
    assert f"python/{model}" in str(error.value)


def test_exceptions_of_the_module_are_passed_on() -> None:
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        connect("my_broken_module:generate")
    with pytest.raises(ZeroDivisionError):
        connect("my_wrong_module:generate")


async def test_exception_is_a_retryable_failure_with_its_cause() -> None:
    events = started(connect("my_module:broken"))
    assert await anext(events) == Text("a")
    with pytest.raises(ProviderError) as failure:
        await anext(events)
    assert failure.value.code == "generator_failed"
    assert failure.value.retryable
    assert isinstance(failure.value.__cause__, KeyError)
    assert "sk-secret" not in failure.value.message


@pytest.mark.parametrize(
    ("name", "cause", "retryable"),
    [
        ("impatient", asyncio.CancelledError, True),
        ("leaving", SystemExit, True),
        ("counting", LookupError, False),
    ],
)
async def test_exception_that_would_end_more_than_the_answer_fails_the_answer(
    name: str, cause: type[BaseException], retryable: bool
) -> None:
    with pytest.raises(ProviderError) as failure:
        await everything(f"my_module:{name}")
    assert (failure.value.code, failure.value.retryable) == ("generator_failed", retryable)
    assert isinstance(failure.value.__cause__, cause)


async def test_generator_that_never_waits_leaves_turns_to_other_answers() -> None:
    task = asyncio.create_task(everything("my_module:endless"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_generator_without_a_parameter_fails_at_the_call() -> None:
    with pytest.raises(ProviderError) as failure:
        await everything("my_module:awkward")
    assert failure.value.code == "generator_failed"
    assert isinstance(failure.value.__cause__, TypeError)


async def test_provider_error_is_passed_on() -> None:
    with pytest.raises(ProviderError) as failure:
        await everything("my_module:busy")
    assert (failure.value.code, failure.value.message, failure.value.retry_after) == ("mine", "Mine.", 3)
    assert failure.value.retryable


async def test_item_of_another_type_is_not_retryable() -> None:
    with pytest.raises(ProviderError) as failure:
        await everything("my_module:wrong")
    assert failure.value.code == "generator_failed"
    assert not failure.value.retryable
    assert "my_module:wrong yielded int" in str(failure.value.__cause__)


async def test_closing_closes_the_generator() -> None:
    events = started(connect("my_module:patient"))
    assert await anext(events) == Text("a")
    await events.aclose()
    assert closed() == ["patient"]


async def test_cancelling_closes_the_generator() -> None:
    events = started(connect("my_module:patient"))
    assert await anext(events) == Text("a")
    task = asyncio.ensure_future(anext(events))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed() == ["patient"]


async def test_generator_is_connected_by_name() -> None:
    provider, model, *_ = connect_by_name("python/my_module:generate", demo_rate=0)
    assert model == "my_module:generate"
    assert await anext(started(provider)) == Text("Hi m Be brief 9")


async def test_generator_that_ignores_its_cancellation_is_left_to_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(python, "STOP_WITHIN_S", 0.01)
    abandoned = metrics.ABANDONED._value.get()
    events = started(connect("my_module:stubborn"))
    assert await anext(events) == Text("a")
    reading = asyncio.ensure_future(anext(events))
    for _ in range(5):
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert closed() == ["ignored"]
    assert [record.getMessage() for record in caplog.records] == ["generator_ignores_stop"]
    assert metrics.ABANDONED._value.get() == abandoned + 1
    module: Any = sys.modules["my_module"]
    module.released.set()
    async with asyncio.timeout(10):
        while metrics.ABANDONED._value.get() != abandoned:
            await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["hollow", "endless"])
async def test_pieces_without_text_are_no_pieces(name: str) -> None:
    events = started(connect(f"my_module:{name}"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(events)


# Generators in a thread


async def test_generator_without_async_runs_in_a_thread() -> None:
    assert await everything("my_module:iterator") == [Text("Hi"), Finish("length", {"output_tokens": 2})]
    assert await everything("my_module:called") == [Text("called"), Finish("complete")]


async def test_generator_in_a_thread_may_block() -> None:
    events = started(connect("my_module:blocking"))
    module: Any = sys.modules["my_module"]
    assert await anext(events) == Text("a")
    waiting = asyncio.ensure_future(anext(events))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    module.go.set()
    assert await waiting == Text("b")
    assert await anext(events) == Finish("complete")
    await events.aclose()
    await ended(module.threads[0])
    assert closed() == ["blocking"]


async def test_closing_ends_the_thread_at_the_next_yield(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python, "STOP_WITHIN_S", 0.01)
    events = started(connect("my_module:blocking"))
    module: Any = sys.modules["my_module"]
    assert await anext(events) == Text("a")
    await events.aclose()
    assert module.threads[0].is_alive()
    module.go.set()
    await ended(module.threads[0])
    assert closed() == ["blocking"]


async def test_threads_that_ignore_their_stop_are_counted_and_limited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(python, "STOP_WITHIN_S", 0.01)
    monkeypatch.setattr(python, "MAX_ABANDONED", 2)
    before = metrics.ABANDONED._value.get()
    for _ in range(2):
        events = started(connect("my_module:blocking"))
        assert await anext(events) == Text("a")
        await events.aclose()
    module: Any = sys.modules["my_module"]
    assert metrics.ABANDONED._value.get() == before + 2
    assert [record.message for record in caplog.records] == ["generator_ignores_stop"] * 2
    with pytest.raises(ProviderError) as failure:
        await anext(started(connect("my_module:blocking")))
    assert (failure.value.code, failure.value.retryable) == ("provider_overloaded", True)
    module.go.set()
    for thread in module.threads:
        await ended(thread)
    async with asyncio.timeout(10):
        while metrics.ABANDONED._value.get() != before:
            await asyncio.sleep(0.01)
    assert await anext(started(connect("my_module:blocking"))) == Text("a")


@pytest.mark.parametrize(("name", "cause"), [("raising", KeyError), ("exiting", SystemExit)])
async def test_exception_in_a_thread_is_a_failure_with_its_cause(name: str, cause: type[BaseException]) -> None:
    events = started(connect(f"my_module:{name}"))
    assert await anext(events) == Text("a")
    with pytest.raises(ProviderError) as failure:
        await anext(events)
    assert (failure.value.code, failure.value.retryable) == ("generator_failed", True)
    assert isinstance(failure.value.__cause__, cause)
    *_, (_, place) = [(frame, frame.tb_frame.f_code.co_name) for frame in frames(failure.value.__cause__)]
    assert place == name


async def test_generator_in_a_thread_is_not_far_ahead_of_its_reader() -> None:
    events = started(connect("my_module:many"))
    for read in range(1, 501):
        assert await anext(events) == Text("x")
        assert len(closed()) <= read + MAX_ITEMS_AHEAD + 1
    await events.aclose()


def frames(error: BaseException | None) -> Iterator[TracebackType]:
    traceback = error.__traceback__ if error is not None else None
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


async def ended(thread: threading.Thread) -> None:
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
