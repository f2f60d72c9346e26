"""The entry point: `tokenwire COMMAND`. A command's module is imported only when the command is used."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

COMMANDS: Final = {
    "run": "serve",
    "gateway": "serve",
    "worker": "worker",
    "widget": "widget",
    "doctor": "operator_commands",
    "config": "operator_commands",
    "top": "operator_commands",
    "tail": "operator_commands",
    "bench": "bench",
}
"""Each command, and its module in this package. A worker must not pay for importing an HTTP server."""


class LazyGroup(click.Group):
    """A group whose commands are imported on use (click, "Lazily Loading Subcommands")."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"gateway.cli.{COMMANDS[cmd_name]}"), cmd_name)
        return command


@click.group(cls=LazyGroup)
@click.version_option(package_name="tokenwire")
def main() -> None:
    """Deliver LLM answers to browsers without losing, duplicating or hanging anything."""
