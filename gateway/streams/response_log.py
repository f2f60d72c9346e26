"""Response logs: begin an attempt, append to it, end it, and read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from gateway.streams import keys, log_entries
from gateway.streams.history_log import nonce
from gateway.streams.log_entries import FIELD, MAX_ENTRIES, End, LogId, Queued, Start
from gateway.streams.store.store import Store, milliseconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.streams.jobs import Job

MAX_PUBLISHED: Final = 32_768
"""Bytes. A larger append is published as its id alone: a subscriber that falls behind is cut off by the server."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """An attempt has begun: its start entry is `start`, and `before` was the log's last entry until then."""

    before: LogId
    start: LogId


NotClaimed = Literal["exhausted", "ended", "expired", "lost"]


async def claim(
    store: Store, job: Job, consumer: str, start: Start, *, keep_text: bool, most_attempts: int
) -> Claimed | NotClaimed:
    """Begin the next attempt at a job's response, before the provider is called.

    Not claimed: `exhausted` (the maximum number of attempts), `ended` (its job is deleted), `expired` (the log expired
    or was lost), `lost` (another worker has the job).
    """
    partition = keys.partition_of(job.conversation)
    # The script takes the number so that asking again, after a lost reply, finds its own start.
    number = nonce()
    reply = await store.call(
        "claim",
        [keys.jobs(partition), keys.log(job.response), keys.open_responses(partition)],
        keys.GROUP,
        consumer,
        job.id,
        number,
        log_entries.CONTINUE if keep_text else log_entries.START,
        msgspec.json.encode(start),
        most_attempts,
        milliseconds(store.lifetimes.log),
        keys.feed(job.conversation),
        job.response,
    )
    match reply[0]:
        case b"claimed":
            before, begun = log_entries.parse_log_id(reply[1]), log_entries.parse_log_id(reply[2])
            assert before is not None
            assert begun is not None
            return Claimed(before, begun)
        case b"exhausted":
            return "exhausted"
        case b"ended":
            return "ended"
        case b"expired":
            return "expired"
        case _:
            return "lost"


async def append(
    store: Store,
    conversation: str,
    response: str,
    expected: LogId,
    first: LogId,
    values: Sequence[bytes],
    timeout_s: float,
) -> LogId | Literal["appended"] | None:
    """Append `values` from the id `first` on, if the log's last id is `expected`.

    Otherwise nothing is changed, and the log's last id is returned, None where there is no log or it has its end.
    """
    reply = await store.call(
        "append",
        [keys.log(response)],
        str(expected),
        str(first),
        keys.feed(conversation),
        "all" if sum(map(len, values)) <= MAX_PUBLISHED else "head",
        f"@{response} {first} {expected}",
        *values,
        timeout_s=timeout_s,
    )
    return "appended" if reply == b"ok" else log_entries.parse_log_id(reply)


@dataclass(frozen=True, slots=True)
class Ended:
    """The log has an end; `now` tells whether this call wrote it. `cursor` is its id, None where the log is gone."""

    now: bool
    cursor: LogId | None


@dataclass(frozen=True, slots=True)
class TailMismatch:
    """The log's last id is not the one that this attempt expects, so it could not end it."""

    last: LogId | None


async def end(
    store: Store,
    conversation: str,
    response: str,
    how: End,
    *,
    expected: LogId | None = None,
    owner: tuple[str, str] | None = None,
    timeout_s: float = 10.0,
) -> Ended | TailMismatch | None:
    """End a response for good: by the attempt that last wrote `expected`, by the `owner` (job and consumer) of its job
    while it is that, or, without either, by anybody at any time.

    None: there is no such response, or nothing of it is left.
    """
    partition = keys.partition_of(conversation)
    reply = await store.call(
        "end",
        [
            keys.log(response),
            keys.conversation(conversation),
            keys.response_queue(conversation),
            keys.jobs(partition),
            keys.open_responses(partition),
        ],
        keys.GROUP,
        str(expected) if expected else "",
        expected.attempt if expected else "",
        nonce(),
        msgspec.json.encode(how),
        log_entries.settled_head(response, keys.answer_id(response), how),
        nonce(),
        response,
        conversation,
        milliseconds(store.lifetimes.log),
        milliseconds(store.lifetimes.conversation),
        keys.feed(conversation),
        keys.control(partition),
        MAX_ENTRIES,
        *(owner or ("", "")),
        timeout_s=timeout_s,
    )
    match reply[0]:
        case b"ended":
            return Ended(bool(reply[1]), log_entries.parse_log_id(reply[2]))
        case b"refused":
            return TailMismatch(log_entries.parse_log_id(reply[1]))
        case _:
            return None


async def read(
    store: Store, response: str, after: LogId | None = None, timeout_s: float = 10.0
) -> Sequence[tuple[LogId, bytes]]:
    """The entries of a log from `after` on, that one included; all of them without it; none where there is no log.

    Of a log that ends before `after`: its last entry.
    """
    name = keys.log(response)
    first = str(after) if after else "-"
    reply = await store.retry(lambda: store.client.xrange(name, min=first), timeout_s)
    if not reply and after:
        reply = await store.retry(lambda: store.client.xrevrange(name, max=first, count=1), timeout_s)
    return entries(reply)


def entries(reply: Any) -> list[tuple[LogId, bytes]]:
    """The entries of a log from the reply to XRANGE."""
    return [(LogId(*map(int, entry.split(b"-"))), fields[FIELD]) for entry, fields in reply]


async def request(store: Store, response: str) -> Queued | None:
    """What a response answers, from the first entry of its log; None where there is none."""
    reply = await store.retry(lambda: store.client.xrange(keys.log(response), count=1))
    if not reply:
        return None
    entry = log_entries.decode_response_entry(reply[0][1][FIELD])
    return entry if isinstance(entry, Queued) else None
