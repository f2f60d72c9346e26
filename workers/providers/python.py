"""Provider for an operator's generator: `python/my_module:generate`.

    async def generate(request):
        yield "Hello"

The generator gets a `workers.providers.Request`. It yields strings, or Text, Reasoning and Finish. One without `async`
runs in a separate thread, so that it may block.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import logging
import sys
import threading
from contextlib import aclosing, closing, suppress
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from workers import metrics
from workers.providers import Event, Finish, Provider, ProviderError, Reasoning, Request, Text
from workers.providers.checked import FAILED, MESSAGE, finish

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

logger = logging.getLogger(__name__)

# Untyped: the items of the operator's code are validated.
Generator: TypeAlias = "Callable[[Request], AsyncGenerator[Any, None]]"

MAX_ITEMS_AT_ONCE: Final = 64
"""Items after which other answers get a turn."""

STOP_WITHIN_S: Final = 5.0
"""Time that a generator has for its clean-up after a stop. Then it is left to itself."""

_ABANDONED: Final[set[asyncio.Future[None]]] = set()
"""The ends of generators that ignored their stop and still run."""

MAX_ABANDONED: Final = 100
"""Beyond it no generator is started in a further thread: each keeps its stack, and one that blocks may never end."""

TOO_MANY_ABANDONED: Final = "The model is overloaded. Try again soon."

_END: Final = object()

MAX_ITEMS_AHEAD: Final = 64
"""Items that a generator in a thread may yield before the first of them is read."""


def connect(model: str) -> Provider:
    """Import `module:name` from the current directory or sys.path; return a provider that calls this generator.

    Raises ValueError, which says what to do, if it is not a generator. Exceptions of the module are passed on:
    the operator needs their traceback.
    """
    generate = _generator(model)

    async def provider(request: Request) -> AsyncGenerator[Event, None]:
        # Closed explicitly, so that its `finally` runs when the answer is stopped, not at garbage collection.
        async with aclosing(_started(generate, request)) as items:
            for number in count(1):
                item = await _next(items)
                match item:
                    case "" | Text("") | Reasoning(""):
                        pass
                    case str():
                        yield Text(item)
                    case Text(str()) | Reasoning(str()):
                        yield item
                    case Finish():
                        yield _checked(item, model)
                        return
                    case _:
                        raise _invalid(item, model)
                if number % MAX_ITEMS_AT_ONCE == 0:
                    # A generator that never waits would keep every other answer of the worker waiting.
                    await asyncio.sleep(0)

    return provider


def _started(generate: Generator, request: Request) -> AsyncGenerator[Any, None]:
    try:
        return generate(request)
    except Exception as error:
        raise ProviderError(FAILED, MESSAGE, retryable=True) from error


async def _next(items: AsyncGenerator[Any, None]) -> Any:
    """Return the next item, a Finish after the last one. Raises ProviderError for every fault of the generator."""
    try:
        return await anext(items)
    except StopAsyncIteration:
        return Finish("complete")
    except ProviderError:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ProviderError(FAILED, MESSAGE, retryable=True) from error
    except BaseException as error:
        # SystemExit too: it would end the worker, and with it the answers of other users.
        raise ProviderError(FAILED, MESSAGE, retryable=True) from error


def _checked(event: Finish, model: str) -> Finish:
    try:
        checked = finish(event)
    except Exception as error:
        raise ProviderError(FAILED, MESSAGE, retryable=False) from error
    if checked is None:
        raise _invalid(event, model)
    return checked


def _invalid(item: Any, model: str) -> ProviderError:
    error = ProviderError(FAILED, MESSAGE, retryable=False)
    error.__cause__ = TypeError(
        f"{model} yielded {type(item).__name__}: yield str or a valid Text, Reasoning or Finish"
    )
    return error


def _generator(model: str) -> Generator:
    module_name, _, name = model.partition(":")
    if not module_name or not name or module_name.startswith("."):
        raise ValueError(
            f"python/{model} names no generator: write python/MODULE:NAME, the module as in an `import` statement"
        )
    directory = str(Path.cwd())
    if directory not in sys.path:
        # An installed command has its own directory in sys.path, not the current one, unlike `python -m`.
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"python/{model}: there is no module {error.name!r}; put it into {directory} or on PYTHONPATH"
        ) from None
    try:
        generate = attrgetter(name)(module)
    except AttributeError:
        raise ValueError(f"python/{model}: module {module_name!r} has no {name!r}") from None
    call = getattr(type(generate), "__call__", None)  # noqa: B004 - the kind of __call__ matters, not whether it exists
    if inspect.isasyncgenfunction(generate) or inspect.isasyncgenfunction(call):
        return _in_task(cast("Generator", generate), model)
    if inspect.isgeneratorfunction(generate) or inspect.isgeneratorfunction(call):
        return _in_thread(cast("Callable[[Request], Iterator[Any]]", generate), model)
    raise ValueError(
        f"python/{model} is not a generator: write `async def {name}(request)` with `yield` in its body, "
        "or `def` if it blocks"
    )


def _in_task(generate: Generator, model: str) -> Generator:
    """Return an async generator that runs another one in a task, one item ahead of its reader at most.

    Closing it cancels the task. It does not wait for long: a generator that ignores its cancellation would keep its
    answer from ending, and its worker from leaving.
    """

    async def items(request: Request) -> AsyncGenerator[Any, None]:
        wanted, given = asyncio.Semaphore(0), asyncio.Queue[tuple[Any, BaseException | None]]()

        async def run() -> None:
            try:
                async with aclosing(generate(request)) as source:
                    async for item in _on_demand(source, wanted):
                        given.put_nowait((item, None))
                given.put_nowait((_END, None))
            except BaseException as error:
                # Also SystemExit, which would end the worker, and with it the answers of other users.
                given.put_nowait((_END, error))

        # Named as the task of the answer: the log of a blocked event loop tells by it whose generator blocks.
        reader = asyncio.current_task()
        task = asyncio.create_task(run(), name=reader.get_name() if reader is not None else None)
        try:
            while True:
                wanted.release()
                item, error = await given.get()
                if error is not None:
                    raise error
                if item is _END:
                    return
                yield item
        finally:
            task.cancel()
            await _stopped(task, model)

    return items


async def _on_demand(source: AsyncGenerator[Any, None], wanted: asyncio.Semaphore) -> AsyncGenerator[Any, None]:
    while True:
        await wanted.acquire()
        try:
            item = await anext(source)
        except StopAsyncIteration:
            return
        yield item


async def _stopped(ending: asyncio.Future[None], model: str) -> None:
    """Wait a moment for the end of a generator that was stopped; then leave it to itself."""
    try:
        await asyncio.wait([ending], timeout=STOP_WITHIN_S)
    finally:
        if not ending.done():
            _ABANDONED.add(ending)
            metrics.ABANDONED.inc()
            ending.add_done_callback(_ended)
            logger.error("generator_ignores_stop", extra={"generator": model, "running": len(_ABANDONED)})


def _ended(ending: asyncio.Future[None]) -> None:
    _ABANDONED.discard(ending)
    metrics.ABANDONED.dec()


def _in_thread(generate: Callable[[Request], Iterator[Any]], model: str) -> Generator:
    """Return an async generator that runs a generator in a thread. Closing it ends the thread at the next `yield`."""

    async def items(request: Request) -> AsyncGenerator[Any, None]:
        if len(_ABANDONED) >= MAX_ABANDONED:
            raise ProviderError("provider_overloaded", TOO_MANY_ABANDONED, retryable=True)
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[Any, BaseException | None]] = asyncio.Queue()
        ending: asyncio.Future[None] = loop.create_future()
        free, closed = threading.Semaphore(MAX_ITEMS_AHEAD), threading.Event()

        def post(call: Callable[..., Any], *arguments: Any) -> None:
            with suppress(RuntimeError):
                # Raised where the event loop has ended.
                loop.call_soon_threadsafe(call, *arguments)

        def generated() -> None:
            with closing(generate(request)) as iterator:  # type: ignore[type-var]
                for item in iterator:
                    free.acquire()
                    if closed.is_set():
                        return
                    post(queue.put_nowait, (item, None))
            post(queue.put_nowait, (_END, None))

        def run() -> None:
            try:
                generated()
            except BaseException as error:
                # Also SystemExit: nothing else in a thread handles it.
                post(queue.put_nowait, (_END, error))
            finally:
                post(ending.set_result, None)

        # A daemon: a generator that blocks for ever must not keep the worker from ending.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run,), name="generator", daemon=True).start()
        try:
            while True:
                item, error = await queue.get()
                if error is not None:
                    raise error
                if item is _END:
                    return
                free.release()
                yield item
        finally:
            closed.set()
            free.release()
            await _stopped(ending, model)

    return items
