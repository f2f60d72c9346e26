"""tokenwire doctor | config | top | tail"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, TextIO

import click

from gateway.cli.options import require_shared_store, run_to_end, with_settings
from gateway.cli.settings import Settings
from gateway.streams.settings import StoreSettings

if TYPE_CHECKING:
    from gateway.operations.finding import Finding

HOME_AND_CLEAR: str = "\x1b[H\x1b[J"
"""Cursor to the corner, erase to the end of the page (ECMA-48, sections 8.3.21 and 8.3.39)."""


@click.command()
@click.option(
    "--url", help="also probe the gateway at this address, the one that clients use, and the proxies in front of it"
)
@click.option(
    "--token-file",
    type=click.File(),
    help="file with a token for conversations doctor-* there, - for standard input; not needed with a secret in "
    "TOKENWIRE_JWT_KEY",
)
@click.option("--providers", is_flag=True, help="also make one short call of each target, which may cost a little")
@with_settings(Settings)
def doctor(settings: Settings, url: str | None, token_file: TextIO | None, providers: bool) -> None:
    """Check the store, this machine, the keys and the way to a gateway, and report what to change."""
    from gateway.operations.doctor import examine
    from gateway.operations.terminal import visible

    token = token_file.read().strip() if token_file is not None else None
    findings = asyncio.run(examine(settings, url, token))
    if providers:
        findings += asyncio.run(_providers(settings))
    for finding in findings:
        click.echo(visible(f"{finding.mark:<5} {finding.subject}: {finding.text}"))
    if any(finding.mark == "FAIL" for finding in findings):
        sys.exit(1)


async def _providers(settings: Settings) -> list[Finding]:
    from gateway.operations.finding import Finding
    from workers.provider_check import check

    return [
        Finding(result.mark, f"provider {result.alias}", result.text)
        for result in await check(settings.model_targets())
    ]


@click.command()
@click.argument("response")
@click.option("--follow", is_flag=True, help="continue until the log has its end")
@with_settings(StoreSettings)
def tail(settings: StoreSettings, response: str, follow: bool) -> None:
    """Print the log of RESPONSE, one entry a line: id, kind, body. It shows what users wrote."""
    from gateway.streams import keys

    if not keys.is_response(response):
        raise click.ClickException(f"{response!r} is not a response id: r, two digits, then 16 letters or digits")
    require_shared_store(settings)
    run_to_end(_tail(settings, response, follow))


@click.command()
@with_settings(Settings)
@click.pass_obj
def config(options: dict[str, str], settings: Settings) -> None:
    """Print the settings in effect, with secrets masked, and the source of each."""
    from gateway.streams.settings import effective

    rows = effective(settings, options, os.environ)
    wide = max(len(row.name) for row in rows)
    for row in rows:
        click.echo(f"{row.name:<{wide}}  {row.source:<11}  {row.value}")


@click.command()
@click.option("--json", "once", is_flag=True, help="print the state once, as JSON")
@with_settings(StoreSettings)
def top(settings: StoreSettings, once: bool) -> None:
    """Show gateways, workers, the queue and open responses, once a second."""
    require_shared_store(settings)
    run_to_end(_top(settings, once))


async def _top(settings: StoreSettings, once: bool) -> None:
    import msgspec

    from gateway.operations import top as screen
    from gateway.operations.overview import overview
    from gateway.streams import presence
    from gateway.streams.store.store import open_store

    store = await open_store(settings.store)
    try:
        while True:
            fleet = await overview(store)
            if once:
                click.echo(msgspec.json.encode(fleet).decode())
                return
            width, height = shutil.get_terminal_size()
            shown = screen.lines(fleet, time.strftime("%H:%M:%S"), width, height)
            click.echo(HOME_AND_CLEAR + "\n".join(shown), nl=False)
            sys.stdout.flush()
            await asyncio.sleep(presence.HEARTBEAT_INTERVAL_S)
    finally:
        await store.close()


async def _tail(settings: StoreSettings, response: str, follow: bool) -> None:
    from gateway.operations.terminal import visible
    from gateway.streams import log_entries, response_log
    from gateway.streams.store.store import open_store

    store = await open_store(settings.store)
    try:
        last = None
        while True:
            entries = await response_log.read(store, response, last)
            if not entries:
                reason = "it never existed, or expired TOKENWIRE_RETENTION after its end"
                raise click.ClickException(f"there is no log of {response}: {reason}")
            for entry, value in entries:
                if last is not None and entry <= last:
                    continue
                text = visible(value.decode("utf-8", "backslashreplace"))
                name = log_entries.KINDS.get(value[:1], text[:1])
                click.echo(f"{entry!s:<20} {name:<9} {text[1:]}")
            # After a lost tail the log ends before the last entry that was printed.
            last = max(last or entries[-1][0], entries[-1][0])
            if not follow or entries[-1][1][:1] == log_entries.END:
                return
            await asyncio.sleep(0.2)
    finally:
        await store.close()
