"""Histories: accept a message or a retry, and read the history of a conversation."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from gateway.streams import keys, log_entries
from gateway.streams.log_entries import (
    FIELD,
    MAX_ENTRIES,
    NONCES,
    Details,
    HistoryId,
    LogId,
    Opened,
    Queued,
    UserMessage,
)
from gateway.streams.store.store import Store, milliseconds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

MAX_AHEAD: Final = 20
"""A conversation has at most this many open responses."""

OVERHEAD_BYTES: Final = 6 * 1024
"""What the store needs for one submit besides its texts; 5.7 kB were measured, 4 kB of them for a new stream."""

FIRST_PIECE: Final = 8
"""Entries of the first piece of a history that is read backwards."""

PIECE_GROWTH: Final = 4
"""A piece has at most so many times the entries of the one before: a short history needs few."""

MAX_PIECE_ENTRIES: Final = 500
"""Of one piece: the script takes the store about 2 microseconds for each."""

MAX_PIECE_BYTES: Final = 524_288
"""Of one piece, and one entry: a process decodes it without a pause that others notice."""

LATER_PIECE_SHARE: Final = 4
"""A piece has at most the bytes of all that were read, divided by this: so little more is read than is needed."""

MAX_INLINE_BYTES: Final = 1024
"""Larger claims and metadata are stored once in a conversation: each request has two copies, and a retry is one."""

REQUEST_COPIES: Final = 2
"""Of a request: the first entry of its log, and what is kept for a retry when the log has expired."""

DAY_S: Final = 86_400.0
"""Over which the stored bytes of a conversation count."""

IfBusy = Literal["queue", "reject"]


class Asker(NamedTuple):
    """The user that asked, for the operator's generator."""

    user: str | None
    claims: Mapping[str, Any] | None


