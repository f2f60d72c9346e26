"""Response logs: claim an attempt, append to it, end it, and read.

All coroutines are safe to cancel: the scripts are atomic and idempotent, and a cancelled call may still take effect.
They raise StoreUnavailableError and StoreFullError.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from gateway.streams import keys, log_entries, quota
from gateway.streams.history_log import nonce
from gateway.streams.log_entries import FIELD, MAX_ENTRIES, NONCES, End, LogId, LogText, Queued, Start
from gateway.streams.store.errors import StoreUnavailableError
from gateway.streams.store.store import Store, milliseconds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from gateway.streams.queued_jobs import Job

MAX_PUBLISHED: Final = 32_768
"""Bytes. Of a larger append only the id is published, because the server disconnects a subscriber that lags too far."""

PIECE_ENTRIES: Final = 500
"""Of one read of a log that may be long."""

MAX_JOINED_ENTRIES: Final = 1_000
MAX_JOINED_BYTES: Final = 65_536
"""Of the log that the end script checks and joins: 3 ms. Of a longer one the caller reads the text and passes it on."""

MAX_JOIN_TRIES: Final = 5
"""How often more than that may be appended between a read and the end, before it is joined all the same."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The attempt began with the entry `start`; `before` was the last entry of the log."""

    before: LogId
    start: LogId


NotClaimed = Literal["exhausted", "unreadable", "ended", "expired", "lost"]


