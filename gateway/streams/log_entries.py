"""The entries of both logs and their ids: to Redis and back.

An entry has one field whose value is a letter for its kind and a body. The body of a text entry is JSON-escaped text
without its quotes: escaping is safe to concatenate, so a replica keeps the bytes, a delta is a slice of them, and text
is escaped once, in the worker. No body holds a raw line feed, so published entries are lines.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, TypeAlias

import msgspec

FIELD: Final = b"e"
NONCES: Final = 1_000_000_000
"""The attempt part of a log id is `number * NONCES + nonce`."""

MAX_ENTRIES: Final = 2000
"""A conversation log keeps about this many entries; older ones are trimmed away."""

_ID: Final = re.compile(r"(0|[1-9]\d{0,15})-(0|[1-9]\d{0,15})", re.ASCII)


class LogId(msgspec.Struct, frozen=True, order=True, gc=False):
    """The id of an entry of a response log, which is also the cursor of a viewer that has been given it.

    `attempt` holds the attempt's number above and its nonce below. So ids of a later attempt sort after all of an
    earlier one (Redis itself refuses the writer of an older attempt), and a number that was issued twice, because a
    failover lost the first, gives two different ids. `seq` is dense and goes on across attempts.
    """

    attempt: int
    seq: int

    @property
    def number(self) -> int:
        """Which try at the response this is; 0 until a worker has claimed it."""
        return self.attempt // NONCES

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"


class HistoryId(msgspec.Struct, frozen=True, order=True, gc=False):
    """The id of an entry of a conversation log: a dense number, and a nonce that tells a re-issued number apart."""

    seq: int
    nonce: int

    def __str__(self) -> str:
        return f"{self.seq}-{self.nonce}"


def parse_log_id(text: str | bytes) -> LogId | None:
    """Read a log id as Redis or a client spells it; None for anything else, at any length."""
    pair = _pair(text)
    return LogId(*pair) if pair else None


def parse_history_id(text: str | bytes) -> HistoryId | None:
    """Read a conversation id as Redis or a client spells it; None for anything else, at any length."""
    pair = _pair(text)
    return HistoryId(*pair) if pair else None


def _pair(text: str | bytes) -> tuple[int, int] | None:
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    match = _ID.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


# Kinds of entries in a response log.
QUEUED: Final = b"Q"
START: Final = b"S"
CONTINUE: Final = b"K"
TEXT: Final = b"T"
REASONING: Final = b"R"
WAITING: Final = b"W"
END: Final = b"E"
KINDS: Final = {
    QUEUED: "queued",
    START: "start",
    CONTINUE: "continue",
    TEXT: "text",
    REASONING: "reasoning",
    WAITING: "waiting",
    END: "end",
}
"""What they are called where people see them."""

# Kinds of entries in a conversation log.
MESSAGE: Final = b"M"
OPENED: Final = b"O"
SETTLED: Final = b"X"


class Queued(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first entry of a response log: what is to be answered. Written with the submit, before there is a worker."""

    conversation: str
    message: str
    model: str
    instructions: str | None = None
    max_tokens: int | None = None
    replaces: str | None = None
    mode: Literal["restart", "continue"] = "restart"
    trace: str | None = None
    """A traceparent: the request of which the answer is a part."""


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first entry of an attempt. As kind `S` the text begins anew; as kind `K` the text so far stays."""

    model: str
    worker: str = ""


class Waiting(msgspec.Struct, frozen=True, omit_defaults=True):
    """The provider asked for timeout_s; the attempt goes on in `retry_in` seconds."""

    retry_in: float


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong, as a code for programs and a sentence for the person."""

    code: str
    message: str


