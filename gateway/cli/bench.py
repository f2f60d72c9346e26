"""tokenwire bench"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import click


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure the cost of a delivered token on this machine, beside other servers; `--help` lists the options."""
    # The wheel has the benchmark in this package, a checkout has it in tests/.
    package = "gateway.bench" if importlib.util.find_spec("gateway.bench") else "tests.bench"
    try:
        benchmark = importlib.import_module(f"{package}.__main__")
    except ImportError:
        raise click.ClickException("the benchmark is not installed: run `make bench` in a checkout") from None
    sys.exit(benchmark.main(list(arguments)))
