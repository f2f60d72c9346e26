"""tokenwire run | gateway | worker | doctor | tail | widget | bench"""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import click

from gateway.settings import Settings, SettingsError, load
from gateway.streams.metrics import BUILD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starlette.responses import Response

    from gateway.app import Gateway
    from gateway.signals import Signals
    from gateway.streams.store import Store
    from workers.pool import Pool


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting, and the settings themselves as its first argument."""

    def run(**given: Any) -> None:
        own = {name: given.pop(name) for name in list(given) if name not in Settings.model_fields}
        try:
            settings = load({name: value for name, value in given.items() if value is not None})
        except SettingsError as error:
            raise click.ClickException(str(error)) from None
        BUILD.labels(_version()).set(1)
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "uvicorn.access"):
            # They log addresses and, at debug level, whole prompts.
            logging.getLogger(noisy).setLevel(logging.WARNING)
        # uvicorn's WebSocket logger writes the query string.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        command(settings, **own)

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    for name, field in reversed(Settings.model_fields.items()):
        run = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=field.description)(run)
    return run


@click.group(context_settings={"show_default": True})
@click.version_option(package_name="tokenwire")
def main() -> None:
    """Deliver LLM answers to browsers so that nothing is lost, doubled or stuck."""


@main.command()
@with_settings
def run(settings: Settings) -> None:
    """Gateway and worker in one process: everything, on one machine."""
    _main(_serve(settings, with_worker=True))


@main.command()
@with_settings
def gateway(settings: Settings) -> None:
    """A gateway: browsers on one side, the store on the other. Run as many as you like."""
    _shared(settings)
    if settings.processes == 1:
        _main(_serve(settings, with_worker=False))
        return
    from gateway.processes import Family
    from gateway.server import reserve

    with reserve(settings.host, settings.port) as place:
        settings = settings.model_copy(update={"port": place.getsockname()[1]})
        _announce(settings.host, settings.port)
        sys.exit(Family(settings.processes, partial(_one_of_many, settings)).run())


def _one_of_many(settings: Settings, place: int) -> int:
    if settings.metrics_port:
        # A scrape is to reach each of them.
        settings = settings.model_copy(update={"metrics_port": settings.metrics_port + place})
    try:
        _main(_serve(settings, with_worker=False))
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


@main.command()
@click.argument("address", default="https://GATEWAY")
def widget(address: str) -> None:
    """Print the script tag that puts the chat on a page, for a gateway at ADDRESS, with its integrity."""
    from gateway.assets import integrity

    try:
        digest = integrity()
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f'<script async src="{address}/widget.js" integrity="{digest}" crossorigin="anonymous"></script>')


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure what a delivered token costs on this machine, beside a floor and beside others; `--help` says more."""
    import importlib
    import importlib.util

    # Installed, the benchmark lies in this package; in a checkout, in tests/.
    package = "gateway.bench" if importlib.util.find_spec("gateway.bench") else "tests.bench"
    try:
        benchmark = importlib.import_module(f"{package}.__main__")
    except ImportError:
        raise click.ClickException("the benchmark is not installed: run it in a checkout, with `make bench`") from None
    sys.exit(benchmark.main(list(arguments)))


@main.command()
@with_settings
def worker(settings: Settings) -> None:
    """A worker: takes jobs from the store and writes what providers answer. Run as many as you like."""
    _shared(settings)
    _main(_work(settings))


@main.command()
@with_settings
def doctor(settings: Settings) -> None:
    """Check the store, the limits of this machine and the keys, and say what to do."""
    from gateway.doctor import examine

    findings = asyncio.run(examine(settings))
    for finding in findings:
        click.echo(f"{finding.mark:<5} {finding.subject}: {finding.text}")
    if any(finding.mark == "FAIL" for finding in findings):
        sys.exit(1)


@main.command()
@click.argument("response")
@click.option("--follow", is_flag=True, help="go on until the log has its end")
@with_settings
def tail(settings: Settings, response: str, follow: bool) -> None:
    """Print the log of RESPONSE, an entry a line: its id, its kind, its body."""
    from gateway.streams import keys

    if not keys.is_response(response):
        raise click.ClickException(f"{response!r} is no response's id; they look like r07 and 16 letters or digits")
    _shared(settings)
    _main(_tail(settings, response, follow))


def _version() -> str:
    try:
        return version("tokenwire")
    except PackageNotFoundError:  # in a checkout, by `make run`
        return "unknown"


def _shared(settings: Settings) -> None:
    if settings.store.startswith("memory:"):
        raise click.ClickException(
            "memory:// lives inside one process: use `tokenwire run`, or set TOKENWIRE_STORE to embedded:// "
            "or to a Redis such as redis://127.0.0.1:6379"
        )


def _main(work: Coroutine[Any, Any, None]) -> None:
    from gateway.streams.store import StoreError

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


