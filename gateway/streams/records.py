"""What a gateway or a worker says of itself: ids, counts and times, and nothing that anybody wrote."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

MAX_RESPONSES: Final = 1000
"""A record names this many responses at most."""


class Working(msgspec.Struct, frozen=True):
    """A response that a worker generates: for how many seconds, how many entries and bytes of text it has written, and
    how many bytes a second in the last one.
    """

    response: str
    conversation: str
    model: str
    attempt: int
    age: float
    entries: int
    size: int
    rate: float


class Worker(msgspec.Struct, frozen=True, tag_field="kind", tag="worker"):
    """What a worker says of itself; `cpu` is the share of a core, `age` the seconds that it has run."""

    name: str
    age: float
    cpu: float
    memory: int
    running: int
    concurrency: int
    models: tuple[str, ...]
    responses: tuple[Working, ...]
    leaving: bool = False


class Watched(msgspec.Struct, frozen=True):
    """An open response that a gateway has a copy of: its viewers, how many of them can take no more, and how many
    entries the last of them lacks.
    """

    response: str
    conversation: str
    state: str
    attempt: int
    viewers: int
    behind: int
    lag: int


class Gateway(msgspec.Struct, frozen=True, tag_field="kind", tag="gateway"):
    """What a gateway says of itself; `received` and `delivered` are entries in the last second."""

    name: str
    age: float
    cpu: float
    memory: int
    connections: int
    viewers: int
    behind: int
    open_logs: int
    received: float
    delivered: float
    responses: tuple[Watched, ...]
    leaving: bool = False


Record: TypeAlias = Gateway | Worker


class Queue(msgspec.Struct, frozen=True):
    """Responses that wait for a worker, that have one, that are behind another of their conversation; and the seconds
    that the oldest of the first has waited.
    """

    waiting: int = 0
    running: int = 0
    behind: int = 0
    lag: float = 0.0


_encode: Final = msgspec.json.Encoder().encode
_DECODER: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """A record as it is stored."""
    return _encode(record)


def decode(data: bytes) -> Record | None:
    """Read a record; None for one of a newer release, and for what is none."""
    try:
        record: Record = _DECODER.decode(data)
    except (ValueError, RecursionError):
        return None
    return record


def name_of(record: Record) -> str:
    """The name under which a record is stored: what it is of, and who."""
    return f"{record.__struct_config__.tag}:{record.name}"
