"""tokenwire widget"""

from __future__ import annotations

import click

from gateway.transports.widget_files import integrity


@click.command()
@click.argument("address", default="https://GATEWAY")
def widget(address: str) -> None:
    """Print the script tag that puts the chat on a page, for a gateway at ADDRESS, with its integrity hash."""
    try:
        digest = integrity()
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f'<script async src="{address}/widget.js" integrity="{digest}" crossorigin="anonymous"></script>')
