"""Frames to and from JSON: decode what a client sends, encode once what many viewers get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.wire import (
    ERRORS,
    HEARTBEAT_S,
    MAX_FRAME_BYTES,
    MAX_TEXT,
    MAX_WATCHED,
    TRACEPARENT,
    ClientFrame,
    End,
    ErrorFrame,
    Heartbeat,
    Limits,
    Message,
    MessageFrame,
    Messages,
    Older,
    Ready,
    Reset,
    Retry,
    Send,
    ServerFrame,
    Snapshot,
    Start,
    Status,
    Stop,
    Unwatch,
    Watch,
    Watching,
)

if TYPE_CHECKING:
    from gateway.streams.log_entries import HistoryId
    from gateway.wire import TokenProblem

_DECODER: Final = msgspec.json.Decoder(ClientFrame)
_encode: Final = msgspec.json.Encoder().encode


class BadFrame(msgspec.Struct, frozen=True):
    """A frame that the protocol does not have; `reason` may be sent to the client."""

    reason: str


def decode(data: str | bytes) -> ClientFrame | BadFrame:
    """Return one frame of a client. Never raises, whatever the bytes."""
    try:
        frame: ClientFrame = _DECODER.decode(data)
    except RecursionError:
        return BadFrame("nested too deeply")
    except UnicodeError:
        return BadFrame("not UTF-8")
    except msgspec.MsgspecError as error:
        return BadFrame(str(error)[:200])
    return frame


def is_traceparent(text: str) -> bool:
    """Tell whether a header value may be the `traceparent` of a frame."""
    return TRACEPARENT.fullmatch(text) is not None


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One encoded frame: the same bytes for every viewer at the same cursor.

    `response` and `cursor` name the log that the frame moves a viewer forward in, and to which entry: a response's log,
    or with `response` None the conversation's. Both are None for a frame that moves no cursor.
    """

    type: str
    body: bytes
    response: str | None = None
    cursor: str | None = None


def encode(frame: ServerFrame) -> Frame:
    """Return a frame's JSON, and the cursor that it moves."""
    response: str | None = None
    cursor: str | None = None
    match frame:
        case Start() | Reset() | End():
            response, cursor = frame.response, frame.cursor
        case Status() if frame.cursor:
            response, cursor = frame.response, frame.cursor
        case Snapshot() | MessageFrame():
            cursor = frame.cursor
        case Watching() if frame.resumed:
            # A viewer that is not resumed has nothing until the snapshot, so only the snapshot moves its cursor.
            cursor = frame.cursor
        case _:
            pass
    return Frame(str(frame.__struct_config__.tag), _encode(frame), response, cursor)


def delta(response: str, cursor: str, text: bytes | bytearray, reasoning: bytes | bytearray) -> Frame:
    """Return a `Delta` of escaped text.

    Most frames are deltas, and joining bytes is several times faster than encoding a struct.
    """
    head = f'{{"type":"delta","response":"{response}","cursor":"{cursor}","text":"'.encode()
    parts = (head, text, b'","reasoning":"', reasoning, b'"}') if reasoning else (head, text, b'"}')
    return Frame("delta", b"".join(parts), response, cursor)


def ready(session: str, models: tuple[str, ...] | None) -> Frame:
    """Return the answer to `hello`. `models`: the aliases of this gateway, None where only workers know them."""
    limits = Limits(frame=MAX_FRAME_BYTES, text=MAX_TEXT, conversations=MAX_WATCHED)
    return encode(Ready(session=session, heartbeat=HEARTBEAT_S, limits=limits, models=models))


def error(code: str, message: str, *, key: str | None = None, retry_after: float | None = None) -> Frame:
    """Return an `error` with a code of `wire.ERRORS`."""
    assert code in ERRORS
    return encode(ErrorFrame(code=code, message=message, key=key, retry_after=retry_after))


def unauthenticated(problem: TokenProblem, message: str) -> Frame:
    """Return the `error` that says what is wrong with a token."""
    return encode(ErrorFrame(code="unauthenticated", message=message, problem=problem))


def refusal(
    request: Watch | Older | Unwatch | Send | Stop | Retry, code: str, message: str, retry_after: float | None = None
) -> Frame:
    """Return the `error` that names the refused request."""
    assert code in ERRORS
    frame = ErrorFrame(code=code, message=message, retry_after=retry_after)
    match request:
        case Send(key=key) | Retry(key=key):
            return encode(msgspec.structs.replace(frame, key=key))
        case Stop(response=response):
            return encode(msgspec.structs.replace(frame, response=response))
    return encode(msgspec.structs.replace(frame, conversation=request.conversation))


def page(request: Older, messages: list[Message], earlier: HistoryId | None) -> Frame:
    """Return the answer to `older`: a page, and the cursor before which there are older messages, if there are any."""
    return encode(
        Messages(
            conversation=request.conversation,
            before=request.before,
            messages=messages,
            more=earlier is not None,
            earlier=str(earlier) if earlier is not None else None,
        )
    )


HEARTBEAT_FRAME: Final = encode(Heartbeat())


def raw(escaped: bytes) -> msgspec.Raw:
    """Return escaped text as a JSON string that is not encoded again."""
    return msgspec.Raw(b'"%b"' % escaped)
