"""What all commands share: every setting is an option, and an error is a sentence."""

from __future__ import annotations

import asyncio
import logging
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import click

from gateway.process import logs
from gateway.settings import Settings, SettingsError, load, unknown
from gateway.streams.metrics import BUILD

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


logger = logging.getLogger(__name__)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting, and the settings themselves as its first argument."""

    def run(**given: Any) -> None:
        own = {name: given.pop(name) for name in list(given) if name not in Settings.model_fields}
        options = {name: value for name, value in given.items() if value is not None}
        try:
            settings = load(options)
        except SettingsError as error:
            raise click.ClickException(str(error)) from None
        BUILD.labels(_version()).set(1)
        logs.set_up(settings.log_level, settings.log_format)
        for name in unknown(os.environ):
            logger.warning("%s is no setting and is not looked at", name)
        click.get_current_context().obj = options
        command(settings, **own)

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    for name, field in reversed(Settings.model_fields.items()):
        run = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=field.description)(run)
    return run


def _version() -> str:
    try:
        return version("tokenwire")
    except PackageNotFoundError:  # in a checkout, by `make run`
        return "unknown"


def needs_shared_store(settings: Settings) -> None:
    """Refuse a store that lives in one process only; raises ClickException."""
    if settings.store.startswith("memory:"):
        raise click.ClickException(
            "memory:// lives inside one process: use `tokenwire run`, or set TOKENWIRE_STORE to embedded:// "
            "or to a Redis such as redis://127.0.0.1:6379"
        )


def run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine, on the fastest loop that there is; raises ClickException."""
    from gateway.streams.store.errors import StoreError

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(work)
    except (StoreError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        pass


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop
