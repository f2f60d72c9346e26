"""Draws a schedule from a seed: messages, viewers, their actions, and faults with their times.

Pure: the same seed gives the same schedule on every machine. Times are seconds from the start of the run.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Provider = Literal[
    "finish", "busy", "down", "error", "cut", "unfinished", "unannounced", "malformed", "silence", "pings", "flood",
    "refused", "filtered", "length", "refuses", "thinks",
]  # fmt: skip
"""Behaviour of the provider: normal (`finish`), after rejections (`busy` 429, `down` 500 and 529), with one
of its faults, or with a permanent rejection (`refuses`)."""

ActionKind = Literal["cut", "sleep", "move", "reload", "slow", "stop", "rewatch"]


@dataclass(frozen=True, slots=True)
class MessagePlan:
    """A message of the conversation's first viewer. `copies` viewers send it at the same time with one idempotency key;
    `conflict`: the last of them sends another text."""

    at: float
    provider: Provider
    pieces: int
    delay: float
    """Seconds between two pieces."""
    copies: int = 1
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """An action of a viewer."""

    at: float
    kind: ActionKind
    duration: float


@dataclass(frozen=True, slots=True)
class ViewerPlan:
    """A viewer and its first gateway."""

    gateway: int
    joins_at: float
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True)
class ConversationPlan:
    """A conversation: its messages and viewers. The first viewer sends the messages."""

    messages: tuple[MessagePlan, ...]
    viewers: tuple[ViewerPlan, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` is a name of `FAULTS`, which interprets `target` (any number) and `severity` (0 to 1)."""

    kind: str
    at: float
    duration: float
    target: int
    severity: float


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault. `number` refers to the table in the README."""

    number: str
    weight: int
    duration: tuple[float, float] = (0.2, 1.5)
    extra_calls: int = 0
    """Maximum of additional provider calls per question."""
    lossy: bool = False
    """Whether the store loses acknowledged writes."""
    fails: bool = False
    """Whether an answer may fail because of it."""


FAULTS: Final[dict[str, FaultKind]] = {
    "kill worker": FaultKind("F1", 8, extra_calls=1),
    "freeze worker": FaultKind("F2", 6, (0.3, 4.0), extra_calls=1),
    "kill worker at end": FaultKind("F3 F4", 5, extra_calls=1),
    "poison message": FaultKind("F5", 1, extra_calls=2, fails=True),
    "drop reply to worker": FaultKind("F6", 8),
    "drop reply to gateway": FaultKind("F6", 6),
    "crash store": FaultKind("F7", 5, (0.2, 3.0)),
    "wipe store": FaultKind("F8", 2, extra_calls=1, lossy=True, fails=True),
    "roll back store": FaultKind("F9", 2, extra_calls=1, lossy=True, fails=True),
    "failover": FaultKind("F10", 5, (0.05, 0.8), extra_calls=1, lossy=True, fails=True),
    "failover and kill workers": FaultKind("F11", 3, (0.05, 0.8), extra_calls=2, lossy=True, fails=True),
    "split brain": FaultKind("F12", 3, (0.5, 2.5), extra_calls=2, lossy=True, fails=True),
    "freeze store": FaultKind("F13", 3, (0.2, 3.0)),
    "pause store": FaultKind("F13", 3, (0.2, 3.0)),
    "block store": FaultKind("F13", 2, (0.2, 2.0)),
    "kill connections": FaultKind("F14", 5, (0.2, 2.0)),
    "flip role": FaultKind("F15", 2, (0.3, 1.0), extra_calls=1, lossy=True, fails=True),
    "fill store": FaultKind("F17", 2, (0.3, 1.5), extra_calls=1, fails=True),
    "delete log": FaultKind("F18", 1, extra_calls=1, lossy=True, fails=True),
    "expire log": FaultKind("F18", 1, extra_calls=1, lossy=True, fails=True),
    "trim history": FaultKind("F19", 1, lossy=True, fails=True),
    "kill gateway": FaultKind("F20", 6),
    "drain gateway": FaultKind("F21", 3),
    "freeze gateway": FaultKind("F24", 2, (0.3, 3.0)),
    "drain worker": FaultKind("F21", 2, extra_calls=1),
    "blackhole worker": FaultKind("F24", 4, (0.3, 4.0), extra_calls=1),
    "blackhole gateway": FaultKind("F24", 4, (0.3, 4.0)),
    "drop publishes to gateway": FaultKind("F14", 5, (0.3, 3.0)),
    "delay worker": FaultKind("F13", 4, (0.5, 3.0), extra_calls=1),
    "delay gateway": FaultKind("F13", 4, (0.5, 3.0)),
    "fragment store traffic": FaultKind("F13", 3, (0.5, 3.0)),
    "cut clients": FaultKind("F27", 6),
    "blackhole clients": FaultKind("F24", 4, (0.3, 3.0)),
    "half-close clients": FaultKind("F24", 3),
    "throttle clients": FaultKind("F26", 3, (0.5, 3.0)),
    "fragment client traffic": FaultKind("F26", 3, (0.5, 3.0)),
    "reset clients after bytes": FaultKind("F24", 3, (0.5, 3.0)),
    "skew worker clock": FaultKind("F36", 2, extra_calls=1),
    "skew gateway clock": FaultKind("F36", 2),
}

PROVIDERS: Final[dict[str, str]] = {
    "busy": "F30", "down": "F30", "refuses": "F30", "error": "F31", "malformed": "F31", "cut": "F32",
    "unfinished": "F32", "unannounced": "F32", "silence": "F33", "pings": "F33", "flood": "F34", "refused": "F31",
    "filtered": "F31", "length": "F31",
}  # fmt: skip
ACTIONS: Final[dict[str, str]] = {
    "cut": "F20", "move": "F20", "reload": "F49", "sleep": "F49", "slow": "F25", "stop": "F35", "rewatch": "F41",
}  # fmt: skip
OTHERS: Final[dict[str, str]] = {"copies": "F28", "conflict": "F29", "crowd": "F50"}
"""Numbers of provider and viewer behaviours in the README's table of faults."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The plan of one run."""

    seed: int
    conversations: tuple[ConversationPlan, ...]
    faults: tuple[Fault, ...]

    @property
    def lossy(self) -> bool:
        """Return whether the store loses acknowledged writes."""
        return any(FAULTS[fault.kind].lossy for fault in self.faults)

    @property
    def fails(self) -> bool:
        """Return whether an answer may fail that the provider would complete."""
        return any(FAULTS[fault.kind].fails for fault in self.faults) or self.extra_calls >= 3

    @property
    def extra_calls(self) -> int:
        """Return the number of additional provider calls per question that the faults may cause."""
        return sum(FAULTS[fault.kind].extra_calls for fault in self.faults)

    def as_data(self) -> dict[str, Any]:
        """Return the schedule as plain data, for failure reports."""
        return asdict(self)


PLAIN: Final[tuple[Provider, ...]] = ("finish",) * 10 + ("thinks",)
FAULTY: Final[tuple[Provider, ...]] = (
    "busy", "down", "error", "cut", "unfinished", "unannounced", "malformed", "silence", "pings", "flood",
    "refused", "filtered", "length", "refuses",
)  # fmt: skip
CROWD: Final = 50


def draw(seed: int, only: tuple[str, ...] = ()) -> Schedule:
    """Return the schedule of a seed. `only`: the kinds of faults to draw from; all by default."""
    rng = random.Random(seed)
    crowded = rng.random() < 0.03
    conversations = tuple(_conversation(rng, crowded=crowded) for _ in range(1 if crowded else rng.randint(2, 4)))
    kinds = [kind for kind in FAULTS if not only or kind in only]
    faults: list[Fault] = []
    for _ in range(rng.choices((1, 2, 3, 4, 5), (3, 4, 4, 2, 1))[0]):
        kind = rng.choices(kinds, [FAULTS[kind].weight for kind in kinds])[0]
        definition = FAULTS[kind]
        if definition.lossy and any(FAULTS[fault.kind].lossy for fault in faults):
            continue
        faults.append(
            Fault(
                kind,
                round(rng.uniform(0.1, 2.8), 3),
                round(rng.uniform(*definition.duration), 3),
                rng.randrange(1 << 16),
                round(rng.random(), 3),
            )
        )
    return Schedule(seed, conversations, tuple(sorted(faults, key=lambda fault: fault.at)))


def _conversation(rng: random.Random, *, crowded: bool) -> ConversationPlan:
    messages = []
    viewers = CROWD if crowded else rng.choices((1, 2, 3, 5), (2, 4, 3, 1))[0]
    at = rng.uniform(0.0, 0.6)
    for _ in range(rng.choices((1, 2), (3, 1))[0]):
        provider = rng.choice(PLAIN if rng.random() < 0.8 else FAULTY)
        pieces, delay = rng.randint(20, 90), rng.choice((0.01, 0.02, 0.03, 0.05))
        if provider == "flood":
            pieces, delay = 3000, 0.0
        copies = rng.choice((1, 1, 1, 1, 2, 3)) if viewers > 1 else 1
        messages.append(
            MessagePlan(
                round(at, 3),
                provider,
                pieces,
                delay,
                min(copies, viewers),
                conflict=copies > 1 and rng.random() < 0.2,
            )
        )
        at += rng.uniform(0.0, 2.0)
    return ConversationPlan(tuple(messages), tuple(_viewer(rng, number) for number in range(viewers)))


def _viewer(rng: random.Random, number: int) -> ViewerPlan:
    actions = []
    for _ in range(rng.choices((0, 1, 2), (5, 3, 1))[0]):
        kind: ActionKind = rng.choices(
            ("cut", "sleep", "move", "reload", "slow", "stop", "rewatch"), (5, 3, 4, 2, 2, 2, 1)
        )[0]
        actions.append(Action(round(rng.uniform(0.3, 3.0), 3), kind, round(rng.uniform(0.05, 1.5), 3)))
    joins_at = 0.0 if number == 0 else rng.choice((0.0, 0.0, round(rng.uniform(0.0, 3.0), 3)))
    return ViewerPlan(rng.randrange(2), joins_at, tuple(sorted(actions, key=lambda action: action.at)))
