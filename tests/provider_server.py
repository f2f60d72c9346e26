"""Fake provider: the streaming APIs of OpenAI and Anthropic on a real socket, controlled by scenarios.

    with ProviderServer(Scenario(pieces=("Hel", "lo"), delay=0.1)) as server:
        os.environ["OPENAI_BASE_URL"] = f"{server.url}/v1"
        ...
        await server.until(lambda: server.calls)

`python -m tests.provider_server --port 9000` starts it from the command line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")
Reason: TypeAlias = Literal["complete", "length", "refused", "filtered", "tool_calls"]
Ending: TypeAlias = Literal[
    "finish",  # normal end
    "unannounced",  # closes without the terminal event, after the finish reason
    "unfinished",  # closes without finish reason and terminal event
    "lingering",  # ends normally but keeps the body open
    "cut",  # closes the socket in the middle of the body
    "error",  # an error event in a response with status 200
    "malformed",  # an event that is not JSON
    "silence",  # sends nothing more and stays open
    "pings",  # sends only keep-alives and stays open
]


@dataclass(frozen=True)
class Scenario:
    """Behaviour for a call: reject it if configured, else send the pieces, then end.

    `pieces` are the deltas of the answer, one event each; halves of a surrogate pair need `escape`. `delay` is the
    pause in seconds before each piece. `usage` uses the names of `workers.providers.Finish.usage`.
    """

    pieces: tuple[str, ...] = ("Hello", ", ", "world", "!")
    reasoning: tuple[str, ...] = ()
    delay: float = 0.0
    wait: float = 0.0
    """Seconds before the first byte of the response, headers included."""
    finish: threading.Event | None = None
    """If set, the last piece waits for this event."""
    reason: Reason = "complete"
    ending: Ending = "finish"
    usage: Mapping[str, int] = field(
        default_factory=lambda: {"input_tokens": 7, "output_tokens": 4, "cached_tokens": 2}
    )

    status: int = 200
    """Reply with this status instead of a stream, with `headers` and the provider's error body."""
    times: int | None = None
    """Number of calls with the same last message that get `status`; later ones get the stream. None: all calls."""
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = "overloaded_error"
    """Error type in the body of a rejection and in error events."""

    escape: bool = False
    r"""Encode JSON as ASCII: 😀 as \ud83d\ude00."""
    every_byte: bool = False
    """Send each byte of the body in a separate write and chunk."""
    newline: str = "\n"
    """Line separator."""


@dataclass
class Call:
    """A received call."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    """Headers without those that contain the API key."""
    client_port: int
    """Calls with the same port use the same connection."""
    sent: int = 0
    """Number of written pieces."""
    finished: bool = False
    """The scenario was completed."""
    disconnected: bool = False
    """The caller disconnected before the end."""

    @property
    def prompt(self) -> str:
        """Return the text of the last message."""
        return prompt_of(self.body)


class ProviderServer:
    """The server, in a separate thread while the context is open; `.url` is its URL without a path.

    `scenario` and `scenarios` (by the text of the last message; they take precedence) may be changed at any time and
    apply to later calls. `script` has the highest precedence; it returns the scenario of a call or None, and runs in
    the thread of the server. `calls` contains every call in order of arrival, including rejected ones.
    """

    def __init__(
        self,
        scenario: Scenario | None = None,
        scenarios: Mapping[str, Scenario] | None = None,
        *,
        script: Callable[[Call], Scenario | None] | None = None,
        port: int = 0,
    ) -> None:
        self.script = script
        self.scenario = scenario or Scenario()
        self.scenarios = dict(scenarios or {})
        self.calls: list[Call] = []
        self._rejections: Counter[str] = Counter()
        self._closing = asyncio.Event()
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        routes = [
            Route("/v1/chat/completions", partial(self._reply, OpenAIFormat()), methods=["POST"]),
            Route("/v1/messages", partial(self._reply, AnthropicFormat()), methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, access_log=False, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="provider-server", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> ProviderServer:
        self._thread.start()
        within(10.0, lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        # A silent call would block the shutdown of the server.
        self._loop.call_soon_threadsafe(self._closing.set)
        self._server.should_exit = True
        self._thread.join(10.0)
        self._socket.close()
        assert not self._thread.is_alive(), "the provider server did not stop"

    def reset(self, scenario: Scenario | None = None) -> None:
        """Reset calls and scenarios to the initial state, with `scenario`."""
        self.scenario = scenario or Scenario()
        self.scenarios = {}
        self.calls = []
        self._rejections.clear()

    async def until(self, condition: Callable[[], T], seconds: float = 5.0) -> T:
        """Wait until `condition` returns a true value and return it; AssertionError after `seconds`. Safe to cancel."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"condition not met within {seconds} s; calls: {self.calls}"
            await asyncio.sleep(0.002)
        return value

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())

    async def _reply(self, wire: Format, request: Request) -> Response:
        body: dict[str, Any] = await request.json()
        headers = {name: value for name, value in request.headers.items() if name not in SECRET_HEADERS}
        assert request.client is not None
        call = Call(request.url.path, body, headers, request.client.port)
        self.calls.append(call)
        if len(headers) == len(request.headers):
            call.finished = True
            return JSONResponse(wire.error("authentication_error"), 401)
        scripted = self.script(call) if self.script is not None else None
        scenario = scripted or self.scenarios.get(call.prompt, self.scenario)
        if scenario.status != 200 and (scenario.times is None or self._rejections[call.prompt] < scenario.times):
            self._rejections[call.prompt] += 1
            call.finished = True
            return JSONResponse(wire.error(scenario.error), scenario.status, headers=dict(scenario.headers))
        return Streamed(wire, scenario, call, self._closing)


