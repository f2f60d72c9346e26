"""Streaming responses of OpenAI and Anthropic as bytes, sent by the load generator as the provider (`provider.c`).

Sources: https://platform.openai.com/docs/api-reference/chat-streaming and
https://docs.anthropic.com/en/docs/build-with-claude/streaming; chunks as of RFC 9112, section 7.1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from .load import TOKEN_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

Sdk: TypeAlias = Literal["openai", "anthropic"]

MODEL: Final = "bench"
_HEAD: Final = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    "transfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n"
)
_TEXT: Final = "{text}"


class Wire(NamedTuple):
    """Response of one call: opening, each token, closing."""

    opening: str
    token: tuple[str, str]
    """Chunk header and chunk; `{text}` is replaced by the token."""
    closing: str


def wire(sdk: Sdk) -> Wire:
    """Return the response of a provider for its official SDK."""
    opening, token, closing = _openai() if sdk == "openai" else _anthropic()
    size = len(token) - len(_TEXT) + TOKEN_BYTES
    return Wire(
        _HEAD + "".join(map(_chunk, opening)), (f"{size:x}\r\n", f"{token}\r\n"), "".join(map(_chunk, [*closing, ""]))
    )


def environment(sdk: Sdk, port: int) -> dict[str, str]:
    """Return the environment with which a worker calls the load generator as this provider."""
    if sdk == "openai":
        return {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "none"}
    return {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": "none"}


def _chunk(event: str) -> str:
    return f"{len(event):x}\r\n{event}\r\n"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _openai() -> tuple[list[str], str, list[str]]:
    def event(delta: Mapping[str, Any] | None, reason: str | None = None, usage: Any = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {
            "id": "chatcmpl-CVNqKj8YzB3mT0aPq6LwXh2sRd41e",
            "object": "chat.completion.chunk",
            "created": 1_760_000_000,
            "model": MODEL,
            "service_tier": "default",
            "system_fingerprint": "fp_560af6e559",
            "choices": [] if delta is None else [choice],
            "usage": usage,
            "obfuscation": "wJ3xKq",
        }
        return f"data: {_json(chunk)}\n\n"

    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    return (
        [event({"role": "assistant", "content": "", "refusal": None})],
        event({"content": _TEXT}),
        [event({}, "stop"), event(None, usage=usage), "data: [DONE]\n\n"],
    )


def _anthropic() -> tuple[list[str], str, list[str]]:
    def event(value: Mapping[str, Any]) -> str:
        return f"event: {value['type']}\ndata: {_json(value)}\n\n"

    message: dict[str, Any] = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    }
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return (
        [
            event({"type": "message_start", "message": message}),
            event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            event({"type": "ping"}),
        ],
        event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": _TEXT}}),
        [
            event({"type": "content_block_stop", "index": 0}),
            event({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}}),
            event({"type": "message_stop"}),
        ],
    )
