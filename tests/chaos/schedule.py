"""What happens in one run, drawn from a seed: who asks what, who watches, and what goes wrong when.

Pure: the same seed is the same schedule, on every machine. Times are seconds from the beginning of the run.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Provider = Literal[
    "finish", "busy", "down", "error", "cut", "unfinished", "unannounced", "malformed", "silence", "pings", "flood",
    "refused", "filtered", "length", "refuses", "thinks",
]  # fmt: skip
"""How the provider answers: as it should (`finish`), after refusing at first (`busy` 429, `down` 500 and 529), with
each of its faults, or never (`refuses`)."""

Habit = Literal["cut", "sleep", "move", "reload", "slow", "stop", "rewatch"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of a conversation's first viewer. `copies` are sent at once, under one submit key, by as many viewers;
    `conflict`: the last of them has another text."""

    at: float
    provider: Provider
    pieces: int
    delay: float
    """Seconds between two pieces."""
    copies: int = 1
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class Doing:
    """What a viewer does of its own accord."""

    at: float
    habit: Habit
    lasts: float


@dataclass(frozen=True, slots=True)
class Viewer:
    """One watcher, at first on one of the gateways."""

    gateway: int
    joins: float
    does: tuple[Doing, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Its messages, and who watches it; the first viewer asks."""

    turns: tuple[Turn, ...]
    viewers: tuple[Viewer, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` is a name of `FAULTS`; `which` picks whom it hits, `amount` says how badly, each as the kind reads it."""

    kind: str
    at: float
    lasts: float
    which: int
    amount: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `number` is that of the table in the README."""

    number: str
    weight: int
    lasts: tuple[float, float] = (0.2, 1.5)
    costs: int = 0
    """Calls of the provider that it may cost at the most, a question."""
    lossy: bool = False
    """The store itself loses what it had acknowledged."""
    fails: bool = False
    """An answer may fail of it."""


FAULTS: Final[dict[str, Kind]] = {
    "kill worker": Kind("F1", 8, costs=1),
    "freeze worker": Kind("F2", 6, (0.3, 4.0), costs=1),
    "kill worker at its end": Kind("F3 F4", 5, costs=1),
    "poison": Kind("F5", 1, costs=2, fails=True),
    "swallow to worker": Kind("F6", 8),
    "swallow to gateway": Kind("F6", 6),
    "crash store": Kind("F7", 5, (0.2, 3.0)),
    "empty store": Kind("F8", 2, costs=1, lossy=True, fails=True),
    "old store": Kind("F9", 2, costs=1, lossy=True, fails=True),
    "failover": Kind("F10", 5, (0.05, 0.8), costs=1, lossy=True, fails=True),
    "failover and death": Kind("F11", 3, (0.05, 0.8), costs=2, lossy=True, fails=True),
    "split": Kind("F12", 3, (0.5, 2.5), costs=2, lossy=True, fails=True),
    "freeze store": Kind("F13", 3, (0.2, 3.0)),
    "pause store": Kind("F13", 3, (0.2, 3.0)),
    "sleep store": Kind("F13", 2, (0.2, 2.0)),
    "kill connections": Kind("F14", 5, (0.2, 2.0)),
    "flip role": Kind("F15", 2, (0.3, 1.0), costs=1, lossy=True, fails=True),
    "fill store": Kind("F17", 2, (0.3, 1.5), costs=1, fails=True),
    "delete log": Kind("F18", 1, costs=1, lossy=True, fails=True),
    "expire log": Kind("F18", 1, costs=1, lossy=True, fails=True),
    "trim history": Kind("F19", 1, lossy=True, fails=True),
    "kill gateway": Kind("F20", 6),
    "leave gateway": Kind("F21", 3),
    "freeze gateway": Kind("F24", 2, (0.3, 3.0)),
    "leave worker": Kind("F21", 2, costs=1),
    "hole to worker": Kind("F24", 4, (0.3, 4.0), costs=1),
    "hole to gateway": Kind("F24", 4, (0.3, 4.0)),
    "deaf gateway": Kind("F14", 5, (0.3, 3.0)),
    "slow to worker": Kind("F13", 4, (0.5, 3.0), costs=1),
    "slow to gateway": Kind("F13", 4, (0.5, 3.0)),
    "slices of the store": Kind("F13", 3, (0.5, 3.0)),
    "cut clients": Kind("F27", 6),
    "hole to clients": Kind("F24", 4, (0.3, 3.0)),
    "half-close clients": Kind("F24", 3),
    "slow clients": Kind("F26", 3, (0.5, 3.0)),
    "slices of clients": Kind("F26", 3, (0.5, 3.0)),
    "limit clients": Kind("F24", 3, (0.5, 3.0)),
    "wrong clock of worker": Kind("F36", 2, costs=1),
    "wrong clock of gateway": Kind("F36", 2),
}

PROVIDERS: Final[dict[str, str]] = {
    "busy": "F30", "down": "F30", "refuses": "F30", "error": "F31", "malformed": "F31", "cut": "F32",
    "unfinished": "F32", "unannounced": "F32", "silence": "F33", "pings": "F33", "flood": "F34", "refused": "F31",
    "filtered": "F31", "length": "F31",
}  # fmt: skip
HABITS: Final[dict[str, str]] = {
    "cut": "F20", "move": "F20", "reload": "F49", "sleep": "F49", "slow": "F25", "stop": "F35", "rewatch": "F41",
}  # fmt: skip
OTHERS: Final[dict[str, str]] = {"copies": "F28", "conflict": "F29", "crowd": "F50"}
"""Where what providers and viewers do stands in the table of faults."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run."""

    seed: int
    conversations: tuple[Conversation, ...]
    faults: tuple[Fault, ...]

    @property
    def lossy(self) -> bool:
        """Whether the store itself loses something."""
        return any(FAULTS[fault.kind].lossy for fault in self.faults)

    @property
    def fails(self) -> bool:
        """Whether an answer may fail that the provider would have finished."""
        return any(FAULTS[fault.kind].fails for fault in self.faults) or self.costs >= 3

    @property
    def costs(self) -> int:
        """Calls of the provider for one question that the faults may cost."""
        return sum(FAULTS[fault.kind].costs for fault in self.faults)

    def as_data(self) -> dict[str, Any]:
        """The whole of it, for a person who looks into a failure."""
        return asdict(self)


PLAIN: Final[tuple[Provider, ...]] = ("finish",) * 10 + ("thinks",)
FAULTY: Final[tuple[Provider, ...]] = (
    "busy", "down", "error", "cut", "unfinished", "unannounced", "malformed", "silence", "pings", "flood",
    "refused", "filtered", "length", "refuses",
)  # fmt: skip
CROWD: Final = 50


def draw(seed: int, only: tuple[str, ...] = ()) -> Schedule:
    """The schedule of a seed; `only` names the kinds of faults that may be in it, all by default."""
    chance = random.Random(seed)
    crowded = chance.random() < 0.03
    conversations = tuple(_conversation(chance, crowded=crowded) for _ in range(1 if crowded else chance.randint(2, 4)))
    kinds = [kind for kind in FAULTS if not only or kind in only]
    faults: list[Fault] = []
    for _ in range(chance.choices((1, 2, 3, 4, 5), (3, 4, 4, 2, 1))[0]):
        kind = chance.choices(kinds, [FAULTS[kind].weight for kind in kinds])[0]
        known = FAULTS[kind]
        if known.lossy and any(FAULTS[fault.kind].lossy for fault in faults):
            continue
        faults.append(
            Fault(
                kind,
                round(chance.uniform(0.1, 2.8), 3),
                round(chance.uniform(*known.lasts), 3),
                chance.randrange(1 << 16),
                round(chance.random(), 3),
            )
        )
    return Schedule(seed, conversations, tuple(sorted(faults, key=lambda fault: fault.at)))


def _conversation(chance: random.Random, *, crowded: bool) -> Conversation:
    turns = []
    viewers = CROWD if crowded else chance.choices((1, 2, 3, 5), (2, 4, 3, 1))[0]
    at = chance.uniform(0.0, 0.6)
    for _ in range(chance.choices((1, 2), (3, 1))[0]):
        provider = chance.choice(PLAIN if chance.random() < 0.8 else FAULTY)
        pieces, delay = chance.randint(20, 90), chance.choice((0.01, 0.02, 0.03, 0.05))
        if provider == "flood":
            pieces, delay = 3000, 0.0
        copies = chance.choice((1, 1, 1, 1, 2, 3)) if viewers > 1 else 1
        turns.append(
            Turn(
                round(at, 3),
                provider,
                pieces,
                delay,
                min(copies, viewers),
                conflict=copies > 1 and chance.random() < 0.2,
            )
        )
        at += chance.uniform(0.0, 2.0)
    return Conversation(tuple(turns), tuple(_viewer(chance, number) for number in range(viewers)))


def _viewer(chance: random.Random, number: int) -> Viewer:
    does = []
    for _ in range(chance.choices((0, 1, 2), (5, 3, 1))[0]):
        habit: Habit = chance.choices(
            ("cut", "sleep", "move", "reload", "slow", "stop", "rewatch"), (5, 3, 4, 2, 2, 2, 1)
        )[0]
        does.append(Doing(round(chance.uniform(0.3, 3.0), 3), habit, round(chance.uniform(0.05, 1.5), 3)))
    joins = 0.0 if number == 0 else chance.choice((0.0, 0.0, round(chance.uniform(0.0, 3.0), 3)))
    return Viewer(chance.randrange(2), joins, tuple(sorted(does, key=lambda doing: doing.at)))