SECRET_HEADERS = frozenset({"authorization", "x-api-key"})
PROVIDER_WORDS = "Incorrect key sk-live-1234 for the prompt: tell me a secret"
"""Text of every error body; the product must never forward it."""


class Streamed(Response):
    """A streaming response that follows a scenario and detects the disconnect of the caller."""

    def __init__(self, wire: Format, scenario: Scenario, call: Call, closing: asyncio.Event) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._wire, self._scenario, self._call, self._closing = wire, scenario, call, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The request body has been read, so the next message is the disconnect.
        disconnected = asyncio.ensure_future(receive())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            if not await first({disconnected, closing}, self._scenario.wait):
                await self._stream({disconnected, closing}, send)
            self._call.disconnected = disconnected.done()
            self._call.finished = not disconnected.done() and not closing.done()
            # An incomplete response makes uvicorn close the socket in the middle of the body.
            if self._call.finished and self._scenario.ending != "cut":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            disconnected.cancel()
            closing.cancel()

    async def _stream(self, over: set[asyncio.Future[Any]], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for piece, text in self._script(over):
            data = text.replace(b"\n", self._scenario.newline.encode())
            for part in (data[i : i + 1] for i in range(len(data))) if self._scenario.every_byte else (data,):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            self._call.sent += piece

    async def _script(self, over: set[asyncio.Future[Any]]) -> AsyncIterator[tuple[bool, bytes]]:
        """Yield each write and whether it is a piece of the answer, until the end or until one of `over` is done."""
        scenario, wire, call = self._scenario, self._wire, self._call
        write = partial(wire.event, escape=scenario.escape)
        for event in wire.opening(call, scenario):
            yield False, write(event)
        for event in wire.text(call, scenario):
            # Also with a delay of 0: this detects a disconnect.
            if await first(over, scenario.delay):
                return
            while scenario.finish and not scenario.finish.is_set() and call.sent == len(scenario.pieces) - 1:
                if await first(over, 0.01):
                    return
            yield True, write(event)
        match scenario.ending:
            case "finish" | "lingering" | "unannounced":
                for event in wire.closing(call, scenario):
                    yield False, write(event)
                if scenario.ending != "unannounced":
                    yield False, wire.terminal()
                if scenario.ending == "lingering":
                    await first(over, None)
            case "error":
                yield False, write(wire.error(scenario.error))
            case "malformed":
                yield False, b'event: content_block_delta\ndata: {"choices": [{"delta"\n\n'
            case "silence":
                await first(over, None)
            case "pings":
                while not await first(over, 0.01):
                    yield False, wire.ping()


Object: TypeAlias = dict[str, Any]


class OpenAIFormat:
    """Chat Completions: unnamed events with one JSON object each, then `[DONE]`."""

    reasons: Mapping[Reason, str] = {
        "complete": "stop",
        "length": "length",
        "refused": "stop",
        "filtered": "content_filter",
        "tool_calls": "tool_calls",
    }

    def event(self, event: Object, *, escape: bool) -> bytes:
        return f"data: {compact_json(event, escape)}\n\n".encode()

    def terminal(self) -> bytes:
        return b"data: [DONE]\n\n"

    def ping(self) -> bytes:
        return b": keep-alive\n\n"

    def error(self, kind: str) -> Object:
        return {"error": {"message": PROVIDER_WORDS, "type": kind, "param": None, "code": kind}}

    def opening(self, call: Call, scenario: Scenario) -> Iterator[Object]:
        yield self._chunk(call, {"role": "assistant", "content": "", "refusal": None})
        # OpenAI-compatible servers use either name.
        for number, piece in enumerate(scenario.reasoning):
            yield self._chunk(call, {"reasoning" if number % 2 else "reasoning_content": piece})

    def text(self, call: Call, scenario: Scenario) -> Iterator[Object]:
        for piece in scenario.pieces:
            yield self._chunk(call, {"refusal" if scenario.reason == "refused" else "content": piece})

    def closing(self, call: Call, scenario: Scenario) -> Iterator[Object]:
        if scenario.reason == "tool_calls":
            function = {"name": "look_up", "arguments": '{"what": "weather"}'}
            tool = {"index": 0, "id": "call_1", "type": "function", "function": function}
            yield self._chunk(call, {"tool_calls": [tool]})
        yield self._chunk(call, {}, self.reasons[scenario.reason])
        if call.body.get("stream_options", {}).get("include_usage"):
            usage = scenario.usage
            counts = {
                "prompt_tokens": usage.get("input_tokens", 0),
                "completion_tokens": usage.get("output_tokens", 0),
                "total_tokens": usage.get("input_tokens", 0) + usage.get("output_tokens", 0),
                "prompt_tokens_details": {"cached_tokens": usage.get("cached_tokens"), "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": usage.get("reasoning_tokens"), "audio_tokens": 0},
            }
            yield self._chunk(call, None) | {"usage": counts}

    def _chunk(self, call: Call, delta: Object | None, reason: str | None = None) -> Object:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 1_760_000_000,
            "model": call.body["model"],
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
            "choices": [] if delta is None else [choice],
            "usage": None,
            "obfuscation": "wJ3x",
        }


