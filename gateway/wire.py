"""Every frame and close code that a client can meet, both directions side by side. PROTOCOL.md says it in prose."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

HEARTBEAT: Final = 20
"""Seconds between two frames at the most; browsers see no protocol pings."""

MAX_FRAME_BYTES: Final = 65_536
MAX_TEXT: Final = 32_000
MAX_WATCHED: Final = 32

Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Cursor: TypeAlias = Annotated[str, Meta(max_length=128)]
Key: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-~]+\Z")]
_TRACE: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
Trace: TypeAlias = Annotated[str, Meta(pattern=rf"^{_TRACE.pattern}\Z")]
Alias: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+\Z")]


class Close(IntEnum):
    """Close codes. 1xxx: reconnect with full-jitter backoff; 4xxx: do not."""

    TOO_BIG = 1009
    RESTART = 1012
    OVERLOADED = 1013
    NOT_THE_PROTOCOL = 4400
    NOT_AUTHENTICATED = 4401
    FORBIDDEN_ORIGIN = 4403
    NO_HELLO = 4408
    TOO_FAST = 4429


class Hello(msgspec.Struct, frozen=True, tag_field="type", tag="hello"):
    """Must be the first frame, within five seconds."""

    token: str | None = None
    client: Annotated[str, Meta(max_length=200)] | None = None


class Watch(msgspec.Struct, frozen=True, tag_field="type", tag="watch"):
    """Follow a conversation; `after` and `responses` are the cursors of what the client already has."""

    conversation: Id
    after: Cursor | None = None
    responses: Annotated[dict[str, Cursor], Meta(max_length=64)] = {}


class Unwatch(msgspec.Struct, frozen=True, tag_field="type", tag="unwatch"):
    """Follow a conversation no longer."""

    conversation: Id


class Send(msgspec.Struct, frozen=True, tag_field="type", tag="send"):
    """A user message; sending the same `key` again changes nothing and gets the same answer."""

    key: Key
    conversation: Id
    text: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
    model: Alias = "default"
    instructions: Annotated[str, Meta(max_length=MAX_TEXT)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    replaces: Id | None = None
    if_busy: Literal["queue", "reject", "interrupt"] = "queue"
    traceparent: Trace | None = None


class Stop(msgspec.Struct, frozen=True, tag_field="type", tag="stop"):
    """End a response now, in whatever state it is."""

    response: Id
    reason: Literal["stopped", "guarded"] = "stopped"


class Retry(msgspec.Struct, frozen=True, tag_field="type", tag="retry"):
    """Ask for another answer in place of one that ended, anew or going on from its text."""

    response: Id
    key: Key
    mode: Literal["restart", "continue"] = "restart"
    traceparent: Trace | None = None


class Token(msgspec.Struct, frozen=True, tag_field="type", tag="token"):
    """A fresh token, on the live socket."""

    token: str


ClientFrame: TypeAlias = Hello | Watch | Unwatch | Send | Stop | Retry | Token

_DECODER: Final = msgspec.json.Decoder(ClientFrame)


def is_traceparent(text: str) -> bool:
    """Tell whether a header may stand in a frame as its `traceparent`."""
    return _TRACE.fullmatch(text) is not None


class BadFrame(msgspec.Struct, frozen=True):
    """A frame that is not the protocol's; `reason` may be shown to the client."""

    reason: str


def decode(data: str | bytes) -> ClientFrame | BadFrame:
    """Read one frame of a client. Never raises, whatever the bytes."""
    try:
        frame: ClientFrame = _DECODER.decode(data)
    except RecursionError:
        return BadFrame("nested too deeply")
    except UnicodeError:
        return BadFrame("not UTF-8")
    except msgspec.MsgspecError as error:
        return BadFrame(str(error)[:200])
    return frame


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame for a viewer: the same bytes for every viewer at the same cursor.

    `response` and `cursor` say which log the frame moves forward, and to where; "" and None where it moves none.
    """

    type: str
    body: bytes
    response: str | None = None
    cursor: str | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finished utterance in the history. An assistant's has `response` and how that ended."""

    id: str
    role: Literal["user", "assistant"]
    text: msgspec.Raw
    response: str | None = None
    replies_to: str | None = None
    replaces: str | None = None
    reason: str | None = None
    retryable: bool | None = None
    error: Any = None
    usage: dict[str, int] | None = None


class OpenResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response without an end, as a snapshot shows it: what there is of it up to `cursor`."""

    response: str
    cursor: str
    state: str
    model: str
    attempt: int
    text: msgspec.Raw
    reasoning: msgspec.Raw | None = None
    replies_to: str | None = None
    replaces: str | None = None


_encode: Final = msgspec.json.Encoder().encode


def _frame(kind: str, fields: dict[str, Any], response: str | None = None, cursor: str | None = None) -> Frame:
    present = {name: value for name, value in fields.items() if value is not None}
    return Frame(kind, _encode({"type": kind, **present}), response, cursor)


def ready(session: str, models: tuple[str, ...] | None) -> Frame:
    """The answer to hello. `models` are the aliases that `send` may name, None where the gateway does not know."""
    limits = {"frame": MAX_FRAME_BYTES, "text": MAX_TEXT, "conversations": MAX_WATCHED}
    return _frame("ready", {"session": session, "heartbeat": HEARTBEAT, "limits": limits, "models": models})


def watching(conversation: str, cursor: str, *, resumed: bool, reason: str | None = None) -> Frame:
    """The answer to watch: what follows continues from `after` (`resumed`), or a snapshot follows."""
    fields = {"conversation": conversation, "cursor": cursor, "resumed": resumed, "reason": reason}
    # A viewer that is not resumed has nothing until the snapshot, so only the snapshot moves its cursor.
    return _frame("watching", fields, None, cursor if resumed else None)


def snapshot(
    conversation: str, cursor: str, messages: list[Message], responses: list[OpenResponse], *, more: bool
) -> Frame:
    """The state in one frame; `more` when older messages were left out."""
    fields = {
        "conversation": conversation,
        "cursor": cursor,
        "messages": messages,
        "responses": responses,
        "more": more or None,
    }
    return _frame("snapshot", fields, None, cursor)


def message(conversation: str, cursor: str, said: Message) -> Frame:
    """A new message in the history."""
    return _frame("message", {"conversation": conversation, "cursor": cursor, "message": said}, None, cursor)


def start(
    conversation: str,
    response: str,
    cursor: str,
    model: str,
    attempt: int,
    replies_to: str | None,
    replaces: str | None,
) -> Frame:
    """A worker has begun an attempt."""
    fields = {
        "conversation": conversation,
        "response": response,
        "cursor": cursor,
        "model": model,
        "attempt": attempt,
        "replies_to": replies_to,
        "replaces": replaces,
    }
    return _frame("start", fields, response, cursor)


def delta(response: str, cursor: str, text: bytes | bytearray, reasoning: bytes | bytearray) -> Frame:
    """Escaped text to append. Built from bytes: it is the frame that there are a thousand of."""
    head = f'{{"type":"delta","response":"{response}","cursor":"{cursor}","text":"'.encode()
    pieces = (head, text, b'","reasoning":"', reasoning, b'"}') if reasoning else (head, text, b'"}')
    return Frame("delta", b"".join(pieces), response, cursor)


def reset(response: str, cursor: str, text: bytes, reasoning: bytes, reason: str) -> Frame:
    """Replace what was shown of a response with this escaped text."""
    fields = {
        "response": response,
        "cursor": cursor,
        "text": raw(text),
        "reasoning": raw(reasoning) if reasoning else None,
        "reason": reason,
    }
    return _frame("reset", fields, response, cursor)


def status(
    response: str,
    state: str,
    *,
    conversation: str | None = None,
    replies_to: str | None = None,
    replaces: str | None = None,
    retry_in: float | None = None,
    cursor: str | None = None,
) -> Frame:
    """What an open response is doing, where its text does not show it."""
    fields = {
        "response": response,
        "state": state,
        "cursor": cursor,
        "conversation": conversation,
        "replies_to": replies_to,
        "replaces": replaces,
        "retry_in": retry_in,
    }
    return _frame("status", fields, response if cursor else None, cursor)


def end(
    conversation: str,
    response: str,
    cursor: str,
    reason: str,
    chars: int | None,
    *,
    usage: dict[str, int] | None = None,
    error: Any = None,
    retryable: bool | None = None,
) -> Frame:
    """The last frame of a response. `chars` counts Unicode code points; None where nothing is left to count."""
    fields = {
        "conversation": conversation,
        "response": response,
        "cursor": cursor,
        "reason": reason,
        "chars": chars,
        "usage": usage,
        "error": error,
        "retryable": retryable,
    }
    return _frame("end", fields, response, cursor)


def accepted(key: str, said: str, response: str, *, duplicate: bool) -> Frame:
    """The answer to send and retry."""
    return _frame("accepted", {"key": key, "message": said, "response": response, "duplicate": duplicate})


def error(
    code: str,
    text: str,
    key: str | None = None,
    retry_after: float | None = None,
    *,
    conversation: str | None = None,
    response: str | None = None,
) -> Frame:
    """A frame of the client was refused; the socket stays. The codes are in `ERRORS`.

    What was refused: a send or a retry is named by its key, a watch by its conversation, a stop by its response.
    """
    assert code in ERRORS
    fields = {
        "code": code,
        "message": text,
        "key": key,
        "conversation": conversation,
        "response": response,
        "retry_after": retry_after,
    }
    return _frame("error", fields)


def refusal(
    request: Watch | Unwatch | Send | Stop | Retry, code: str, text: str, retry_after: float | None = None
) -> Frame:
    """The `error` that says which request was refused."""
    match request:
        case Send(key=key) | Retry(key=key):
            return error(code, text, key, retry_after)
        case Stop(response=response):
            return error(code, text, None, retry_after, response=response)
    return error(code, text, None, retry_after, conversation=request.conversation)


def moving(within: float) -> Frame:
    """This gateway is leaving: reconnect at a random time within so many seconds, after which it closes."""
    return _frame("moving", {"within": within})


HEARTBEAT_FRAME: Final = _frame("heartbeat", {})

SERVER_FRAMES: Final = (
    "ready",
    "watching",
    "snapshot",
    "message",
    "start",
    "delta",
    "reset",
    "status",
    "end",
    "accepted",
    "error",
    "moving",
    "heartbeat",
)

ERRORS: Final = {
    "bad_frame": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "key_conflict": 409,
    "busy": 409,
    "still_running": 409,
    "too_many": 429,
    "too_fast": 429,
    "unknown_model": 400,
    "overloaded": 503,
    "unavailable": 503,
    "store_full": 507,
}
"""Each error code of the protocol, and the HTTP status that says the same."""


def raw(escaped: bytes) -> msgspec.Raw:
    """Escaped text as a JSON string that is not encoded again."""
    return msgspec.Raw(b'"%b"' % escaped)
