"""Streams of providers that are made from valid ones by dropping, doubling, splitting and reordering, with an oracle.

    python -m tests.provider_fuzz --streams 10000 --seed 7

Each stream is read through the provider's SDK. The oracle knows which text and which end the bytes contain that arrive:
an answer is never complete if it was cut off, never failed if it is whole, and is always over in time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from unittest import mock

import anthropic as anthropic_sdk
import httpx2
import openai as openai_sdk

from gateway.streams.targets import Target
from workers.providers import Finish, ProviderError, Reasoning, Request, Text, anthropic, exchange, openai

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Api: TypeAlias = Literal["openai", "anthropic"]
REQUEST: Final = Request("m", [{"role": "user", "content": "Hi"}])
TIMEOUT_S: Final = 20.0
"""A stream that takes longer hangs."""

WORDS: Final = ("Hello", " ", "wörld", "😀", "\n\n", "<b>", "```", "日本", '"\\', "data: x", "[DONE]", "{", "a" * 300)
KNOWN: Final = {
    "openai": {
        "stop": "complete",
        "length": "length",
        "content_filter": "filtered",
        "eos": "complete",
        "STOP": "complete",
    },
    "anthropic": {
        "end_turn": "complete",
        "FinishReason.STOP": "complete",
        "max_tokens": "length",
        "refusal": "refused",
        "stop": "complete",
    },
}
UNKNOWN: Final = ("error", "abort", "insufficient_system_resource", "function_call_filter: MALFORMED_FUNCTION_CALL")
FILLERS: Final = (
    b": keep-alive",
    b"data:",
    b"data: ",
    b"data: null",
    b"data: ping",
    b"data: []",
    b"data: {}",
    b"event: ping\ndata: {}",
    b'data: {"type": "ping"}',
    b'data: {"type": "an_event_of_tomorrow", "delta": {"text": "no"}, "choices": []}',
    b'data: {"choices": null, "type": null, "usage": null, "error": null}',
    b"id: 7\nretry: 10",
    b"unknown",
    b'data: {"status": "processing"}',
    b'data: {"status": "ok", "message": "heartbeat"}',
    b'data: {"status": 200, "msg": ""}',
    b'data: {"code": 0, "msg": "ok"}',
    b'data: {"code": "success", "success": true}',
    b'data: {"code": "200", "message": "OK"}',
    b'data: {"object": "ping", "status": "in_progress"}',
    b'data: {"error": {"code": 0, "message": "success"}, "choices": []}',
    b'data: {"error": {"code": null, "message": null}, "errors": []}',
    b'data: {"error": "", "error_code": 0, "error_msg": ""}',
    b'data: {"base_resp": {"status_code": 0, "status_msg": "success"}}',
    b"data: OPENROUTER PROCESSING",
    b"data: " + b"[" * 3000 + b"]" * 3000,
)


@dataclass
class Piece:
    """One event of a stream: its bytes without the empty line, and what they contain."""

    data: bytes
    text: str = ""
    reasoning: str = ""
    reason: str = ""
    done: bool = False
    error: bool = False


@dataclass
class Stream:
    """The bytes that arrive, and what the oracle expects of them."""

    api: Api
    chunks: list[bytes]
    breaks: bool
    """Whether the connection breaks after the last chunk, instead of an orderly end."""
    text: str = ""
    reasoning: str = ""
    end: str = ""
    """The reason of the Finish, or the code of the failure."""
    notes: list[str] = field(default_factory=list)


def shuffled(rng: random.Random, value: Any) -> Any:
    """Return an object with its fields in another order, at every level."""
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {name: shuffled(rng, each) for name, each in items}
    return [shuffled(rng, each) for each in value] if isinstance(value, list) else value


def event(rng: random.Random, value: dict[str, Any], optional: dict[str, Any], kind: str = "") -> bytes:
    """Return an event with some of the optional fields, some of them null, in any order."""
    for name, each in optional.items():
        match rng.randrange(3):
            case 0:
                value = {**value, name: each}
            case 1:
                value = {**value, name: None}
    dumped = json.dumps(shuffled(rng, value), ensure_ascii=rng.random() < 0.5)
    prefix = rng.choice(("data: ", "data:", "data: data: ")) if rng.random() < 0.2 else "data: "
    name = f"event: {kind}\n" if kind and rng.random() < 0.7 else ""
    return f"{name}{prefix}{dumped}".encode()


def parts(rng: random.Random, text: str) -> Any:
    """Return text in one of the shapes in which servers send it."""
    match rng.randrange(8):
        case 0:
            return [{"type": "text", "text": text}]
        case 1:
            return [text[:1], {"type": "text", "text": {"value": text[1:]}}]
        case 2:
            return {"type": "text", "text": text}
        case _:
            return text


def counts(rng: random.Random) -> Any:
    """Return a usage object of any shape."""
    number = rng.choice((3, 3.0, "3", None, -1, "many"))
    return rng.choice(
        ({"prompt_tokens": number, "output_tokens": number}, [], "none", None, {"prompt_tokens_details": 7})
    )


OPTIONAL: Final[dict[str, Any]] = {
    "id": "x",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "service_tier": "x",
}


def openai_pieces(rng: random.Random, words: list[str], thoughts: list[str], reason: str) -> list[Piece]:
    """Return the events of an answer of Chat Completions."""

    def chunk(delta: Any, **choice: Any) -> bytes:
        fields = {"index": 0, "logprobs": None, "finish_reason": None}
        return event(
            rng,
            {"choices": [{"delta": delta, **{k: v for k, v in fields.items() if rng.random() < 0.7}, **choice}]},
            OPTIONAL,
        )

    pieces = [Piece(chunk({"role": "assistant", "content": rng.choice(("", None))}))]
    name = rng.choice(("reasoning_content", "reasoning", "reasoning_text", "thinking"))
    pieces += [Piece(chunk({name: parts(rng, each), "content": None}), reasoning=each) for each in thoughts]
    pieces += [Piece(chunk({"content": parts(rng, each)}), text=each) for each in words]
    last = words[-1] if rng.random() < 0.2 else ""
    pieces.append(
        Piece(
            chunk({"content": last} if last else rng.choice(({}, None)), finish_reason=reason), text=last, reason=reason
        )
    )
    if rng.random() < 0.7:
        pieces.append(Piece(event(rng, {"choices": [], "usage": counts(rng)}, OPTIONAL)))
    pieces.append(Piece(rng.choice((b"data: [DONE]", b"data: [DONE] ", b"data:[DONE]", b'data: "[DONE]"')), done=True))
    return pieces


def anthropic_pieces(rng: random.Random, words: list[str], thoughts: list[str], reason: str) -> list[Piece]:
    """Return the events of an answer of Messages."""

    def kind(name: str, **fields: Any) -> bytes:
        return event(rng, {"type": name, **fields}, {"index": 0, "request_id": "x"}, name)

    pieces = [Piece(kind("message_start", message={"usage": counts(rng), "content": []}))]
    pieces += [
        Piece(
            kind("content_block_delta", delta={"type": "thinking_delta", "thinking": parts(rng, each)}), reasoning=each
        )
        for each in thoughts
    ]
    pieces.append(Piece(kind("content_block_start", content_block={"type": "text", "text": words[0]}), text=words[0]))
    pieces += [
        Piece(kind("content_block_delta", delta={"type": "text_delta", "text": parts(rng, each)}), text=each)
        for each in words[1:]
    ]
    pieces.append(Piece(kind("content_block_stop")))
    pieces.append(
        Piece(
            kind("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=counts(rng)),
            reason=reason,
        )
    )
    pieces.append(Piece(kind("message_stop"), done=True))
    return pieces


def late_reason(rng: random.Random, api: Api, reason: str) -> bytes:
    """Return an event that gives a reason, and nothing else."""
    if api == "openai":
        return event(rng, {"choices": [{"delta": {}, "finish_reason": reason}]}, OPTIONAL)
    return event(rng, {"type": "message_delta", "delta": {"stop_reason": reason}}, {"index": 0}, "message_delta")


def changed(rng: random.Random, pieces: list[Piece], api: Api, notes: list[str]) -> list[Piece]:
    """Return the events with some of them dropped, doubled or in another order, and with fillers and errors between."""
    pieces = list(pieces)
    if rng.random() < 0.3:
        # One of the two ends may be missing.
        notes.append("one end dropped")
        dropped = rng.choice([number for number, each in enumerate(pieces) if each.reason or each.done])
        if not pieces[dropped].text:
            del pieces[dropped]
    if rng.random() < 0.3:
        notes.append("event dropped")
        number = rng.randrange(len(pieces))
        if not (pieces[number].reason or pieces[number].done):
            del pieces[number]
    if rng.random() < 0.3:
        notes.append("event doubled")
        number = rng.randrange(len(pieces))
        pieces.insert(number, pieces[number])
    if rng.random() < 0.3:
        notes.append("events reordered")
        number = rng.randrange(len(pieces) - 1)
        if not (pieces[number].done or pieces[number + 1].done):
            pieces[number : number + 2] = reversed(pieces[number : number + 2])
    if rng.random() < 0.15:
        notes.append("error")
        error = {
            "type": "error",
            "error": rng.choice(({"type": "overloaded_error"}, {"code": "503"}, [{"code": 529}], "overloaded")),
        }
        pieces.insert(rng.randrange(len(pieces) + 1), Piece(event(rng, error, {}, "error"), error=True))
    for _ in range(rng.randrange(4)):
        pieces.insert(rng.randrange(len(pieces) + 1), Piece(rng.choice(FILLERS)))
    return pieces


def make(rng: random.Random) -> Stream:
    """Return a stream that is made from a valid one."""
    api: Api = rng.choice(("openai", "anthropic"))
    words = rng.choices(WORDS, k=rng.randrange(1, 8))
    thoughts = rng.choices(WORDS, k=rng.randrange(3))
    reason = rng.choice(UNKNOWN) if rng.random() < 0.2 else rng.choice(list(KNOWN[api]))
    notes: list[str] = []
    made = openai_pieces if api == "openai" else anthropic_pieces
    pieces = made(rng, words, thoughts, reason)
    if rng.random() < 0.2:
        late = rng.choice((*UNKNOWN, *KNOWN[api]))
        notes.append(f"{late} after {reason}")
        number = next(number for number, each in enumerate(pieces) if each.reason)
        pieces.insert(rng.randrange(number + 1, len(pieces)), Piece(late_reason(rng, api, late), reason=late))
    pieces = changed(rng, pieces, api, notes)
    newline = rng.choice((b"\n", b"\n", b"\r\n", b"\r"))
    body, ends = b"", []
    for piece in pieces:
        body += piece.data.replace(b"\n", newline)
        # An event is whole when its JSON is.
        ends.append(len(body))
        body += newline * 2
    size = rng.randrange(len(body) + 1) if rng.random() < 0.4 else len(body)
    if size < len(body):
        notes.append(f"cut at {size} of {len(body)}")
    arrived = [piece for piece, end in zip(pieces, ends, strict=True) if end <= size]
    stream = Stream(api, [], breaks=size < len(body) or rng.random() < 0.3, notes=notes)
    expect(stream, arrived)
    cuts = sorted({0, size, *(rng.randrange(size + 1) for _ in range(rng.randrange(12)))})
    stream.chunks = [body[start:end] for start, end in pairwise(cuts)]
    return stream


def expect(stream: Stream, arrived: list[Piece]) -> None:
    """Set what the events that arrived whole contain."""
    reason, failed, successes = "", False, KNOWN[stream.api]
    for piece in arrived:
        if piece.error and not reason:
            stream.end = "provider_overloaded"
            return
        failed = failed or piece.error
        if not piece.error:
            stream.text += piece.text
            stream.reasoning += piece.reasoning
            # The first reason counts, unless only a later one says that the answer is cut off.
            if not reason or (piece.reason and successes.get(reason) == "complete" != successes.get(piece.reason)):
                reason = piece.reason or reason
        if piece.done:
            stream.end = "complete"
            break
    if reason:
        unknown = "provider_overloaded" if failed else "provider_stopped"
        stream.end = KNOWN[stream.api].get(reason, unknown)
    stream.end = stream.end or "provider_incomplete"


class Body(httpx2.AsyncByteStream):
    """The body of a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._stream.chunks:
            yield chunk
        if self._stream.breaks:
            raise httpx2.ReadError("cut off")


