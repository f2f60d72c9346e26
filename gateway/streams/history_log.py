"""Conversation logs: accept a message or a retry, and read what happened."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from gateway.streams import keys, log_entries
from gateway.streams.log_entries import FIELD, MAX_ENTRIES, NONCES, HistoryId, LogId, Opened, Queued, UserMessage
from gateway.streams.store.store import Store, milliseconds

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_AHEAD: Final = 20
"""A conversation holds this many open responses at most."""

IfBusy = Literal["queue", "reject"]


class Submission(msgspec.Struct, frozen=True):
    """What a client asks for: a message to answer, or (`text` None) another answer to the message `message`.

    All of it counts for the submit key: the same key with a different submission is refused.
    """

    conversation: str
    key: str
    model: str
    text: str | None = None
    message: str | None = None
    instructions: str | None = None
    max_tokens: int | None = None
    replaces: str | None = None
    mode: Literal["restart", "continue"] = "restart"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The submission has a message and a response, now or from an earlier call with its key (`duplicate`).

    `ahead` are the open responses of the conversation that are answered before it.
    """

    message: str
    response: str
    duplicate: bool
    ahead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The submission changed nothing: `conflict` (key used for something else), `busy`, or `full` (too many ahead)."""

    reason: Literal["conflict", "busy", "full"]


def nonce() -> int:
    """A number below `log_entries.NONCES` that nobody can guess or repeat."""
    return secrets.randbelow(NONCES)


async def submit(
    store: Store, submission: Submission, if_busy: IfBusy = "queue", trace: str | None = None
) -> Accepted | Refused:
    """Accept a submission once, however often it is sent; raises StoreUnavailableError, StoreFullError.

    `trace`: the traceparent of the request, which counts for nothing.
    """
    name = submission.conversation
    response = keys.response_id(name, secrets.token_hex(8))
    message = submission.message or f"m{secrets.token_hex(8)}"
    partition = keys.partition_of(name)
    said = b""
    if submission.text is not None:
        said = log_entries.encode(log_entries.MESSAGE, UserMessage(message, submission.text, submission.replaces))
    queued = Queued(
        name,
        message,
        submission.model,
        submission.instructions,
        submission.max_tokens,
        submission.replaces,
        submission.mode,
        trace,
    )
    opened = Opened(response, message, submission.model, submission.replaces, again=submission.text is None)
    life = store.lifetimes
    reply: list[bytes] = await store.call(
        "submit",
        [
            keys.submission(name, submission.key),
            keys.conversation(name),
            keys.response_queue(name),
            keys.log(response),
            keys.jobs(partition),
            keys.open_responses(partition),
        ],
        hashlib.sha256(msgspec.json.encode(submission)).hexdigest(),
        if_busy,
        MAX_AHEAD,
        response,
        message,
        said,
        nonce(),
        log_entries.encode(log_entries.OPENED, opened),
        nonce(),
        str(LogId(nonce(), 1)),
        log_entries.encode(log_entries.QUEUED, queued),
        milliseconds(life.submission),
        milliseconds(life.log),
        milliseconds(life.conversation),
        keys.feed(name),
        keys.control(partition),
        name,
        MAX_ENTRIES,
    )
    match reply[0]:
        case b"accepted" | b"duplicate":
            ahead = tuple(item.decode() for item in reply[3:])
            return Accepted(reply[2].decode(), reply[1].decode(), reply[0] == b"duplicate", ahead)
        case b"conflict":
            return Refused("conflict")
        case b"busy":
            return Refused("busy")
        case _:
            return Refused("full")


async def read(
    store: Store, name: str, after: HistoryId | None = None, timeout_s: float = 10.0
) -> Sequence[tuple[HistoryId, bytes]]:
    """The entries of a conversation from `after` on, that one included; all of them without it."""
    first = str(after) if after else "-"
    reply = await store.retry(lambda: store.client.xrange(keys.conversation(name), min=first), timeout_s)
    return entries(reply)


def entries(reply: Any) -> list[tuple[HistoryId, bytes]]:
    """The entries of a conversation from the reply to XRANGE."""
    return [(HistoryId(*map(int, entry.split(b"-"))), fields[FIELD]) for entry, fields in reply]