class End(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last entry of a response log, for good.

    `reason` is `complete`, `stopped`, `guarded`, `length`, `refused`, `filtered`, `tool_calls` or `failed`; readers
    take one that they do not know as an end all the same.
    """

    reason: str
    usage: dict[str, int] | None = None
    error: Problem | None = None
    retryable: bool | None = None


class UserMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user's finished utterance. `replaces` names a response that this message, refined, is asked again for."""

    id: str
    text: str
    replaces: str | None = None


class Opened(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response to `message` was accepted: one that comes next, or one that was answered before (`again`)."""

    response: str
    message: str
    model: str
    replaces: str | None = None
    again: bool = False


class Settled(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response ended. `text` is its whole text as JSON, escaped as it stood in the log; `message` its id as such."""

    response: str
    message: str
    reason: str
    text: msgspec.Raw
    usage: dict[str, int] | None = None
    error: Problem | None = None
    retryable: bool | None = None


ResponseEntry: TypeAlias = Queued | Start | Waiting | End
HistoryEntry: TypeAlias = UserMessage | Opened | Settled

_LOG_DECODERS: Final[dict[bytes, msgspec.json.Decoder[Any]]] = {
    QUEUED: msgspec.json.Decoder(Queued),
    START: msgspec.json.Decoder(Start),
    CONTINUE: msgspec.json.Decoder(Start),
    WAITING: msgspec.json.Decoder(Waiting),
    END: msgspec.json.Decoder(End),
}
_TURN_DECODERS: Final[dict[bytes, msgspec.json.Decoder[Any]]] = {
    MESSAGE: msgspec.json.Decoder(UserMessage),
    OPENED: msgspec.json.Decoder(Opened),
    SETTLED: msgspec.json.Decoder(Settled),
}
_encode: Final = msgspec.json.Encoder().encode


def encode(kind: bytes, body: ResponseEntry | HistoryEntry) -> bytes:
    """The value of an entry's field."""
    return kind + _encode(body)


def decode_response_entry(value: bytes) -> ResponseEntry | None:
    """Read an entry of a response log but for text and reasoning; raises ValueError, RecursionError.

    None for a kind that a newer release writes: readers pass over it.
    """
    decoder = _LOG_DECODERS.get(value[:1])
    entry: ResponseEntry | None = decoder.decode(value[1:]) if decoder else None
    return entry


def decode_history_entry(value: bytes) -> HistoryEntry | None:
    """Read an entry of a conversation log; otherwise as `decode_response_entry`."""
    decoder = _TURN_DECODERS.get(value[:1])
    entry: HistoryEntry | None = decoder.decode(value[1:]) if decoder else None
    return entry


def settled_head(response: str, message: str, end: End) -> bytes:
    """A `Settled` without its text and its closing brace: the end script adds the text, which only the log knows."""
    return _encode({"response": response, "message": message, **msgspec.to_builtins(end)})[:-1]


def escape(text: str) -> bytes:
    """JSON-escape text for an entry; the text holds no lone surrogate (see `workers.batch`)."""
    return _encode(text)[1:-1]


def unescape(escaped: bytes) -> str:
    """The text of concatenated text bodies."""
    text: str = msgspec.json.decode(b'"%b"' % escaped, type=str)
    return text


class Published(msgspec.Struct, frozen=True, gc=False):
    """Consecutive entries of one log from a feed message; none of them, where they were too large to publish.

    `response` is None for the conversation's own log. `first` is the id of the first entry, `previous` that of the
    entry before it, `-` where it begins the log: so a copy of the log knows whether they follow on what it has.
    """

    response: str | None
    first: bytes
    previous: bytes
    values: list[bytes]


def parse_published(data: bytes) -> list[Published]:
    """Split what a script published on a feed channel: a header `@<response or c> <id> <id>`, then a line an entry.

    Never raises, whatever the bytes.
    """
    parts: list[Published] = []
    for part in (b"\n" + data).split(b"\n@")[1:]:
        head, *values = part.split(b"\n")
        log, _, ids = head.partition(b" ")
        first, _, previous = ids.partition(b" ")
        parts.append(Published(None if log == b"c" else str(log, "latin-1"), first, previous, values))
    return parts
