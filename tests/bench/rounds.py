"""Runs rounds: each contender once in each mix, in random order, within a time limit."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from .load import LoadError
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .contender import Contender
    from .mixes import Mix
    from .run import Machine


def combinations(
    mixes: Sequence[Mix], contenders: Mapping[str, Contender], names: Sequence[str] | None
) -> list[tuple[Mix, str]]:
    """Return the combinations of mixes and contenders to run; contenders that cannot run here are omitted."""
    return [
        (mix, name)
        for mix in mixes
        for name in contenders
        if (name in mix.default_contenders or (names is not None and mix.open))
        and (names is None or name in names)
        and contenders[name].missing() is None
    ]


def run_rounds(
    mixes: Sequence[Mix],
    contenders: Mapping[str, Contender],
    names: Sequence[str] | None,
    machine: Machine,
    *,
    rounds: int,
    seconds: float,
    within: float,
    all_rounds: bool,
    on_result: Callable[[Result, float], None],
) -> list[Result]:
    """Run all rounds and return the results. `on_result` gets each result and the seconds of its run.

    No run starts after `within` seconds. Mixes with `single_round` run in the first round only, unless `all_rounds`.
    """
    deadline = time.monotonic() + within
    results: list[Result] = []
    for number in range(rounds):
        for mix in mixes:
            if number and mix.single_round and not all_rounds:
                continue
            names_in_round = [name for each, name in combinations([mix], contenders, names) if each is mix]
            random.shuffle(names_in_round)
            for name in names_in_round:
                if time.monotonic() > deadline:
                    return results
                started = time.monotonic()
                try:
                    result = mix.run(contenders[name], machine, seconds)
                except (RuntimeError, OSError, LoadError) as error:
                    # A failed run does not stop the others.
                    result = Result(mix.name, name, problem=f"{type(error).__name__}: {error}")
                result.round = number
                results.append(result)
                on_result(result, time.monotonic() - started)
    return results
