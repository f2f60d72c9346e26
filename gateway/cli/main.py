"""tokenwire run | gateway | worker | widget | bench; and what `gateway.cli.operator_commands` has"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import operator_commands
from gateway.cli.options import needs_shared_store, run_to_end, with_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starlette.responses import Response

    from gateway.app import Gateway
    from gateway.process.signals import Signals
    from gateway.settings import Settings
    from gateway.streams.store.store import Store
    from workers.pool import Pool


@click.group(context_settings={"show_default": True})
@click.version_option(package_name="tokenwire")
def main() -> None:
    """Deliver LLM answers to browsers so that nothing is lost, doubled or stuck."""


for command in (operator_commands.doctor, operator_commands.config, operator_commands.top, operator_commands.tail):
    main.add_command(command)


@main.command()
@click.option(
    "--gateways", default=1, metavar="N", type=click.IntRange(1, 9), help="gateways, of which the page can kill one"
)
@with_settings
def run(settings: Settings, gateways: int) -> None:
    """Gateway and worker in one process: everything, on one machine."""
    if gateways == 1:
        run_to_end(_serve(settings, with_worker=True))
        return
    from contextlib import ExitStack

    from gateway.process.server import reserve
    from gateway.process.supervisor import ProcessGroup

    if settings.store.startswith("memory:"):
        click.echo("Several gateways need a store that they share: this one is embedded://")
        settings = settings.model_copy(update={"store": "embedded://"})
    with ExitStack() as stack:
        places = [stack.enter_context(reserve(settings.host, port)) for port in (settings.port, *[0] * gateways)]
        ports = [place.getsockname()[1] for place in places]
        _announce(settings.host, ports[0])
        sys.exit(ProcessGroup(gateways + 2, partial(_one_of_a_house, settings, ports)).run())


def _one_of_a_house(settings: Settings, ports: list[int], place: int) -> int:
    """The switch, one of the gateways behind it, or their worker."""
    own = settings.model_copy(update={"port": ports[place] if place < len(ports) else 0, "metrics_port": None})
    if place == 0:
        return _exit_status(_switch(own, ports[1:]))
    if place < len(ports):
        return _exit_status(_serve(own, with_worker=False, behind=ports[0]))
    return _exit_status(_work(own, one_of_many=True))


@main.command()
@with_settings
def gateway(settings: Settings) -> None:
    """A gateway: browsers on one side, the store on the other. Run as many as you like."""
    needs_shared_store(settings)
    if settings.processes == 1:
        run_to_end(_serve(settings, with_worker=False))
        return
    from gateway.process.server import reserve
    from gateway.process.supervisor import ProcessGroup

    with reserve(settings.host, settings.port) as place:
        settings = settings.model_copy(update={"port": place.getsockname()[1]})
        _announce(settings.host, settings.port)
        sys.exit(ProcessGroup(settings.processes, partial(_one_of_many, settings)).run())


def _one_of_many(settings: Settings, place: int) -> int:
    if settings.metrics_port:
        # A scrape is to reach each of them.
        settings = settings.model_copy(update={"metrics_port": settings.metrics_port + place})
    return _exit_status(_serve(settings, with_worker=False))


def _exit_status(work: Coroutine[Any, Any, None]) -> int:
    try:
        run_to_end(work)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


@main.command()
@click.argument("address", default="https://GATEWAY")
def widget(address: str) -> None:
    """Print the script tag that puts the chat on a page, for a gateway at ADDRESS, with its integrity."""
    from gateway.transports.widget_files import integrity

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
    needs_shared_store(settings)
    run_to_end(_work(settings))


async def _switch(settings: Settings, ports: list[int]) -> None:
    from gateway.process.failover_proxy import FailoverProxy
    from gateway.process.server import listen
    from gateway.process.signals import Signals
    from gateway.process.supervisor import orphaned

    with listen(settings.host, settings.port, shared=True) as listener:
        signals = Signals()
        server = await FailoverProxy((settings.host, port) for port in ports).serve(listener)
        ends: list[asyncio.Task[Any]] = [asyncio.create_task(orphaned()), asyncio.create_task(signals.leave.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        server.close()


async def _serve(settings: Settings, *, with_worker: bool, behind: int | None = None) -> None:
    """`behind`: the port of the switch in front, from which the page comes."""
    from gateway.app import Gateway
    from gateway.process.server import Server, listen
    from gateway.process.signals import Signals
    from gateway.process.supervisor import orphaned
    from gateway.streams.store.store import open_store

    pool: Any = None
    many = behind is not None or (settings.processes > 1 and not with_worker)
    with listen(settings.host, settings.port, shared=many) as listener:
        port = listener.getsockname()[1]
        store = await open_store(settings.store, settings.lifetimes)
        signals = Signals()
        known = settings.targets() if with_worker else settings.models
        shared = Gateway(settings, store, behind or port, tuple(known) if known is not None else None)
        shared.mortal = behind is not None and settings.loopback
        if with_worker:
            pool = _pool(settings, store)
        server = Server(shared, settings, signals, 0.0 if with_worker or behind else settings.drain)
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
    from gateway.operations.metrics_server import MetricsServer, announce
    from gateway.process.server import listen

    host = settings.metrics_host or settings.host
    listener = listen(host, settings.metrics_port)
    announce(host, listener.getsockname()[1])
    return asyncio.create_task(MetricsServer(ready).run_on(listener))


async def _conceal(exposition: asyncio.Task[None] | None) -> None:
    if exposition is not None:
        exposition.cancel()
        await asyncio.gather(exposition, return_exceptions=True)


def _announce(host: str, port: int) -> None:
    click.echo(f"Tokenwire is at http://{f'[{host}]' if ':' in host else host}:{port}")
    sys.stdout.flush()


async def _ready(store: Store) -> Response:
    from gateway.operations.metrics_server import readiness

    return await readiness(store)


async def _failed(shared: Gateway) -> None:
    await shared.failed.wait()


def _pool(settings: Settings, store: Store) -> Pool:
    # The one place where the gateway's package knows the workers'.
    from workers.generation import GenerationOptions
    from workers.pool import Pool

    terms = GenerationOptions(
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


async def _work(settings: Settings, *, one_of_many: bool = False) -> None:
    from gateway.process.server import settle_collector
    from gateway.process.signals import Signals
    from gateway.process.supervisor import orphaned
    from gateway.streams.store.store import open_store

    store = await open_store(settings.store, settings.lifetimes)
    try:
        pool = _pool(settings, store)
        settle_collector()
        signals = Signals()
        running = asyncio.create_task(pool.run())
        leaving: list[asyncio.Task[Any]] = [asyncio.create_task(signals.leave.wait())]
        if one_of_many:
            leaving.append(asyncio.create_task(orphaned()))
        exposition = _expose(settings, partial(_ready, store))
        click.echo(f"Tokenwire worker {pool.name} serves {', '.join(sorted(pool.models))}")
        sys.stdout.flush()
        await asyncio.wait([running, *leaving], return_when=asyncio.FIRST_COMPLETED)
        for task in leaving:
            task.cancel()
        await _hand_over(pool, settings.drain, signals)
        await running
        await _conceal(exposition)
    finally:
        await store.close()


async def _hand_over(pool: Pool, drain: float, signals: Signals) -> None:
    """Let a pool leave within `drain` seconds, or at once when the process is told so."""
    leaving = asyncio.create_task(pool.shut_down(drain))
    now = asyncio.create_task(signals.now.wait())
    await asyncio.wait([leaving, now], return_when=asyncio.FIRST_COMPLETED)
    now.cancel()
    if not leaving.done():
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await pool.shut_down(0.0)
    else:
        await leaving