NOBODY: Final = Asker(None, None)
NO_DETAILS: Final = Details()


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A client's request: a new message, or (if `text` is None) another answer to the message `message`.

    The idempotency key covers all fields: the same key with a different submission is a conflict.
    """

    conversation: str
    key: str
    model: str
    text: str | None = None
    message: str | None = None
    instructions: str | None = None
    instructions_id: str | None = None
    """For a retry in place of `instructions`: those of the response that it replaces."""
    max_tokens: int | None = None
    replaces: str | None = None
    mode: Literal["restart", "continue"] = "restart"
    metadata: dict[str, str] | None = None
    details_id: str | None = None
    """For a retry: the stored details of the response that it replaces. The key does not cover it."""

    @property
    def digest(self) -> str:
        """A digest of all fields. Earlier releases had no metadata: theirs are those without."""
        fields = msgspec.structs.asdict(self)
        del fields["details_id"]
        if self.metadata is None:
            del fields["metadata"]
        return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()

    def size(self, asker: Asker) -> int:
        """Return the bytes that the store needs for it at most."""
        details = _Details.of(self, asker)
        # A retry stores neither again.
        referred = details.referred if details.identifier != self.details_id else b""
        return _own_size(self, asker, details) + len((self.instructions or "").encode()) + len(referred)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The submission has a message and a response. `duplicate`: an earlier call with the same key created them.

    `ahead` lists the open responses of the conversation that are generated before this one.
    """

    message: str
    response: str
    duplicate: bool
    ahead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The submission changed nothing.

    `conflict`: the key belongs to another submission. `busy`: a response is open and the client asked for rejection.
    `closed`: no entry can follow the last one of the history, which another program wrote.
    `full`: the conversation has `MAX_AHEAD` open responses. `quota`: it stored the bytes of a day; `retry_after` is the
    seconds until the day ends. `expired`: the instructions of a retry are not kept any more. `foreign`: the
    response to replace is not kept, or belongs to another conversation. `unknown`: only an earlier call was looked for,
    and there was none.
    """

    reason: Literal["conflict", "busy", "closed", "full", "quota", "expired", "foreign", "unknown"]
    retry_after: float | None = None


class _Details(NamedTuple):
    """Claims and metadata: as JSON of `size` bytes, which is `referred`, with its identifier, if it is large."""

    size: int
    referred: bytes
    identifier: str | None

    @classmethod
    def of(cls, submission: Submission, asker: Asker) -> _Details:
        details = Details(dict(asker.claims) if asker.claims else None, submission.metadata)
        # Sorted, so that equal ones have one identifier.
        encoded = msgspec.json.encode(details, order="sorted") if details != NO_DETAILS else b""
        if len(encoded) <= MAX_INLINE_BYTES:
            return cls(len(encoded), b"", None)
        return cls(len(encoded), encoded, keys.details_id(encoded))


def _own_size(submission: Submission, asker: Asker, details: _Details) -> int:
    """Return the bytes of a submission without what a conversation stores once."""
    inline = (0 if details.referred else details.size) + len(log_entries.escape(asker.user or ""))
    return OVERHEAD_BYTES + len(log_entries.escape(submission.text or "")) + REQUEST_COPIES * inline


def nonce() -> int:
    """Return an unpredictable number below `log_entries.NONCES`."""
    return secrets.randbelow(NONCES)


def new_response(conversation: str) -> str:
    """Return the id of a new response."""
    return keys.response_id(conversation, secrets.token_hex(8))


async def submit(
    store: Store,
    submission: Submission,
    if_busy: IfBusy = "queue",
    trace: str | None = None,
    *,
    owner: str = "",
    subject: str = "",
    asker: Asker = NOBODY,
    response: str | None = None,
    max_bytes: int = 0,
    only_known: bool = False,
) -> Accepted | Refused:
    """Accept a submission; repeating it with the same owner and idempotency key has no further effect.

    `trace`: the traceparent of the request; the key does not cover it. `owner`: the digest of the subject that the key
    belongs to. `subject`: the same, if the response counts for its quota. `asker`: for the operator's generator.
    `response`: from `new_response`. `max_bytes`: what the conversation may store a day, 0 for any. `only_known`: accept
    nothing, only return the result of an earlier call. Safe to cancel: the submission may be accepted all the same, and
    a repeated call returns the result. Raises
    StoreUnavailableError, StoreFullError.
    """
    name = submission.conversation
    response = response or new_response(name)
    message = submission.message or f"m{secrets.token_hex(8)}"
    partition = keys.partition_of(name)
    message_entry = b""
    if submission.text is not None:
        message_entry = log_entries.encode(
            log_entries.MESSAGE, UserMessage(message, submission.text, submission.replaces)
        )
    instructions_id = submission.instructions_id
    if submission.instructions:
        instructions_id = keys.instructions_id(submission.instructions)
    details = _Details.of(submission, asker)
    queued = Queued(
        conversation=name,
        message=message,
        model=submission.model,
        instructions_id=instructions_id,
        subject=subject or None,
        max_tokens=submission.max_tokens,
        replaces=submission.replaces,
        mode=submission.mode,
        trace=trace,
        user=asker.user,
        claims=dict(asker.claims) if asker.claims and not details.referred else None,
        metadata=submission.metadata if not details.referred else None,
        details_id=details.identifier,
    )
    opened = Opened(
        response=response,
        message=message,
        model=submission.model,
        replaces=submission.replaces,
        again=submission.text is None,
    )
    lifetimes = store.lifetimes
    reply: list[bytes] = await store.call(
        "submit",
        [
            keys.submission(name, owner, submission.key),
            keys.history(name),
            keys.response_queue(name),
            keys.log(response),
            keys.jobs(partition),
            keys.open_responses(partition),
            keys.stored_in(name),
            *([keys.log(submission.replaces), keys.request(submission.replaces)] if submission.replaces else ()),
            *([keys.instructions(name, instructions_id)] if instructions_id else ()),
            *([keys.details(name, details.identifier)] if details.identifier else ()),
        ],
        submission.digest,
        if_busy,
        MAX_AHEAD,
        response,
        message,
        message_entry,
        nonce(),
        log_entries.encode(log_entries.OPENED, opened),
        nonce(),
        str(LogId(nonce(), 1)),
        log_entries.encode(log_entries.QUEUED, queued),
        milliseconds(lifetimes.submission),
        milliseconds(lifetimes.log),
        milliseconds(lifetimes.conversation),
        keys.feed(name),
        keys.control(partition),
        name,
        MAX_ENTRIES,
        submission.instructions or "",
        milliseconds(lifetimes.instructions),
        _own_size(submission, asker, details),
        max_bytes,
        milliseconds(DAY_S),
        int(only_known),
        int(bool(submission.replaces)),
        details.referred,
        milliseconds(lifetimes.details),
    )
    match reply[0]:
        case b"accepted" | b"duplicate":
            ahead = tuple(item.decode() for item in reply[3:])
            return Accepted(reply[2].decode(), reply[1].decode(), reply[0] == b"duplicate", ahead)
        case b"conflict":
            return Refused("conflict")
        case b"busy":
            return Refused("busy")
        case b"quota":
            return Refused("quota", max(1.0, int(reply[1]) / 1000))
        case b"expired":
            return Refused("expired")
        case b"closed":
            return Refused("closed")
        case b"foreign":
            return Refused("foreign")
        case b"unknown":
            return Refused("unknown")
        case _:
            return Refused("full")


async def instructions(store: Store, name: str, queued: Queued, timeout_s: float = 10.0) -> str | None:
    """Return the instructions of a request; None if it has none, or they are not kept any more.

    Safe to cancel; raises StoreUnavailableError after `timeout_s` seconds.
    """
    if queued.instructions_id is None:
        return queued.instructions
    key = keys.instructions(name, queued.instructions_id)
    value: bytes | None = await store.retry(lambda: store.client.get(key), timeout_s)
    return value.decode(errors="replace") if value is not None else None


async def with_details(store: Store, queued: Queued, timeout_s: float = 10.0) -> Queued | None:
    """Return a request with its claims and metadata; None if they are not kept any more.

    Safe to cancel; raises StoreUnavailableError after `timeout_s` seconds.
    """
    if queued.details_id is None:
        return queued
    key = keys.details(queued.conversation, queued.details_id)
    value: bytes | None = await store.retry(lambda: store.client.get(key), timeout_s)
    details = log_entries.decode_details(value, key) if value is not None else None
    if details is None:
        return None
    return msgspec.structs.replace(queued, claims=details.claims, metadata=details.metadata)


async def read(
    store: Store, name: str, after: HistoryId | None = None, timeout_s: float = 10.0, *, count: int | None = None
) -> Sequence[tuple[HistoryId, bytes]]:
    """Return the history entries from `after` on, including it, at most `count`; all entries by default.

    Safe to cancel; raises StoreUnavailableError after `timeout_s` seconds.
    """
    first = str(after) if after else "-"
    reply = await store.retry(lambda: store.client.xrange(keys.history(name), min=first, count=count), timeout_s)
    return entries(reply)


async def read_piece(
    store: Store, name: str, after: HistoryId | None, max_bytes: int, *, count: int, timeout_s: float = 10.0
) -> tuple[Sequence[tuple[HistoryId, bytes]], bool]:
    """Return history entries from `after` on, including it, and whether they are all.

    At most `count`, and after the first one only until they have `max_bytes`. Safe to cancel; raises
    StoreUnavailableError after `timeout_s` seconds.
    """
    more, found = await _read_piece(store, name, "forward", str(after) if after else "-", count, max_bytes, timeout_s)
    return found, not more


async def read_backwards(
    store: Store, name: str, piece_bytes: int, timeout_s: float = 10.0, *, before: HistoryId | None = None
) -> AsyncGenerator[Sequence[tuple[HistoryId, bytes]], None]:
    """Yield the entries of a history in pieces of about `piece_bytes`, the newest piece first, each oldest first.

    `before`: only those before this id. The pieces of a long history become larger, up to MAX_PIECE_BYTES and one
    entry. Safe to cancel; raises StoreUnavailableError after `timeout_s` seconds for a piece.
    """
    if before is not None and before.seq <= 1:
        return
    # Without its second part, the id stands for all that begin with this number.
    first, count, size = (str(before.seq - 1) if before else "+"), FIRST_PIECE, 0
    while True:
        max_bytes = max(piece_bytes, min(MAX_PIECE_BYTES, size // LATER_PIECE_SHARE))
        more, piece = await _read_piece(store, name, "backward", first, count, max_bytes, timeout_s)
        if piece:
            yield piece[::-1]
        if not more:
            return
        size += sum(len(value) for _, value in piece)
        first = f"({piece[-1][0]}"
        count = min(MAX_PIECE_ENTRIES, PIECE_GROWTH * count)


async def _read_piece(
    store: Store,
    name: str,
    direction: Literal["forward", "backward"],
    first: str,
    count: int,
    max_bytes: int,
    timeout_s: float,
) -> tuple[bool, list[tuple[HistoryId, bytes]]]:
    more, found = await store.call(
        "read_history", [keys.history(name)], direction, first, count, max_bytes, timeout_s=timeout_s
    )
    return bool(more), entries([(entry, dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in found])


def entries(reply: Any) -> list[tuple[HistoryId, bytes]]:
    """Return the history entries in a reply to XRANGE."""
    # An entry of another program may lack the field; readers skip its empty value.
    return [(HistoryId(*map(int, entry.split(b"-"))), fields.get(FIELD, b"")) for entry, fields in reply]