async def claim(
    store: Store, job: Job, consumer: str, start: Start, *, keep_text: bool, max_attempts: int
) -> Claimed | NotClaimed:
    """Begin the next attempt at a response and fence all earlier ones. Call it before the provider. Safe to cancel.

    Not claimed: `exhausted` (`max_attempts` were made), `unreadable` (another program wrote to the log), `ended` (its
    job is deleted), `expired` (the log expired or was lost), `lost` (another worker holds the job).
    """
    partition = keys.partition_of(job.conversation)
    # Generated here, not in the script: after a lost reply the repeated script recognizes its own start by it.
    number = nonce()
    reply = await store.call(
        "claim",
        [keys.jobs(partition), keys.log(job.response), keys.open_responses(partition)],
        keys.GROUP,
        consumer,
        job.id,
        number,
        NONCES,
        log_entries.CONTINUE if keep_text else log_entries.START,
        msgspec.json.encode(start),
        max_attempts,
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
        case b"unreadable":
            return "unreadable"
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
    """Append `values` from the id `first` on, if the last id of the log is `expected`. Safe to cancel.

    Otherwise change nothing and return the last id; None if there is no log or it has an end.
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
    """The log has an end; `now`: this call wrote it. `cursor` is the id of the end, None if the log is lost."""

    now: bool
    cursor: LogId | None


@dataclass(frozen=True, slots=True)
class TailMismatch:
    """The end was not written: `last`, the last id of the log, is not the one that the attempt expects."""

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
    """End a response permanently. Safe to cancel.

    `expected`: the last id that the attempt of the caller wrote; the end is written only behind it. `owner`: job and
    consumer of a worker without an attempt; the end is written only while it holds the job. Without both, the end is
    written in any state.

    Return None if the response is unknown or expired.
    """
    call = partial(_end, store, conversation, response, how, expected, owner, timeout_s)
    reply = await call(b"", None, MAX_JOINED_ENTRIES)
    if reply[0] == b"long":
        async with store.long_ends:
            reply = await _end_long(store, response, timeout_s, call)
    match reply[0]:
        case b"ended":
            if reply[1]:
                await _release_quota(store, response, reply[3], int(reply[4]))
            return Ended(bool(reply[1]), log_entries.parse_log_id(reply[2]))
        case b"refused":
            return TailMismatch(log_entries.parse_log_id(reply[1]))
        case _:
            return None


async def _end_long(
    store: Store, response: str, timeout_s: float, call: Callable[[bytes, LogId | None, int], Awaitable[Any]]
) -> Any:
    """Read the text of a log and call the end script with it; read what is appended meanwhile."""
    text = LogText()
    known: LogId | None = None
    for max_joined in (*(MAX_JOINED_ENTRIES,) * (MAX_JOIN_TRIES - 1), 0):
        async with aclosing(pieces(store, response, timeout_s, after=known)) as new:
            async for piece in new:
                text.add(piece)
                known = piece[-1][0]
        reply = await call(text.escaped, known, max_joined)
        if reply[0] != b"long":
            break
        if not reply[1]:
            text, known = LogText(), None
    return reply


async def _end(
    store: Store,
    conversation: str,
    response: str,
    how: End,
    expected: LogId | None,
    owner: tuple[str, str] | None,
    timeout_s: float,
    text: bytes,
    known: LogId | None,
    max_joined: int,
) -> Any:
    """Call the end script. `text`: that of the log up to the entry `known`."""
    partition = keys.partition_of(conversation)
    return await store.call(
        "end",
        [
            keys.log(response),
            keys.history(conversation),
            keys.response_queue(conversation),
            keys.jobs(partition),
            keys.open_responses(partition),
            keys.stored_in(conversation),
            keys.request(response),
        ],
        keys.GROUP,
        str(expected) if expected else "",
        expected.attempt if expected else "",
        nonce(),
        NONCES,
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
        quota.COPIES,
        str(known) if known else "",
        text,
        max_joined,
        MAX_JOINED_BYTES,
        timeout_s=timeout_s,
    )


async def _release_quota(store: Store, response: str, first: bytes, size: int) -> None:
    queued = log_entries.decode_response_entry(first, response)
    if isinstance(queued, Queued) and queued.subject is not None:
        await quota.release(store, queued.subject, response, quota.COPIES * size)


async def read(
    store: Store, response: str, after: LogId | None = None, timeout_s: float = 10.0, *, count: int | None = None
) -> Sequence[tuple[LogId, bytes]]:
    """Return the entries of a log from `after` on, including it, at most `count`; all entries by default.

    None if there is no log. If the last id is smaller than `after`, return the last entry. Safe to cancel.
    """
    name = keys.log(response)
    first = str(after) if after else "-"
    reply = await store.retry(lambda: store.client.xrange(name, min=first, count=count), timeout_s)
    if not reply and after:
        reply = await store.retry(lambda: store.client.xrevrange(name, max=first, count=1), timeout_s)
    return entries(reply)


async def pieces(
    store: Store, response: str, timeout_s: float = 10.0, *, after: LogId | None = None
) -> AsyncGenerator[Sequence[tuple[LogId, bytes]], None]:
    """Yield the entries of a log, after `after`, in pieces of at most PIECE_ENTRIES: a long one blocks no process.

    Nothing if there is no log, or `after` is not in it. Safe to cancel. Raises StoreUnavailableError after `timeout_s`
    seconds for a piece, and if the store lost entries meanwhile.
    """
    last = after
    while True:
        found = await read(store, response, last, timeout_s, count=PIECE_ENTRIES)
        if last is not None and (not found or found[0][0] != last):
            if last == after:
                return
            raise StoreUnavailableError("the store lost entries of a log that is read")
        new = found[1:] if last is not None else found
        if new:
            yield new
            last = new[-1][0]
        if len(found) < PIECE_ENTRIES:
            return


def entries(reply: Any) -> list[tuple[LogId, bytes]]:
    """Return the log entries in a reply to XRANGE."""
    # An entry of another program may lack the field; readers skip its empty value.
    return [(LogId(*map(int, entry.split(b"-"))), fields.get(FIELD, b"")) for entry, fields in reply]


async def request(store: Store, response: str) -> Queued | None:
    """Return the request of a response, the first entry of its log; None if it is unknown. Safe to cancel.

    When the log of an ended response has expired, its request is kept as long as a conversation.
    """
    reply = await store.retry(lambda: store.client.xrange(keys.log(response), count=1))
    if reply:
        ((_, value),) = entries(reply)
    else:
        value = await store.retry(lambda: store.client.get(keys.request(response)))
        if value is None:
            return None
    entry = log_entries.decode_response_entry(value, response)
    return entry if isinstance(entry, Queued) else None