async def _serve(settings: Settings, *, with_worker: bool) -> None:
    from gateway.app import Gateway
    from gateway.processes import orphaned
    from gateway.server import Server, listen
    from gateway.signals import Signals
    from gateway.streams.store import open_store

    pool: Any = None
    many = settings.processes > 1 and not with_worker
    with listen(settings.host, settings.port, shared=many) as listener:
        port = listener.getsockname()[1]
        store = await open_store(settings.store, settings.lifetimes)
        signals = Signals()
        known = settings.targets() if with_worker else settings.models
        shared = Gateway(settings, store, port, tuple(known) if known is not None else None)
        if with_worker:
            pool = _pool(settings, store)
        server = Server(shared, settings, signals, 0.0 if with_worker else settings.drain)
        if not many:
            _announce(settings.host, port)
        tasks = [asyncio.create_task(server.serve(sockets=[listener])), asyncio.create_task(_failed(shared))]
        if many:
            tasks.append(asyncio.create_task(orphaned()))
        exposition = _expose(settings, shared.ready)
        try:
            if pool is not None:
                tasks.append(asyncio.create_task(pool.run()))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server.should_exit = True
            if pool is not None:
                # The store lives and dies with this process: there is nobody to hand over to.
                await _hand_over(pool, 0.0 if settings.store.startswith("memory:") else settings.drain, signals)
            for task in (tasks[1], *(tasks[2:] if many else ())):
                task.cancel()
            await _conceal(exposition)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await store.close()
            for result in results:
                if isinstance(result, Exception):
                    raise result
        if shared.failed.is_set():
            raise click.ClickException("the gateway could not go on")


def _expose(settings: Settings, ready: Callable[[], Awaitable[Response]]) -> asyncio.Task[None] | None:
    """Open the port for metrics, if there is to be one."""
    if settings.metrics_port is None:
        return None
    from gateway.exposition import Exposition, announce
    from gateway.server import listen

    host = settings.metrics_host or settings.host
    listener = listen(host, settings.metrics_port)
    announce(host, listener.getsockname()[1])
    return asyncio.create_task(Exposition(ready).run_on(listener))


async def _conceal(exposition: asyncio.Task[None] | None) -> None:
    if exposition is not None:
        exposition.cancel()
        await asyncio.gather(exposition, return_exceptions=True)


def _announce(host: str, port: int) -> None:
    click.echo(f"Tokenwire is at http://{f'[{host}]' if ':' in host else host}:{port}")
    sys.stdout.flush()


async def _ready(store: Store) -> Response:
    from gateway.exposition import readiness

    return await readiness(store)


async def _failed(shared: Gateway) -> None:
    await shared.failed.wait()


def _pool(settings: Settings, store: Store) -> Pool:
    # The one place where the gateway's package knows the workers'.
    from workers.generate import Terms
    from workers.pool import Pool

    terms = Terms(
        settings.lease,
        settings.attempts,
        settings.recovery,
        settings.window,
        settings.patience,
        settings.first_timeout,
        settings.idle_timeout,
        settings.longest,
        settings.context,
    )
    return Pool(store, settings.targets(), terms, concurrency=settings.concurrency, demo_rate=settings.demo_rate)


async def _work(settings: Settings) -> None:
    from gateway.server import settle_collector
    from gateway.signals import Signals
    from gateway.streams.store import open_store

    store = await open_store(settings.store, settings.lifetimes)
    try:
        pool = _pool(settings, store)
        settle_collector()
        signals = Signals()
        running = asyncio.create_task(pool.run())
        leaving = asyncio.create_task(signals.leave.wait())
        exposition = _expose(settings, partial(_ready, store))
        click.echo(f"Tokenwire worker {pool.name} serves {', '.join(sorted(pool.models))}")
        sys.stdout.flush()
        await asyncio.wait([running, leaving], return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        await _hand_over(pool, settings.drain, signals)
        await running
        await _conceal(exposition)
    finally:
        await store.close()


async def _hand_over(pool: Pool, drain: float, signals: Signals) -> None:
    """Let a pool leave within `drain` seconds, or at once when the process is told so."""
    leaving = asyncio.create_task(pool.leave(drain))
    now = asyncio.create_task(signals.now.wait())
    await asyncio.wait([leaving, now], return_when=asyncio.FIRST_COMPLETED)
    now.cancel()
    if not leaving.done():
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await pool.leave(0.0)
    else:
        await leaving


async def _tail(settings: Settings, response: str, follow: bool) -> None:
    from gateway.streams import events, log
    from gateway.streams.store import open_store

    names = {
        events.QUEUED: "queued",
        events.START: "start",
        events.CONTINUE: "continue",
        events.TEXT: "text",
        events.REASONING: "reasoning",
        events.WAITING: "waiting",
        events.END: "end",
    }
    store = await open_store(settings.store, settings.lifetimes)
    try:
        last = None
        while True:
            entries = await log.read(store, response, last)
            if not entries:
                raise click.ClickException(f"there is no log of {response}; a log is kept for {settings.retention:g} s")
            for entry, value in entries:
                if entry == last:
                    continue
                kind, body = value[:1], value[1:].decode()
                name = names.get(kind, kind.decode())
                click.echo(f"{entry!s:<20} {name:<9} {body}")
            last = entries[-1][0]
            if not follow or entries[-1][1][:1] == events.END:
                return
            await asyncio.sleep(0.2)
    finally:
        await store.close()