async def read(stream: Stream) -> tuple[str, str, str]:
    """Return the text, the reasoning and the end that a provider makes of a stream."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=Body(stream)))
    client = httpx2.AsyncClient(transport=transport)
    provider: Any
    if stream.api == "openai":
        provider = openai.ChatCompletions(
            openai_sdk.AsyncOpenAI(api_key="k", base_url="http://p", http_client=client, max_retries=0),
            Target("openai", "m"),
        )
    else:
        provider = anthropic.Messages(
            anthropic_sdk.AsyncAnthropic(api_key="k", base_url="http://p", http_client=client, max_retries=0),
            Target("anthropic", "m"),
        )
    found = {Text: "", Reasoning: ""}
    end = "none"
    try:
        async with asyncio.timeout(TIMEOUT_S), aclosing(provider(REQUEST)) as events:
            async for each in events:
                if isinstance(each, Finish):
                    end = each.reason
                else:
                    found[type(each)] += each.text
    except ProviderError as error:
        end = error.code
    except TimeoutError:
        end = "hang"
    return found[Text], found[Reasoning], end


async def problem(seed: int) -> str | None:
    """Return how a stream was read wrong; None if it was read right."""
    stream = make(random.Random(seed))
    text, reasoning, end = await read(stream)
    got, wanted = (text, reasoning, end), (stream.text, stream.reasoning, stream.end)
    if got == wanted:
        return None
    return (
        f"seed {seed} ({stream.api}, {', '.join(stream.notes)}): {got} instead of {wanted}\n{b''.join(stream.chunks)!r}"
    )


async def run(seeds: range) -> list[str]:
    """Return the problems of the streams with these seeds."""
    with mock.patch.object(exchange, "ENDED_TIMEOUT_S", 0.05):
        return [found for seed in seeds if (found := await problem(seed)) is not None]


def main() -> int:
    """Read the streams and print each problem; return 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m tests.provider_fuzz", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = asyncio.run(run(range(options.seed, options.seed + options.streams)))
    print("\n".join(found[:10]))
    print(f"{options.streams} streams from seed {options.seed}, {len(found)} read wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
