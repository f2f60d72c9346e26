"""The state of the fleet: the reports of gateways and workers, joined by response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway.streams.records import MAX_RESPONSES, Gateway, Queue, Watched, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.room import Room
    from gateway.streams.records import Record


class Open(msgspec.Struct, frozen=True):
    """A response without an end. `behind`: lagging viewers; `lag`: entries that the slowest of them lacks.

    Fields that only a worker knows are None where no worker has the response: `age` in seconds, entries and bytes
    written, `rate` in bytes a second.
    """

    response: str
    conversation: str
    state: str
    attempt: int
    viewers: int
    behind: int
    lag: int
    gateways: int
    worker: str | None = None
    model: str | None = None
    age: float | None = None
    entries: int | None = None
    size: int | None = None
    rate: float | None = None


class Process(msgspec.Struct, frozen=True, omit_defaults=True):
    """A gateway or a worker, without its responses."""

    name: str
    age: float
    cpu: float
    memory: int
    leaving: bool = False
    connections: int | None = None
    viewers: int | None = None
    behind: int | None = None
    open_logs: int | None = None
    received: float | None = None
    delivered: float | None = None
    running: int | None = None
    concurrency: int | None = None
    models: tuple[str, ...] | None = None
    """The aliases of a worker, with the targets to which they lead."""
    rate: float | None = None


class Fleet(msgspec.Struct, frozen=True):
    """The fleet at the time `at` (seconds since 1970)."""

    at: float
    queue: Queue
    gateways: tuple[Process, ...]
    workers: tuple[Process, ...]
    responses: tuple[Open, ...]


def watched(rooms: Iterable[Room]) -> tuple[Watched, ...]:
    """Return the open responses of a gateway's rooms, with their viewers."""
    found: list[Watched] = []
    for room in rooms:
        logs = {name: replica for name, replica in room.responses.items() if replica.tail and not replica.end}
        if not logs or len(found) >= MAX_RESPONSES:
            continue
        viewers, lags = dict.fromkeys(logs, 0), {name: [0] for name in logs}
        for group in room.groups:
            for response, _ in group.position.responses:
                if response in logs:
                    viewers[response] += len(group.viewers)
        for position in room.lagging.values():
            for response, cursor in position.responses:
                if response in logs:
                    tail = logs[response].tail
                    assert tail is not None
                    viewers[response] += 1
                    lags[response].append(tail.seq - (cursor.seq if cursor is not None else 0))
        found += [
            Watched(
                response=response,
                conversation=room.name,
                state=replica.state,
                attempt=replica.tail.number if replica.tail is not None else 0,
                viewers=viewers[response],
                behind=len(lags[response]) - 1,
                lag=max(lags[response]),
            )
            for response, replica in logs.items()
        ]
    return tuple(found[:MAX_RESPONSES])


def survey(records: Sequence[Record], queue: Queue, at: float) -> Fleet:
    """Join reports at the time `at`.

    Responses without a live worker come first, then those with lagging viewers, then the oldest; queued ones come last.
    """
    gateways = [record for record in records if isinstance(record, Gateway)]
    workers = [record for record in records if isinstance(record, Worker)]
    seen: dict[str, list[Watched]] = {}
    for gateway in gateways:
        for each in gateway.responses:
            seen.setdefault(each.response, []).append(each)
    rows: dict[str, Open] = {}
    for worker in workers:
        for work in worker.responses:
            known = rows.get(work.response)
            if known is not None and known.attempt > work.attempt:
                # This worker was fenced and has not noticed yet.
                continue
            watching = seen.get(work.response, [])
            # A gateway knows that a response waits; its report is stale where a newer attempt runs.
            states = [each.state for each in watching if each.attempt == work.attempt]
            rows[work.response] = Open(
                response=work.response,
                conversation=work.conversation,
                state=states[0] if states else "running",
                attempt=work.attempt,
                **_viewers(watching),
                worker=worker.name,
                model=work.model,
                age=work.age,
                entries=work.entries,
                size=work.size,
                rate=work.rate,
            )
    for response, watching in seen.items():
        if response not in rows:
            newest = max(watching, key=lambda each: each.attempt)
            rows[response] = Open(
                response=response,
                conversation=newest.conversation,
                state=newest.state,
                attempt=newest.attempt,
                **_viewers(watching),
            )
    ordered = sorted(rows.values(), key=_urgency)
    return Fleet(
        at=at,
        queue=queue,
        gateways=tuple(map(_gateway, gateways)),
        workers=tuple(map(_worker, workers)),
        responses=tuple(ordered),
    )


def _urgency(row: Open) -> tuple[bool, bool, bool, float, str]:
    orphaned = row.worker is None and row.state != "queued"
    return not orphaned, not row.behind, row.worker is None, -(row.age or 0.0), row.response


def _viewers(watching: Sequence[Watched]) -> dict[str, Any]:
    return {
        "viewers": sum(each.viewers for each in watching),
        "behind": sum(each.behind for each in watching),
        "lag": max((each.lag for each in watching), default=0),
        "gateways": len(watching),
    }


def _gateway(record: Gateway) -> Process:
    return Process(
        name=record.name,
        age=record.age,
        cpu=record.cpu,
        memory=record.memory,
        leaving=record.leaving,
        connections=record.connections,
        viewers=record.viewers,
        behind=record.behind,
        open_logs=record.open_logs,
        received=record.received,
        delivered=record.delivered,
    )


def _worker(record: Worker) -> Process:
    return Process(
        name=record.name,
        age=record.age,
        cpu=record.cpu,
        memory=record.memory,
        leaving=record.leaving,
        running=record.running,
        concurrency=record.concurrency,
        models=record.targets or record.models,
        rate=round(sum(work.rate for work in record.responses), 1),
    )
