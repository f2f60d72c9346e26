"""The protocol: every frame as a type, in both directions, with limits, error codes and close codes.

This module is the one source of the protocol. `python -m tests.generated` writes from it the JSON Schema
(gateway/protocol.schema.json) and the tables of PROTOCOL.md; `gateway.frame_codec` reads and writes the frames.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from gateway.streams.log_entries import Problem

HEARTBEAT_S: Final = 20
"""Maximum seconds between two frames; browsers do not expose protocol pings."""

HELLO_WITHIN_S: Final = 5.0
"""Time in which a new socket has to send `hello`."""

MAX_FRAME_BYTES: Final = 65_536
MAX_TEXT: Final = 32_000
"""Characters of a message."""

MAX_METADATA: Final = 16
MAX_METADATA_KEY: Final = 64
MAX_METADATA_VALUE: Final = 512
"""Entries of a message's metadata; characters of each name and value."""

MAX_WATCHED: Final = 32
"""Conversations that one socket watches at once."""

TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2."""


class Close(IntEnum):
    """Close codes. Reconnect with full-jitter backoff after 1xxx; after 4xxx only when something has changed."""

    TOO_BIG = 1009
    RESTART = 1012
    OVERLOADED = 1013
    NOT_THE_PROTOCOL = 4400
    NOT_AUTHENTICATED = 4401
    FORBIDDEN_ORIGIN = 4403
    NO_HELLO = 4408
    TOO_FAST = 4429


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
    "quota": 429,
    "unknown_model": 400,
    "overloaded": 503,
    "unavailable": 503,
    "store_full": 507,
}
"""Each error code of the protocol, and the HTTP status with the same meaning."""


TokenProblem: TypeAlias = Literal[
    "token_missing",
    "malformed",
    "wrong_algorithm",
    "wrong_key",
    "claims_invalid",
    "wrong_audience",
    "wrong_issuer",
    "expired",
    "not_yet_valid",
    "lifetime_too_long",
    "no_conversations",
    "conversations_invalid",
    "other_subject",
]
"""What is wrong with a token, in an error `unauthenticated`."""


def _text(description: str, **limits: Any) -> Meta:
    return Meta(description=description, **limits)


# What a client sends.

Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Cursor: TypeAlias = Annotated[str, Meta(max_length=128)]
Key: TypeAlias = Annotated[
    str,
    _text("Idempotency key that the client chooses.", min_length=1, max_length=128, pattern=r"^[!-~]+\Z"),
]
Trace: TypeAlias = Annotated[
    str, _text("W3C Trace Context; the answer becomes part of the trace.", pattern=rf"^{TRACEPARENT.pattern}\Z")
]
Alias: TypeAlias = Annotated[
    str,
    _text("Alias of a model, as the operator named it.", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+\Z"),
]


class ClientStruct(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """A frame of a client."""


class Hello(ClientStruct, frozen=True):
    """First frame of a socket, within 5 seconds."""

    token: Annotated[str | None, _text("JSON Web Token; needed where the gateway requires authentication.")] = None
    client: Annotated[Annotated[str, Meta(max_length=200)] | None, _text("Name and version of the client program.")] = (
        None
    )


class Watch(ClientStruct, frozen=True):
    """Subscribe to a conversation. Repeating it restarts the subscription from these cursors."""

    conversation: Annotated[Id, _text("The conversation.")]
    after: Annotated[Cursor | None, _text("The client's cursor of the conversation.")] = None
    responses: Annotated[
        dict[str, Cursor],
        Meta(max_length=64, description="Each response without an end that the client shows, to its cursor."),
    ] = {}


class Older(ClientStruct, frozen=True):
    """Ask for messages that a `snapshot` left out; no watch is needed."""

    conversation: Annotated[Id, _text("The conversation.")]
    before: Annotated[Cursor, _text("`earlier` of the snapshot, or of the last page.")]


class Unwatch(ClientStruct, frozen=True):
    """Unsubscribe from a conversation."""

    conversation: Annotated[Id, _text("The conversation.")]


class Send(ClientStruct, frozen=True):
    """Send a user message. The same key with the same content is the same message, for a day and one subject."""

    key: Key
    conversation: Annotated[Id, _text("The conversation; it need not exist yet.")]
    text: Annotated[str, _text("The message.", min_length=1, max_length=MAX_TEXT)]
    model: Alias = "default"
    instructions: Annotated[
        Annotated[str, Meta(max_length=MAX_TEXT)] | None, _text("System prompt of this answer.")
    ] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None, _text("Output tokens of this answer at most.")
    ] = None
    replaces: Annotated[Id | None, _text("Response whose question this message asks again in other words.")] = None
    if_busy: Annotated[
        Literal["queue", "reject", "interrupt"],
        _text("While another answer is open: wait for it, refuse this message, or stop the open answers."),
    ] = "queue"
    traceparent: Trace | None = None
    metadata: Annotated[
        Annotated[
            dict[
                Annotated[str, Meta(min_length=1, max_length=MAX_METADATA_KEY)],
                Annotated[str, Meta(max_length=MAX_METADATA_VALUE)],
            ],
            Meta(max_length=MAX_METADATA),
        ]
        | None,
        _text("Texts by name for the operator's generator, such as the page that the user is on."),
    ] = None


class Stop(ClientStruct, frozen=True):
    """End a response in whatever state it is. Repeating it changes nothing."""

    response: Annotated[Id, _text("The response.")]
    reason: Annotated[
        Literal["stopped", "guarded"], _text("Stopped by the user, or by a check of its first tokens.")
    ] = "stopped"


class Retry(ClientStruct, frozen=True):
    """Ask for another answer in place of a response that has ended."""

    response: Annotated[Id, _text("The response to replace.")]
    key: Key
    mode: Annotated[Literal["restart", "continue"], _text("Start again, or continue from its text.")] = "restart"
    traceparent: Trace | None = None


class Token(ClientStruct, frozen=True):
    """Replace the token before it expires. A conversation that the new one does not open is unsubscribed."""

    token: Annotated[str, _text("JSON Web Token with the same `sub`.")]


ClientFrame: TypeAlias = Hello | Watch | Older | Unwatch | Send | Stop | Retry | Token


# What a server sends. Text is escaped once, in the worker, so it is carried as raw JSON.

RawText: TypeAlias = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "string"})]
CursorProblem: TypeAlias = Literal["unknown", "lost", "behind"]
ResponseState: TypeAlias = Literal["queued", "waiting", "recovering", "running", "ended"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a client."""

    frame: Annotated[int, _text("Bytes of a frame.")]
    text: Annotated[int, _text("Characters of a message.")]
    conversations: Annotated[int, _text("Conversations watched at once.")]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of the history. An assistant's has `response` and how that ended."""

    id: Annotated[str, _text("The message.")]
    role: Annotated[Literal["user", "assistant"], _text("Its author.")]
    text: Annotated[RawText, _text("The whole text.")]
    response: Annotated[str | None, _text("The response that it settles.")] = None
    replies_to: Annotated[str | None, _text("The message that it answers.")] = None
    replaces: Annotated[str | None, _text("The response that it replaces.")] = None
    reason: Annotated[str | None, _text("As in `end`.")] = None
    retryable: Annotated[bool | None, _text("As in `end`.")] = None
    error: Annotated[Problem | None, _text("As in `end`.")] = None
    usage: Annotated[dict[str, int] | None, _text("As in `end`.")] = None


class OpenResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A response without an end in a snapshot: its content up to `cursor`."""

    response: Annotated[str, _text("The response.")]
    cursor: Annotated[str, _text("Its cursor.")]
    state: Annotated[ResponseState, _text("As in `status`, never `ended`.")]
    model: Annotated[str, _text("Alias of the model.")]
    attempt: Annotated[int, _text("Number of the attempt; 0 before the first.")]
    text: Annotated[RawText, _text("The text so far.")]
    reasoning: Annotated[RawText | None, _text("The reasoning so far.")] = None
    replies_to: Annotated[str | None, _text("The message that it answers.")] = None
    replaces: Annotated[str | None, _text("The response that it replaces.")] = None


class ServerStruct(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="type", tag=str.lower):
    """A frame of a server. A field that is None is left out."""


class Ready(ServerStruct, frozen=True, kw_only=True):
    """Answer to `hello`."""

    session: Annotated[str, _text("Name of this connection in the gateway's log.")]
    heartbeat: Annotated[int, _text("Maximum seconds between two frames; after 2.5 times that the connection is dead.")]
    limits: Annotated[Limits, _text("Limits of a client.")]
    models: Annotated[tuple[str, ...] | None, _text("Aliases that `send` may name, where the gateway knows them.")] = (
        None
    )


class Watching(ServerStruct, frozen=True, kw_only=True):
    """Answer to `watch`. It may also come later, with a `snapshot`, when the store has lost a part of the history."""

    conversation: Annotated[str, _text("The conversation.")]
    cursor: Annotated[str, _text("Its cursor.")]
    resumed: Annotated[bool, _text("Frames continue from `after`; otherwise a `snapshot` follows.")]
    reason: Annotated[
        CursorProblem | None,
        _text("Why not resumed: the cursor is not valid, its entry is lost, or more follows it than a snapshot holds."),
    ] = None


class Snapshot(ServerStruct, frozen=True, kw_only=True):
    """The whole state of a conversation, which replaces what the client shows."""

    conversation: Annotated[str, _text("The conversation.")]
    cursor: Annotated[str, _text("Its cursor.")]
    messages: Annotated[list[Message], _text("The newest messages, oldest first.")]
    responses: Annotated[list[OpenResponse], _text("Responses without an end.")]
    more: Annotated[bool, _text("Older messages were left out.")] = False
    earlier: Annotated[str | None, _text("With `more`: what `older` takes to return the messages before these.")] = None


class Messages(ServerStruct, frozen=True, kw_only=True):
    """Answer to `older`: a page of messages. It moves no cursor."""

    conversation: Annotated[str, _text("The conversation.")]
    before: Annotated[str, _text("As in `older`.")]
    messages: Annotated[list[Message], _text("The messages before it, oldest first; bounded like those of a snapshot.")]
    more: Annotated[bool, _text("There are older messages.")] = False
    earlier: Annotated[str | None, _text("With `more`: what `older` takes to return the messages before these.")] = None


class MessageFrame(ServerStruct, frozen=True, kw_only=True, tag="message"):
    """A new message in the history. For an answer it comes after its `end`, and settles it."""

    conversation: Annotated[str, _text("The conversation.")]
    cursor: Annotated[str, _text("Its cursor.")]
    message: Annotated[Message, _text("The message.")]


class Start(ServerStruct, frozen=True, kw_only=True):
    """A worker has begun an attempt."""

    conversation: Annotated[str, _text("The conversation.")]
    response: Annotated[str, _text("The response.")]
    cursor: Annotated[str, _text("Its cursor.")]
    model: Annotated[str, _text("Alias of the model.")]
    attempt: Annotated[int, _text("Number of the attempt, from 1.")]
    replies_to: Annotated[str | None, _text("The message that it answers.")] = None
    replaces: Annotated[str | None, _text("The response that it replaces.")] = None


class Delta(ServerStruct, frozen=True, kw_only=True):
    """Text to append: one token, or everything since the cursor (adjacent text is coalesced)."""

    response: Annotated[str, _text("The response.")]
    cursor: Annotated[str, _text("Its cursor.")]
    text: Annotated[RawText, _text("Text to append.")]
    reasoning: Annotated[RawText | None, _text("Reasoning to append; it is not part of the answer.")] = None


class Reset(ServerStruct, frozen=True, kw_only=True):
    """Text that replaces what the client shows of a response."""

    response: Annotated[str, _text("The response.")]
    cursor: Annotated[str, _text("Its cursor.")]
    text: Annotated[RawText, _text("The whole text so far.")]
    reasoning: Annotated[RawText | None, _text("The whole reasoning so far.")] = None
    reason: Annotated[
        Literal["attempt", "lost", "gone"],
        _text("Another worker took over, the cursor is not in the log, or the log has expired."),
    ]


class Status(ServerStruct, frozen=True, kw_only=True):
    """What a response does where its text does not show it."""

    response: Annotated[str, _text("The response.")]
    state: Annotated[
        ResponseState,
        _text(
            "`waiting`: for the provider, for `retry_in` seconds; without `retry_in` the store is unavailable. "
            "`recovering`: another worker takes over. `ended`: only as the answer to `stop`."
        ),
    ]
    cursor: Annotated[str | None, _text("The response's cursor, where the client has everything up to it.")] = None
    conversation: Annotated[str | None, _text("The conversation.")] = None
    replies_to: Annotated[str | None, _text("The message that it answers.")] = None
    replaces: Annotated[str | None, _text("The response that it replaces.")] = None
    retry_in: Annotated[float | None, _text("Seconds until the provider is called again.")] = None
    switched: Annotated[
        str | None,
        _text("With text shown: its provider failed with this error code, and another one continues the text."),
    ] = None


class End(ServerStruct, frozen=True, kw_only=True):
    """The last frame of a response.

    Only a `reset` or a `snapshot` may follow: the store lost the end in a failover, or the client was disconnected
    between the end and the settled message, and gets both again.
    """

    conversation: Annotated[str, _text("The conversation.")]
    response: Annotated[str, _text("The response.")]
    cursor: Annotated[str, _text("Its cursor.")]
    reason: Annotated[
        str,
        _text(
            "`complete`, `stopped`, `guarded`, `length`, `refused`, `filtered`, `tool_calls` or `failed`; "
            "treat an unknown one as an end."
        ),
    ]
    chars: Annotated[
        int | None,
        _text("Unicode code points of the whole text. If the client's text has another number, watch without cursors."),
    ] = None
    usage: Annotated[dict[str, int] | None, _text("`input_tokens` and `output_tokens` of the provider.")] = None
    error: Annotated[Problem | None, _text("Why it failed.")] = None
    retryable: Annotated[bool | None, _text("Whether to offer a retry.")] = None


class Accepted(ServerStruct, frozen=True, kw_only=True):
    """Answer to `send` and `retry`, before or after the frames that all viewers get."""

    key: Annotated[str, _text("The idempotency key of the request.")]
    message: Annotated[str, _text("The user message.")]
    response: Annotated[str, _text("Its response.")]
    duplicate: Annotated[bool, _text("The key was used before; nothing was added.")]


class ErrorFrame(ServerStruct, frozen=True, kw_only=True, tag="error"):
    """A request was refused; the socket stays open.

    A send or retry is named by its `key`, a watch by its `conversation`, a stop by its `response`.
    """

    code: Annotated[str, _text("One of the error codes below.")]
    message: Annotated[str, _text("For the developer or the user.")]
    key: Annotated[str | None, _text("The refused send or retry.")] = None
    conversation: Annotated[str | None, _text("The refused watch.")] = None
    response: Annotated[str | None, _text("The refused stop.")] = None
    retry_after: Annotated[float | None, _text("Seconds after which to repeat the request.")] = None
    problem: Annotated[TokenProblem | None, _text("What is wrong with the token; the socket is closed next.")] = None


class Moving(ServerStruct, frozen=True, kw_only=True):
    """Reconnect hint: the gateway shuts down and closes with 1012 after `within` seconds."""

    within: Annotated[float, _text("Reconnect at a random moment within so many seconds.")]


class Heartbeat(ServerStruct, frozen=True, kw_only=True):
    """Nothing happened."""


ServerFrame: TypeAlias = (
    Ready
    | Watching
    | Snapshot
    | Messages
    | MessageFrame
    | Start
    | Delta
    | Reset
    | Status
    | End
    | Accepted
    | ErrorFrame
    | Moving
    | Heartbeat
)
