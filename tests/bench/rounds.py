"""Rounds: every contender once in every mix, in a random order, again and again; bounded in time."""

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


def pairs(
    mixes: Sequence[Mix], contenders: Mapping[str, Contender], names: Sequence[str] | None
) -> list[tuple[Mix, str]]:
    """Who runs in which mix: those of `names` that can, or those that the mix itself names; who is missing, nowhere."""
    return [
        (mix, name)
        for mix in mixes
        for name in contenders
        if (name in mix.beside or (names is not None and mix.open))
        and (names is None or name in names)
        and contenders[name].missing() is None
    ]


def play(
    mixes: Sequence[Mix],
    contenders: Mapping[str, Contender],
    names: Sequence[str] | None,
    machine: Machine,
    *,
    rounds: int,
    seconds: float,
    within: float,
    patient: bool,
    say: Callable[[Result, float], None],
) -> list[Result]:
    """All results, each told to `say` with the seconds that its run took. After `within` seconds no run begins.

    Mixes that are long are in the first round only, unless `patient`.
    """
    deadline = time.monotonic() + within
    results: list[Result] = []
    for number in range(rounds):
        for mix in mixes:
            if number and mix.long and not patient:
                continue
            turn = [name for each, name in pairs([mix], contenders, names) if each is mix]
            random.shuffle(turn)
            for name in turn:
                if time.monotonic() > deadline:
                    return results
                begun = time.monotonic()
                try:
                    result = mix.run(contenders[name], machine, seconds)
                except (RuntimeError, OSError, LoadError) as error:
                    # The others are measured all the same.
                    result = Result(mix.name, name, problem=f"{type(error).__name__}: {error}")
                result.round = number
                results.append(result)
                say(result, time.monotonic() - begun)
    return results
