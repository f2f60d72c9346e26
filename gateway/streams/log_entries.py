"""Entries and ids of response logs and histories: encoding and decoding.

An entry has one field. Its value is one letter for the kind, followed by a body. The body of a text entry is
JSON-escaped text without quotes. Escaped text can be concatenated, so text is escaped once, in the worker; a replica
keeps the bytes and a delta is a slice of them. No body contains a raw line feed, so a published entry is one line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from gateway.streams.unreadable import TALLY

if TYPE_CHECKING:
    from collections.abc import Iterable

FIELD: Final = b"e"
NONCES: Final = 1_000_000_000
"""The attempt part of a log id is `number * NONCES + nonce`."""

MAX_ENTRIES: Final = 2000
"""A history keeps about this many entries; older ones are trimmed."""

MAX_WAIT_S: Final = 86_400.0
"""Seconds; a provider that asks for a longer pause is not called again."""

MAX_COUNT: Final = 2**53
"""The largest token count: JavaScript, which reads it, rounds larger integers."""

Usage: TypeAlias = dict[str, Annotated[int, Meta(ge=-MAX_COUNT, le=MAX_COUNT)]]
"""Token counts by name. A larger number could be read but not written again."""

_ID: Final = re.compile(r"(0|[1-9]\d{0,15})-(0|[1-9]\d{0,15})", re.ASCII)


class LogId(msgspec.Struct, frozen=True, order=True, gc=False):
    """The id of an entry of a response log; it is also the cursor of a viewer that received the entry.

    `attempt` is `number * NONCES + nonce`. Ids of a later attempt sort after all ids of an earlier one, so Redis itself
    fences the writer of an older attempt. The nonce makes ids differ where a failover lost an attempt and its number is
    issued again. `seq` is dense and continues across attempts.
    """

    attempt: int
    seq: int

    @property
    def number(self) -> int:
        """The number of the attempt; 0 until a worker claims the response."""
        return self.attempt // NONCES

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"


class HistoryId(msgspec.Struct, frozen=True, order=True, gc=False):
    """The id of a history entry: a dense number, and a nonce that distinguishes a re-issued number."""

    seq: int
    nonce: int

    def __str__(self) -> str:
        return f"{self.seq}-{self.nonce}"


def parse_log_id(text: str | bytes) -> LogId | None:
    """Parse a log id in the form that Redis and clients use; return None for anything else, of any length."""
    pair = _pair(text)
    return LogId(*pair) if pair else None


def parse_history_id(text: str | bytes) -> HistoryId | None:
    """Parse a history id, as `parse_log_id` does."""
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
"""Names of the kinds, as operators and developers see them."""

# Kinds of history entries.
MESSAGE: Final = b"M"
OPENED: Final = b"O"
SETTLED: Final = b"X"


class Queued(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first entry of a response log: the request. The submit script writes it, before a worker exists."""

    conversation: str
    message: str
    model: str
    instructions: str | None = None
    max_tokens: int | None = None
    replaces: str | None = None
    mode: Literal["restart", "continue"] = "restart"
    trace: str | None = None
    """The traceparent of the client's request."""
    instructions_id: str | None = None
    """Where the instructions are stored (`keys.instructions`); earlier releases wrote them into the entry."""
    subject: str | None = None
    """The digest of the subject whose quota the response counts for."""
    user: str | None = None
    """The subject that asked (`sub` of its token); None without authentication."""
    claims: dict[str, Any] | None = None
    """The further claims of its token."""
    metadata: dict[str, str] | None = None
    """What the client sent for the operator's generator."""
    details_id: str | None = None
    """Where claims and metadata are stored (`keys.details`), if they are large."""


class Details(msgspec.Struct, frozen=True, omit_defaults=True):
    """Claims and metadata of a request, which are stored apart from it if they are large."""

    claims: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first entry of an attempt. Kind `S` discards the text so far, kind `K` keeps it."""

    model: str
    worker: str = ""


class Waiting(msgspec.Struct, frozen=True, omit_defaults=True):
    """The provider call failed; the worker calls again in `retry_in` seconds."""

    retry_in: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)]
    switched: str | None = None
    """The error code of a call that failed after its first token. Another provider continues the text."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A failure: a code for programs and a sentence for the user."""

    code: str
    message: str
    detail: Annotated[
        str | None,
        Meta(description="For operators: the provider's own name of the reason, at most 64 safe characters."),
    ] = None


