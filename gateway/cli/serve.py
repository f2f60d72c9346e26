"""tokenwire run | gateway"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import click

from gateway.app import Gateway
from gateway.cli.metrics_port import open_metrics_port
from gateway.cli.options import (
    describe_store,
    exit_status,
    require_provider,
    require_shared_store,
    run_to_end,
    with_settings,
)
from gateway.cli.processes import Parts
from gateway.cli.settings import Settings
from gateway.cli.worker import work
from gateway.process.failover_proxy import FailoverProxy
from gateway.process.listener import listen, reserve
from gateway.process.server import Server
from gateway.process.signals import Signals
from gateway.process.supervisor import ProcessGroup, orphaned
from gateway.settings import GatewaySettings
from gateway.streams.store.store import open_store
from workers.main import create_pool, drain_pool

if TYPE_CHECKING:
    from workers.pool import Pool


@click.command()
@click.option(
    "--gateways",
    default=1,
    metavar="N",
    type=click.IntRange(1, 9),
    help="gateways behind one port; with several, the page at / can kill the one that serves it  [default: 1]",
)
@with_settings(Settings)
def run(settings: Settings, gateways: int) -> None:
    """Run a gateway and a worker in one process: the whole product on one machine."""
    if gateways == 1:
        run_to_end(serve(settings, run_worker=settings))
        return
    if settings.store.startswith("memory:"):
        click.echo("Several gateways need a shared store: TOKENWIRE_STORE is embedded:// for this run.")
        settings = settings.model_copy(update={"store": "embedded://"})
    describe_store(settings.store)
    require_provider(settings, authenticated=settings.jwt_key is not None)
    with ExitStack() as stack:
        listeners = [stack.enter_context(reserve(settings.host, port)) for port in (settings.port, *[0] * gateways)]
        ports = [listener.getsockname()[1] for listener in listeners]
        announce(settings, ports[0], tuple(f"{alias} -> {names}" for alias, names in settings.targets().items()))
        sys.exit(ProcessGroup(gateways + 2, partial(_run_member, settings, ports)).run())


def _run_member(settings: Settings, ports: list[int], index: int) -> int:
    """Run the failover proxy (first), a gateway behind it, or the worker (last); return the exit status."""
    port = ports[index] if index < len(ports) else 0
    own = settings.model_copy(update={"port": port, "metrics_port": None})
    if index == 0:
        return exit_status(_serve_proxy(own, ports[1:]))
    if index < len(ports):
        return exit_status(serve(own, proxy_port=ports[0]))
    return exit_status(work(own, has_parent=True))


@click.command()
@with_settings(GatewaySettings)
def gateway(settings: GatewaySettings) -> None:
    """Run a gateway: browsers on one side, the store on the other. Any number may share a store."""
    require_shared_store(settings)
    if settings.processes == 1:
        run_to_end(serve(settings))
        return
    with reserve(settings.host, settings.port) as listener:
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        announce(settings, settings.port)
        sys.exit(ProcessGroup(settings.processes, partial(_run_gateway, settings)).run())


def _run_gateway(settings: GatewaySettings, index: int) -> int:
    if settings.metrics_port:
        # Prometheus has to reach each process.
        settings = settings.model_copy(update={"metrics_port": settings.metrics_port + index})
    return exit_status(serve(settings))


async def _serve_proxy(settings: GatewaySettings, ports: list[int]) -> None:
    with listen(settings.host, settings.port, shared=True) as listener:
        signals = Signals()
        server = await FailoverProxy((settings.host, port) for port in ports).serve(listener)
        async with asyncio.TaskGroup() as group:
            parts = Parts(group)
            parts.watch("parent", orphaned())
            parts.watch("signals", signals.leave.wait())
            await parts.stopped.wait()
            parts.cancel_watches()
        server.close()


async def serve(
    settings: GatewaySettings, *, run_worker: Settings | None = None, proxy_port: int | None = None
) -> None:
    """Serve until a signal or a failure ends it.

    `run_worker`: the settings of a worker in the same process, if there is to be one. `proxy_port`: the port of the
    failover proxy in front, from which the page comes. Raises StoreError, ClickException.
    Not safe to cancel: clients get no reconnect hint.
    """
    has_parent = proxy_port is not None or (settings.processes > 1 and run_worker is None)
    with listen(settings.host, settings.port, shared=has_parent) as listener:
        port = listener.getsockname()[1]
        store = await open_store(settings.store, settings.lifetimes)
        signals = Signals()
        aliases = settings.targets() if run_worker is not None else settings.models
        own = Gateway(settings, store, proxy_port or port, tuple(aliases) if aliases is not None else None)
        own.killable = proxy_port is not None and settings.loopback
        pool: Pool | None = None
        try:
            if run_worker is not None:
                require_provider(run_worker, authenticated=settings.jwt_key is not None)
                pool = create_pool(run_worker, store)
            drain = 0.0 if run_worker is not None or proxy_port is not None else settings.drain
            server = Server(own, settings, signals, drain)
            if not has_parent:
                announce(settings, port, pool.targets if pool is not None else None)
            async with open_metrics_port(settings, own.ready), asyncio.TaskGroup() as group:
                parts = Parts(group)
                parts.start("server", server.serve(sockets=[listener]))
                parts.watch("failure", own.failed.wait())
                if has_parent:
                    parts.watch("parent", orphaned())
                if pool is not None:
                    parts.start("worker", pool.run())
                try:
                    await parts.stopped.wait()
                finally:
                    server.should_exit = True
                    if pool is not None:
                        # memory:// ends with this process: no other worker could take the jobs over.
                        await drain_pool(
                            pool, 0.0 if settings.store.startswith("memory:") else settings.drain, signals.now
                        )
                    parts.cancel_watches()
        finally:
            await store.close()
        parts.raise_failure()
        if own.failed.is_set():
            raise click.ClickException("the gateway failed: see the event gateway_failed in its log")


def announce(settings: GatewaySettings, port: int, targets: tuple[str, ...] | None = None) -> None:
    """Print the store, the models, and the address, which is the last word. `targets`: of a worker in this process."""
    named = ", ".join(settings.models) if settings.models else "as the workers have them"
    by = named if targets is None else "; ".join(targets)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    click.echo(f"Tokenwire: store {describe_store(settings.store)}; models {by}; at http://{host}:{port}")
    sys.stdout.flush()
