"""Provider for an operator's async generator: `python/my_module:generate`.

    async def generate(request):
        yield "Hello"

The generator gets a `workers.providers.Request`. It yields strings, or Text, Reasoning and Finish.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from contextlib import aclosing
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args

from workers.providers import Event, Finish, FinishReason, Provider, ProviderError, Reasoning, Request, Text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

# Untyped: the items of the operator's code are validated.
Generator: TypeAlias = "Callable[[Request], AsyncGenerator[Any, None]]"

MESSAGE = "The answer could not be finished."


def connect(model: str) -> Provider:
    """Import `module:name` from the current directory or sys.path; return a provider that calls this generator.

    Raises ValueError, which says what to do, if it is not an async generator. Exceptions of the module are passed on:
    the operator needs their traceback.
    """
    generate = _generator(model)

    async def provider(request: Request) -> AsyncGenerator[Event, None]:
        try:
            # Closed explicitly, so that its `finally` runs when the answer is stopped, not at garbage collection.
            async with aclosing(generate(request)) as items:
                async for item in items:
                    match item:
                        case str():
                            if item:
                                yield Text(item)
                        case Text(str()) | Reasoning(str()):
                            yield item
                        case Finish() if _is_valid(item):
                            yield item
                            return
                        case _:
                            raise ProviderError("generator_failed", MESSAGE, retryable=False) from TypeError(
                                f"{model} yielded {type(item).__name__}: yield str or a valid Text, Reasoning or Finish"
                            )
        except ProviderError:
            raise
        except Exception as error:
            raise ProviderError("generator_failed", MESSAGE, retryable=True) from error
        yield Finish("complete")

    return provider


def _is_valid(finish: Finish) -> bool:
    """Tell whether a reason and counts may be written: an entry that cannot be decoded would break its conversation."""
    usage: Any = finish.usage
    return (
        finish.reason in get_args(FinishReason)
        and isinstance(usage, Mapping)
        and all(isinstance(name, str) and type(count) is int for name, count in usage.items())
    )


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
    if not (inspect.isasyncgenfunction(generate) or inspect.isasyncgenfunction(getattr(type(generate), "__call__", 0))):  # noqa: B004 - the kind of __call__ matters, not whether it exists
        raise ValueError(
            f"python/{model} is not an async generator: write `async def {name}(request)` with `yield` in its body"
        )
    return cast("Generator", generate)