class End(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last entry of a response log; the log is closed.

    `reason` is `complete`, `stopped`, `guarded`, `length`, `refused`, `filtered`, `tool_calls` or `failed`. Readers
    accept unknown reasons as an end.
    """

    reason: str
    usage: Usage | None = None
    error: Problem | None = None
    retryable: bool | None = None


class UserMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message of a user. `replaces` is the response whose message this one rephrases."""

    id: str
    text: str
    replaces: str | None = None


class Opened(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response to `message` was accepted. `again`: the message has been in the history before (a retry)."""

    response: str
    message: str
    model: str
    replaces: str | None = None
    again: bool = False


class Settled(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response ended. `text` is the whole text as JSON, escaped as in the log; `message` is the id of the answer."""

    response: str
    message: str
    reason: str
    text: msgspec.Raw
    usage: Usage | None = None
    error: Problem | None = None
    retryable: bool | None = None


ResponseEntry: TypeAlias = Queued | Start | Waiting | End
HistoryEntry: TypeAlias = UserMessage | Opened | Settled

_RESPONSE_DECODERS: Final[dict[bytes, msgspec.json.Decoder[Any]]] = {
    QUEUED: msgspec.json.Decoder(Queued),
    START: msgspec.json.Decoder(Start),
    CONTINUE: msgspec.json.Decoder(Start),
    WAITING: msgspec.json.Decoder(Waiting),
    END: msgspec.json.Decoder(End),
}
_HISTORY_DECODERS: Final[dict[bytes, msgspec.json.Decoder[Any]]] = {
    MESSAGE: msgspec.json.Decoder(UserMessage),
    OPENED: msgspec.json.Decoder(Opened),
    SETTLED: msgspec.json.Decoder(Settled),
}
_DETAILS: Final = msgspec.json.Decoder(Details)
_TEXT: Final = msgspec.json.Decoder(str)
_MALFORMED: Final = (ValueError, RecursionError)
_encode: Final = msgspec.json.Encoder().encode

UNREADABLE_END: Final = End(
    "failed", error=Problem("unreadable", "The end of this answer cannot be read."), retryable=True
)
"""Stands for an end whose body is malformed."""


def encode(kind: bytes, body: ResponseEntry | HistoryEntry) -> bytes:
    """Return the value of an entry's field."""
    return kind + _encode(body)


def decode_response_entry(value: bytes, log: str = "") -> ResponseEntry | None:
    """Decode an entry of a response log; `log` names it where an entry that cannot be read is counted.

    Return None for what readers skip: text, reasoning, kinds of a newer release, and a malformed body. A malformed end
    is a failed end, because the scripts treat the log as closed.
    """
    kind = value[:1]
    decoder = _RESPONSE_DECODERS.get(kind)
    if decoder is None:
        return None
    try:
        entry: ResponseEntry = decoder.decode(value[1:])
    except _MALFORMED:
        TALLY.add(log)
        return UNREADABLE_END if kind == END else None
    return entry


def decode_history_entry(value: bytes, log: str = "") -> HistoryEntry | None:
    """Decode a history entry, as `decode_response_entry` does; readers skip None."""
    decoder = _HISTORY_DECODERS.get(value[:1])
    if decoder is None:
        return None
    try:
        entry: HistoryEntry = decoder.decode(value[1:])
        if isinstance(entry, Settled):
            # Sent to clients as it is: a malformed text would make the frame malformed.
            _TEXT.decode(entry.text)
    except _MALFORMED:
        TALLY.add(log)
        return None
    return entry


def decode_details(value: bytes, log: str = "") -> Details | None:
    """Decode details; return None, and count it, if they cannot be read."""
    try:
        return _DETAILS.decode(value)
    except _MALFORMED:
        TALLY.add(log)
        return None


def text_body(value: bytes, log: str = "") -> bytes:
    """Return the body of a text or reasoning entry; empty, and counted, if it is not escaped text.

    Bodies are concatenated and sent as they are, so a malformed one would make every frame around it malformed.
    """
    body = value[1:]
    try:
        _TEXT.decode(b'"%b"' % body)
    except _MALFORMED:
        TALLY.add(log)
        return b""
    return body


def settled_head(response: str, message: str, end: End) -> bytes:
    """Return a `Settled` without text and closing brace; the end script adds the text from the log."""
    return _encode({"response": response, "message": message, **msgspec.to_builtins(end)})[:-1]


def escape(text: str) -> bytes:
    """Return text JSON-escaped for an entry; it must not contain lone surrogates (see `workers.batch`)."""
    return _encode(text)[1:-1]


def unescape(escaped: bytes) -> str:
    """Return the text of concatenated text bodies; raise ValueError if they are not escaped text."""
    text: str = _TEXT.decode(b'"%b"' % escaped)
    return text


class LogText:
    """The text of a log, from its entries in their order."""

    def __init__(self, before: LogId | None = None) -> None:
        """`before`: only entries before this one count."""
        self._before = before
        self._bodies: list[bytes] = []

    def add(self, entries: Iterable[tuple[LogId, bytes]]) -> None:
        """Add the next entries. A start discards the text before it."""
        for entry, value in entries:
            if self._before is not None and entry.seq >= self._before.seq:
                break
            if value[:1] == TEXT:
                self._bodies.append(text_body(value))
            elif value[:1] == START:
                self._bodies.clear()

    def __bool__(self) -> bool:
        return any(self._bodies)

    @property
    def escaped(self) -> bytes:
        """The text so far, JSON-escaped."""
        return b"".join(self._bodies)


class Published(msgspec.Struct, frozen=True, gc=False):
    """Consecutive entries of one log from a feed message; `values` is empty if they were too large to publish.

    `response` is None for the history. `first` is the id of the first entry and `previous` that of the entry before it
    (`-` at the start of the log): a replica compares `previous` with its tail to detect a gap.
    """

    response: str | None
    first: bytes
    previous: bytes
    values: list[bytes]


def parse_published(data: bytes) -> list[Published]:
    """Parse a message of a feed channel: a header `@<response or c> <id> <id>`, then one line per entry.

    Never raises.
    """
    parts: list[Published] = []
    for part in (b"\n" + data).split(b"\n@")[1:]:
        head, *values = part.split(b"\n")
        log, _, ids = head.partition(b" ")
        first, _, previous = ids.partition(b" ")
        parts.append(Published(None if log == b"c" else str(log, "latin-1"), first, previous, values))
    return parts
