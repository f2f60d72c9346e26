"""Provider for an operator's generator: `python/my_module:generate`.

    async def generate(request):
        yield "Hello"

The generator gets a `workers.providers.Request`. It yields strings, or Text, Reasoning and Finish. One without `async`
runs in a thread of its own, so that it may block.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import sys
import threading
from contextlib import aclosing, closing, suppress
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from workers.providers import Event, Finish, Provider, ProviderError, Reasoning, Request, Text
from workers.providers.checked import FAILED, MESSAGE, finish

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

# Untyped: the items of the operator's code are validated.
Generator: TypeAlias = "Callable[[Request], AsyncGenerator[Any, None]]"

MAX_ITEMS_AT_ONCE: Final = 64
"""Items after which other answers get a turn."""

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
                    case str():
                        if item:
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
        return cast("Generator", generate)
    if inspect.isgeneratorfunction(generate) or inspect.isgeneratorfunction(call):
        return _in_thread(cast("Callable[[Request], Iterator[Any]]", generate))
    raise ValueError(
        f"python/{model} is not a generator: write `async def {name}(request)` with `yield` in its body, "
        "or `def` if it blocks"
    )


def _in_thread(generate: Callable[[Request], Iterator[Any]]) -> Generator:
    """Return an async generator that runs a generator in a thread. Closing it ends the thread at the next `yield`."""

    async def items(request: Request) -> AsyncGenerator[Any, None]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[Any, BaseException | None]] = asyncio.Queue()
        free, closed = threading.Semaphore(MAX_ITEMS_AHEAD), threading.Event()

        def post(item: Any, error: BaseException | None = None) -> None:
            with suppress(RuntimeError):
                # Raised where the event loop has ended.
                loop.call_soon_threadsafe(queue.put_nowait, (item, error))

        def run() -> None:
            try:
                with closing(generate(request)) as iterator:  # type: ignore[type-var]
                    for item in iterator:
                        free.acquire()
                        if closed.is_set():
                            return
                        post(item)
                post(_END)
            except BaseException as error:
                # Also SystemExit: a thread has nobody else who handles it.
                post(_END, error)

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

    return items