class AnthropicFormat:
    """Messages: named events around content blocks, with pings between them."""

    reasons: Mapping[Reason, str] = {
        "complete": "end_turn",
        "length": "max_tokens",
        "refused": "refusal",
        "filtered": "refusal",
        "tool_calls": "tool_use",
    }

    def event(self, event: Object, *, escape: bool) -> bytes:
        return f"event: {event['type']}\ndata: {compact_json(event, escape)}\n\n".encode()

    def terminal(self) -> bytes:
        return self.event({"type": "message_stop"}, escape=False)

    def ping(self) -> bytes:
        return self.event({"type": "ping"}, escape=False)

    def error(self, kind: str) -> Object:
        return {"type": "error", "error": {"type": kind, "message": PROVIDER_WORDS}, "request_id": "req_fake"}

    def opening(self, call: Call, scenario: Scenario) -> Iterator[Object]:
        cached = scenario.usage.get("cached_tokens", 0)
        usage = {
            "input_tokens": scenario.usage.get("input_tokens", 0) - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": 1,
        }
        message = {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": call.body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}
        if scenario.reasoning:
            block = {"type": "thinking", "thinking": "", "signature": ""}
            yield {"type": "content_block_start", "index": 0, "content_block": block}
            for piece in scenario.reasoning:
                yield self._delta({"type": "thinking_delta", "thinking": piece}, 0)
            yield self._delta({"type": "signature_delta", "signature": "EqQBCgIYAhIM"}, 0)
            yield {"type": "content_block_stop", "index": 0}
        block = {"type": "text", "text": ""}
        yield {"type": "content_block_start", "index": len(scenario.reasoning[:1]), "content_block": block}

    def text(self, call: Call, scenario: Scenario) -> Iterator[Object]:
        for piece in scenario.pieces:
            yield self._delta({"type": "text_delta", "text": piece}, len(scenario.reasoning[:1]))

    def closing(self, call: Call, scenario: Scenario) -> Iterator[Object]:
        last = len(scenario.reasoning[:1])
        yield {"type": "content_block_stop", "index": last}
        if scenario.reason == "tool_calls":
            tool = {"type": "tool_use", "id": "toolu_fake", "name": "look_up", "input": {}}
            yield {"type": "content_block_start", "index": last + 1, "content_block": tool}
            yield self._delta({"type": "input_json_delta", "partial_json": '{"what": "weather"}'}, last + 1)
            yield {"type": "content_block_stop", "index": last + 1}
        usage: Object = {"output_tokens": scenario.usage.get("output_tokens", 0)}
        if "reasoning_tokens" in scenario.usage:
            usage["output_tokens_details"] = {"thinking_tokens": scenario.usage["reasoning_tokens"]}
        delta = {"stop_reason": self.reasons[scenario.reason], "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": usage}

    def _delta(self, delta: Object, index: int) -> Object:
        return {"type": "content_block_delta", "index": index, "delta": delta}


Format: TypeAlias = OpenAIFormat | AnthropicFormat


async def first(over: set[asyncio.Future[Any]], seconds: float | None) -> bool:
    """Wait at most `seconds` until one of `over` is done; return whether one is. Safe to cancel."""
    done, _ = await asyncio.wait(over, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


def compact_json(value: Object, escape: bool) -> str:
    """Return JSON in the format of the providers, on one line."""
    return json.dumps(value, ensure_ascii=escape, separators=(",", ":"))


def prompt_of(body: Mapping[str, Any]) -> str:
    """Return the text of the last message. Both APIs accept a string or a list of parts."""
    messages = body.get("messages") or [{"content": ""}]
    content = messages[-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def within(seconds: float, condition: Callable[[], object]) -> None:
    """Block until `condition` returns a true value; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.provider_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port; 0 selects a free one")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before each piece")
    parser.add_argument("--pieces", type=int, default=50, help="number of pieces of the answer")
    options = parser.parse_args()
    pieces = tuple(f"word{number} " for number in range(options.pieces))
    with ProviderServer(Scenario(pieces=pieces, delay=options.delay), port=options.port) as server:
        print(server.url, flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
