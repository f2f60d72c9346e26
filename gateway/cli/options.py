"""What the commands share: settings as options, errors as sentences, the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.settings import Settings
from gateway.process import logs
from gateway.streams.log_fields import error_fields
from gateway.streams.metrics import BUILD
from gateway.streams.settings import (
    SettingsError,
    display,
    holds_password,
    is_duration,
    is_secret,
    load,
    unknown,
    without_password,
)
from gateway.streams.store import address
from gateway.streams.store.embedded import default_folder
from gateway.streams.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gateway.streams.settings import StoreSettings
    from workers.settings import WorkerSettings


logger = logging.getLogger(__name__)


def with_settings(kind: type[StoreSettings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command an option for each setting of `kind` that is no secret.

    The settings are the command's first argument.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            own = {name: given.pop(name) for name in list(given) if name not in kind.model_fields}
            options = {name: value for name, value in given.items() if value is not None}
            if holds_password(options.get("store", "")):
                # Every user of the machine can read the command lines of its processes.
                raise click.ClickException(
                    f"--store {without_password(options['store'])}: a password does not belong on the command line; "
                    "set TOKENWIRE_STORE, or write the address to a file and give @FILE"
                )
            try:
                settings = load(kind, options, Settings.model_fields)
            except SettingsError as error:
                raise click.ClickException(str(error)) from None
            BUILD.labels(_version()).set(1)
            logs.set_up(settings.log_level, settings.log_format)
            for name in unknown(os.environ, Settings.model_fields):
                logger.warning("unknown_setting", extra={"variable": name})
            click.get_current_context().obj = options
            command(settings, **own)

        run.__doc__ = command.__doc__
        run.__name__ = command.__name__
        for name, field in reversed(kind.model_fields.items()):
            if is_secret(field):
                continue
            default = display(name, field.default, is_duration(field))
            text = field.description if default == "-" else f"{field.description}  [default: {default}]"
            run = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=text)(run)
        return run

    return decorate


def _version() -> str:
    try:
        return version("tokenwire")
    except PackageNotFoundError:  # in a checkout, by `make run`
        return "unknown"


def require_shared_store(settings: StoreSettings) -> None:
    """Refuse a store that exists in one process only; raises ClickException."""
    if settings.store.startswith("memory:"):
        raise click.ClickException(
            f"TOKENWIRE_STORE={settings.store} exists inside one process: use `tokenwire run`, or set "
            "TOKENWIRE_STORE to embedded:// or to a Redis such as redis://127.0.0.1:6379"
        )


OWN_STORES: Final = ("memory:", "embedded:")
"""Stores of one machine."""


def require_provider(settings: WorkerSettings, *, authenticated: bool = False) -> None:
    """Refuse to answer with the demo where the operator did not choose it; raises ClickException.

    `authenticated`: clients need a token, so there are users. A store of this machine is for trying out otherwise.
    """
    if settings.store.startswith(OWN_STORES) and not authenticated:
        return
    default = settings.model_targets()["default"][0]
    chosen = settings.models is not None or "demo_rate" in settings.model_fields_set
    if default.provider == "demo" and not chosen:
        raise click.ClickException(
            "no provider: set ANTHROPIC_API_KEY or OPENAI_API_KEY, or TOKENWIRE_MODELS to a target such as "
            '{"default": "python/my_module:generate"}. Other people use this store or sign in, so the demo '
            'answers only with TOKENWIRE_MODELS=\'{"default": "demo"}\''
        )


def describe_store(url: str) -> str:
    """Return the address of a store without its password, and where its data is kept; raises ClickException."""
    try:
        parsed = address.parse(url)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if parsed.scheme == "memory":
        return "memory:// (in this process, nothing is kept)"
    if parsed.scheme == "embedded":
        return f"embedded:// (a Valkey server with its data in {parsed.path.rstrip('/') or default_folder()})"
    return parsed.shown


def run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop, or on asyncio's loop where there is none; raises ClickException."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(work)
    except (StoreError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        pass
    except click.ClickException:
        raise
    except BaseException as error:
        # Such as the exception of an operator's module, whose traceback follows.
        logger.critical("process_failed", extra=error_fields(error))
        raise


def exit_status(work: Coroutine[Any, Any, None]) -> int:
    """Run a coroutine as `run_to_end` does; print its error and return the process's exit status."""
    try:
        run_to_end(work)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop
