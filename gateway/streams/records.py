"""Heartbeat records of gateways and workers: ids, counts and times, never texts of users."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

MAX_RESPONSES: Final = 1000
"""A record lists at most this many responses."""


class Working(msgspec.Struct, frozen=True, kw_only=True):
    """A response that a worker generates. `age` is in seconds, `size` in bytes of text, `rate` in bytes per second
    since the last heartbeat; `entries` counts the entries written.
    """

    response: str
    conversation: str
    model: str
    attempt: int
    age: float
    entries: int
    size: int
    rate: float


class Worker(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="worker"):
    """A worker process. `cpu` is the share of one core, `age` the uptime in seconds, `memory` in bytes. `leaving`: the
    worker drains.
    """

    name: str
    age: float
    cpu: float
    memory: int
    running: int
    concurrency: int
    models: tuple[str, ...]
    responses: tuple[Working, ...]
    leaving: bool = False
    targets: tuple[str, ...] = ()
    """`alias -> provider/model @ host, ...`, for display; earlier releases have none."""


class Watched(msgspec.Struct, frozen=True):
    """An open response that a gateway has a replica of. `behind` counts lagging viewers, `lag` the entries that the
    furthest of them is missing.
    """

    response: str
    conversation: str
    state: str
    attempt: int
    viewers: int
    behind: int
    lag: int


class Gateway(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="gateway"):
    """A gateway process. `behind` counts lagging viewers; `received` and `delivered` are entries per second."""

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
    """Counts of open responses: without a worker, with one, behind another of their conversation. `lag` is the age in
    seconds of the oldest one without a worker.
    """

    waiting: int = 0
    running: int = 0
    behind: int = 0
    lag: float = 0.0


_encode: Final = msgspec.json.Encoder().encode
_DECODER: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """Return a record in its stored form."""
    return _encode(record)


def decode(data: bytes) -> Record | None:
    """Decode a record; return None for one of a newer release and for other bytes."""
    try:
        record: Record = _DECODER.decode(data)
    except (ValueError, RecursionError):
        return None
    return record


def name_of(record: Record) -> str:
    """Return the name under which a record is stored: `<kind>:<process>`."""
    return f"{record.__struct_config__.tag}:{record.name}"
