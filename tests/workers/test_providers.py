"""Both providers with their real SDKs, against a server that implements their APIs on a real socket."""

from __future__ import annotations

import asyncio
import email.utils
import importlib
import json
import socket
import ssl
import time
import traceback
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anthropic as anthropic_sdk
import anyio
import httpx2
import openai as openai_sdk
import pytest

from gateway.streams.targets import Target
from tests.provider_server import PROVIDER_WORDS, ProviderServer, Scenario
from workers.providers import (
    Event,
    Finish,
    Message,
    Pace,
    ProviderError,
    Reasoning,
    Request,
    Text,
    anthropic,
    no_pause,
    openai,
)
from workers.providers import connect as connect_by_name
from workers.providers.exchange import PLACEHOLDER_KEY, retry_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

Connected: TypeAlias = openai.ChatCompletions | anthropic.Messages

KEY = "sk-test-0123456789"
MESSAGES: list[Message] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Why is the sky blue?"},
]
REQUEST = Request("model-1", MESSAGES)


@pytest.fixture(scope="module")
def running() -> Iterator[ProviderServer]:
    with ProviderServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    # Loading the machine's certificates takes longer than a test, and no test uses TLS. From a directory OpenSSL
    # loads certificates only when it needs them.
    monkeypatch.setenv("SSL_CERT_DIR", "/")


@pytest.fixture
def server(running: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> ProviderServer:
    """The server without recorded calls, and the environment of both SDKs."""
    running.reset()
    monkeypatch.setenv("OPENAI_BASE_URL", f"{running.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", running.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    return running


@pytest.fixture(params=["openai", "anthropic"])
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
async def provider(server: ProviderServer, name: str) -> AsyncIterator[Connected]:
    connected: Connected = importlib.import_module(f"workers.providers.{name}").connect("model-1")
    yield connected
    await connected.aclose()


async def everything(provider: Connected, request: Request = REQUEST) -> list[Event]:
    async with aclosing(provider(request)) as events:
        return [event async for event in events]


async def up_to_failure(provider: Connected) -> tuple[list[Event], ProviderError]:
    seen: list[Event] = []
    try:
        async with aclosing(provider(REQUEST)) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - what came before the failure must be kept
    except ProviderError as failure:
        if leaked := leaks(failure):
            pytest.fail(f"leaked {leaked}")
        return seen, failure
    pytest.fail(f"no failure after {seen}")


def leaks(failure: ProviderError) -> list[str]:
    """Return the secrets that a log of this failure, with its traceback, would contain."""
    logged = failure.message + "".join(traceback.format_exception(failure))
    return [secret for secret in (PROVIDER_WORDS, "sk-live", KEY, "secret", "Why is the sky") if secret in logged]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


async def test_answer_has_text_usage_and_one_call(server: ProviderServer, provider: Connected) -> None:
    events = await everything(provider)
    assert text_of(events) == "".join(server.scenario.pieces)
    assert events[-1] == Finish("complete", {"input_tokens": 7, "output_tokens": 4, "cached_tokens": 2})
    assert len(server.calls) == 1
    assert server.calls[0].finished
    assert server.calls[0].sent == len(server.scenario.pieces)


async def test_request_to_openai(server: ProviderServer) -> None:
    provider = openai.connect("model-1")
    await everything(provider)
    await everything(provider, Request("model-1", MESSAGES, instructions="Be brief", max_tokens=9))
    await provider.aclose()
    plain, full = (call.body for call in server.calls)
    assert plain == {
        "model": "model-1",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert full == plain | {
        "messages": [{"role": "system", "content": "Be brief"}, *MESSAGES],
        "max_tokens": 9,
    }


async def test_request_to_anthropic(server: ProviderServer) -> None:
    provider = anthropic.connect("model-1")
    stopped_early: Message = {"role": "assistant", "content": ""}
    await everything(provider, Request("model-1", [MESSAGES[0], stopped_early, *MESSAGES]))
    await everything(provider, Request("model-1", MESSAGES, instructions="Be brief", max_tokens=9))
    await provider.aclose()
    plain, full = (call.body for call in server.calls)
    assert plain == {
        "model": "model-1",
        "messages": [MESSAGES[0], *MESSAGES],
        "max_tokens": anthropic.DEFAULT_MAX_TOKENS,
        "stream": True,
    }
    assert full == plain | {"messages": MESSAGES, "system": "Be brief", "max_tokens": 9}


PIECES = {
    "latin": ("Grü", "ße", ", ça va"),
    "three bytes": ("日本", "語", "한국어"),
    "four bytes": ("😀", "👩‍👩‍👧", "𝒳"),
    "controls": ('"\\', "\n\r\t", "\x00\x7f\u2028\u2029\x85", "data: [DONE]\n\n"),
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
async def test_body_may_be_split_at_every_byte(
    server: ProviderServer, provider: Connected, pieces: tuple[str, ...]
) -> None:
    for newline, escape in (("\n", False), ("\n", True), ("\r\n", True), ("\r", False)):
        server.scenario = Scenario(pieces=pieces, escape=escape, every_byte=True, newline=newline)
        events = await everything(provider)
        assert text_of(events) == "".join(pieces), (newline, escape)
        assert isinstance(events[-1], Finish)


class Gate:
    """A pace that a test opens."""

    def __init__(self) -> None:
        self.waited = 0
        self._open = asyncio.Event()

    async def __call__(self) -> None:
        self.waited += 1
        await self._open.wait()

    def open(self) -> None:
        self._open.set()


async def test_tokens_that_arrive_during_a_pause_are_one_piece(server: ProviderServer, name: str) -> None:
    server.scenario = Scenario(pieces=tuple(f"{number} " for number in range(40)), delay=0.005)
    gate = Gate()
    provider: Connected = importlib.import_module(f"workers.providers.{name}").connect("model-1", gate)
    async with aclosing(provider(REQUEST)) as events:
        pieces = [await anext(events)]
        second = asyncio.ensure_future(anext(events))
        await server.until(lambda: gate.waited)
        await server.until(lambda: server.calls[0].finished)
        assert not second.done()
        gate.open()
        pieces += [await second, *[event async for event in events]]
    await provider.aclose()
    assert text_of(pieces) == "".join(server.scenario.pieces)
    assert [type(piece) for piece in pieces] == [Text, Text, Finish]


class Reads(httpx2.AsyncByteStream):
    """A body that returns the given reads."""

    def __init__(self, *reads: bytes) -> None:
        self._reads = reads

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for read in self._reads:
            yield read


async def test_full_read_is_followed_by_another_without_a_pause(name: str) -> None:
    """After a full read more data is available; after the last event there is no pause."""
    text = json.dumps("x" * 20_000)
    delta = f'data: {{"type": "content_block_delta", "delta": {{"text": {text}}}, '.encode()
    delta += f'"choices": [{{"delta": {{"content": {text}}}}}]}}\n\n'.encode()
    end = b'data: {"choices": [{"finish_reason": "stop"}], "type": "message_stop"}\n\ndata: [DONE]\n\n'
    for reads, pauses in (([delta, delta, end], 0), ([delta[:-100], delta[-100:], end], 1), ([end], 0)):
        gate = Gate()
        gate.open()
        provider = over(name, partial(streamed, reads), pace=gate)
        assert text_of(await everything(provider)) == "x" * 20_000 * (len(reads) - 1 - pauses)
        assert gate.waited == pauses


def streamed(reads: list[bytes], _: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, stream=Reads(*reads))


@pytest.mark.parametrize("every_byte", [False, True])
async def test_surrogate_pair_may_be_split_over_two_deltas(
    server: ProviderServer, provider: Connected, every_byte: bool
) -> None:
    server.scenario = Scenario(pieces=("a\ud83d", "\ude00b", "😀"), escape=True, every_byte=every_byte)
    events = await everything(provider)
    assert text_of(events) == "a\ud83d\ude00b😀"
    assert text_of(events).encode("utf-16", "surrogatepass").decode("utf-16") == "a😀b😀"


async def test_reasoning_is_separate_from_text(server: ProviderServer, provider: Connected) -> None:
    server.scenario = Scenario(
        reasoning=("Let me ", "see."), usage={"input_tokens": 7, "output_tokens": 9, "reasoning_tokens": 5}
    )
    events = await everything(provider)
    assert "".join(event.text for event in events if isinstance(event, Reasoning)) == "Let me see."
    assert text_of(events) == "Hello, world!"
    assert isinstance(events[-1], Finish)
    assert {key: value for key, value in events[-1].usage.items() if value} == server.scenario.usage


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("complete", "complete"), ("length", "length"), ("refused", "refused"), ("tool_calls", "tool_calls")],
)
async def test_finish_reasons_are_mapped(
    server: ProviderServer, provider: Connected, reason: Any, expected: str
) -> None:
    server.scenario = Scenario(reason=reason)
    events = await everything(provider)
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == expected
    assert text_of(events) == "Hello, world!"


async def test_filtered_answer_of_openai(server: ProviderServer) -> None:
    server.scenario = Scenario(reason="filtered")
    provider = openai.connect("model-1")
    events = await everything(provider)
    await provider.aclose()
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == "filtered"


STATUSES = [
    (400, "provider_bad_request", False),
    (401, "provider_refused_key", False),
    (402, "provider_quota", False),
    (403, "provider_refused_key", False),
    (404, "provider_unknown_model", False),
    (408, "provider_bad_request", True),
    (409, "provider_bad_request", True),
    (413, "provider_bad_request", False),
    (422, "provider_bad_request", False),
    (429, "provider_rate_limited", True),
    (500, "provider_error", True),
    (502, "provider_error", True),
    (503, "provider_overloaded", True),
    (504, "provider_error", True),
    (529, "provider_overloaded", True),
]


@pytest.mark.live
async def test_http_statuses_map_to_errors(server: ProviderServer, provider: Connected, name: str) -> None:
    for status, code, retryable in STATUSES:
        server.reset(Scenario(status=status, headers={"Retry-After": "1.5"}, error="whatever"))
        seen, failure = await up_to_failure(provider)
        assert seen == []
        assert (status, failure.code, failure.retryable, failure.retry_after) == (status, code, retryable, 1.5)
        assert failure.__notes__ == [f"HTTP status {status}"]
        # The SDK must not retry: users see the worker's retries, and each retry may cost money.
        # One further call may be without optional parameters, of which Anthropic's plain request has none.
        assert len(server.calls) == (2 if name == "openai" and status in (400, 422) else 1)


async def test_retry_after_of_status_429(server: ProviderServer, provider: Connected) -> None:
    server.scenario = Scenario(status=429, times=2, headers={"Retry-After": "3", "retry-after-ms": "2500"})
    for _ in range(2):
        _, failure = await up_to_failure(provider)
        assert (failure.code, failure.retry_after) == ("provider_rate_limited", 2.5)
    assert text_of(await everything(provider)) == "Hello, world!"
    assert len(server.calls) == 3


async def test_exhausted_quota_is_not_retryable(server: ProviderServer) -> None:
    server.scenario = Scenario(status=429, error="insufficient_quota")
    provider = openai.connect("model-1")
    _, failure = await up_to_failure(provider)
    await provider.aclose()
    assert (failure.code, failure.retryable) == ("provider_quota", False)


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [
        ("overloaded_error", "provider_overloaded", True),
        ("rate_limit_error", "provider_rate_limited", True),
        ("api_error", "provider_error", True),
        ("invalid_request_error", "provider_bad_request", False),
        ("authentication_error", "provider_refused_key", False),
        ("an_error_of_tomorrow", "provider_error", True),
    ],
)
async def test_error_inside_the_stream_is_mapped(
    server: ProviderServer, provider: Connected, kind: str, code: str, retryable: bool
) -> None:
    server.scenario = Scenario(ending="error", error=kind)
    seen, failure = await up_to_failure(provider)
    assert text_of(seen) == "Hello, world!"
    assert (failure.code, failure.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("cut", "provider_incomplete"), ("unfinished", "provider_incomplete"), ("malformed", "provider_malformed")],
)
async def test_broken_stream_keeps_its_text_and_fails(
    server: ProviderServer, provider: Connected, ending: Any, code: str
) -> None:
    server.scenario = Scenario(ending=ending)
    seen, failure = await up_to_failure(provider)
    assert text_of(seen) == "Hello, world!"
    assert not any(isinstance(event, Finish) for event in seen)
    assert (failure.code, failure.retryable) == (code, True)


async def test_close_without_a_terminal_event(server: ProviderServer, provider: Connected) -> None:
    server.scenario = Scenario(ending="unannounced")
    events = await everything(provider)
    assert events[-1] == Finish("complete", server.scenario.usage)


async def test_body_without_an_end_closes_the_connection(server: ProviderServer, provider: Connected) -> None:
    server.scenario = Scenario(ending="lingering")
    events = await everything(provider)
    assert isinstance(events[-1], Finish)
    await server.until(lambda: server.calls[0].disconnected)


async def test_connection_is_reused(server: ProviderServer, provider: Connected) -> None:
    for _ in range(3):
        await everything(provider)
    assert len(server.calls) == 3
    assert len({call.client_port for call in server.calls}) == 1


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(wait=60),
        Scenario(pieces=(), ending="silence"),
        Scenario(ending="silence"),
        Scenario(ending="pings"),
        Scenario(delay=0.01, pieces=("on and on ",) * 1000),
    ],
    ids=["before the headers", "before the first token", "silent", "only pings", "while it writes"],
)
async def test_cancelling_ends_the_call(server: ProviderServer, provider: Connected, scenario: Scenario) -> None:
    server.scenario = scenario
    seen: list[Event] = []

    async def read() -> None:
        async with aclosing(provider(REQUEST)) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - looked at while it grows

    task = asyncio.ensure_future(read())
    wanted = 0 if scenario.wait else min(4, len(scenario.pieces))
    await server.until(lambda: server.calls)
    call = server.calls[0]
    await server.until(lambda: text_of(seen).startswith("".join(scenario.pieces[:wanted])) and call.sent >= wanted)
    assert not task.done()
    assert not call.disconnected
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.until(lambda: call.disconnected)
    assert not call.finished
    assert len(server.calls) == 1


async def test_closing_the_generator_ends_the_call(server: ProviderServer, provider: Connected) -> None:
    server.scenario = Scenario(ending="silence")
    events = provider(REQUEST)
    first = await anext(events)
    assert isinstance(first, Text)
    assert first.text.startswith("Hello")
    await events.aclose()
    await server.until(lambda: server.calls[0].disconnected)


class Watched(httpx2.AsyncByteStream):
    """A body with one event for both APIs, then silence. Records whether it was closed."""

    closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'data: {"type": "content_block_delta", "delta": {"text": "a", "content": "a"}, '
        yield b'"choices": [{"delta": {"content": "a"}}]}\n\n'
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.closed = True


async def test_closing_returns_after_the_call_is_closed(name: str) -> None:
    body = Watched()
    events = over(name, lambda _: httpx2.Response(200, stream=body))(REQUEST)
    assert await anext(events) == Text("a")
    assert not body.closed
    await events.aclose()
    # By garbage collection it would be closed later, and the model would generate in the meantime.
    assert body.closed


async def test_unread_generator_makes_no_call(server: ProviderServer, provider: Connected) -> None:
    await provider(REQUEST).aclose()
    assert server.calls == []


async def test_closed_port_is_unreachable(server: ProviderServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv(f"{name.upper()}_BASE_URL", f"http://127.0.0.1:{port}")
    provider: Connected = importlib.import_module(f"workers.providers.{name}").connect("model-1")
    seen, failure = await up_to_failure(provider)
    await provider.aclose()
    assert seen == []
    assert (failure.code, failure.retryable) == ("provider_unreachable", True)


async def test_private_server_needs_no_key(server: ProviderServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_credentials(monkeypatch)
    provider, model, *_ = connect_by_name(f"{name}/model-1", demo_rate=0)
    assert model == "model-1"
    # The server rejects calls without any key, as the SDKs do.
    assert text_of([event async for event in provider(REQUEST)]) == "Hello, world!"
    await provider.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("address", [None, "", "localhost:11434/v1"])
def test_missing_variables_are_named(name: str, address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    without_credentials(monkeypatch)
    variable = f"{name.upper()}_BASE_URL"
    if address is None:
        monkeypatch.delenv(variable, raising=False)
    else:
        monkeypatch.setenv(variable, address)
    with pytest.raises(ValueError, match=variable) as error:
        connect_by_name(f"{name}/model-1", demo_rate=0)
    assert (f"{name.upper()}_API_KEY" in str(error.value)) is (not address)


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)


Answering: TypeAlias = "Callable[[httpx2.Request], httpx2.Response]"


def over(
    name: str, answer: Answering, address: str | None = None, pace: Pace = no_pause, target: Target | None = None
) -> Connected:
    """Return a provider whose SDK calls a function instead of a socket, for replies that the server cannot send."""
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    if name == "openai":
        return openai.ChatCompletions(
            openai_sdk.AsyncOpenAI(api_key=KEY, base_url=address, http_client=client, max_retries=0),
            target or Target(name, "model-1"),
            pace,
        )
    return anthropic.Messages(
        anthropic_sdk.AsyncAnthropic(api_key=KEY, base_url=address, http_client=client, max_retries=0),
        target or Target(name, "model-1"),
        pace,
    )


@pytest.mark.parametrize(
    ("address", "limit_name"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("http://127.0.0.1:11434/v1", "max_tokens"),
        ("https://openrouter.ai/api/v1", "max_tokens"),
    ],
)
async def test_name_of_the_token_limit_depends_on_the_server(address: str, limit_name: str) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        return httpx2.Response(200, content=b'data: {"choices":[{"finish_reason":"stop"}]}\n\n')

    await everything(over("openai", answer, address), Request("model-1", MESSAGES, max_tokens=9))
    assert {key: value for key, value in bodies[0].items() if key.startswith("max")} == {limit_name: 9}


class Breaking(httpx2.AsyncByteStream):
    """A body that raises, as a broken network does."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b": keep-alive\n\n"
        raise self._error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx2.ReadTimeout("slow"), "provider_timeout"),
        (httpx2.ReadError(PROVIDER_WORDS), "provider_incomplete"),
        (httpx2.RemoteProtocolError(PROVIDER_WORDS), "provider_incomplete"),
        (ssl.SSLError(PROVIDER_WORDS), "provider_incomplete"),
        (anyio.EndOfStream(), "provider_incomplete"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_broken_body_maps_to_an_error(name: str, error: Exception, code: str) -> None:
    _, failure = await up_to_failure(over(name, lambda _: httpx2.Response(200, stream=Breaking(error))))
    assert (failure.code, failure.retryable) == (code, True)


async def test_connect_timeout_is_reported(name: str) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectTimeout(PROVIDER_WORDS)

    _, failure = await up_to_failure(over(name, answer))
    assert (failure.code, failure.retryable) == ("provider_timeout", True)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"data: " + b"x" * 5_000_000, "provider_malformed"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "provider_incomplete"),
        (b'data: {"type": "ping", "choices": [{"delta"\n\n', "provider_malformed"),
        (b'data: {"type": "ping", "choices": 1, "delta": 1}\n\n', "provider_incomplete"),
        (b"data: <html>\n\n", "provider_incomplete"),
        (b"<html>no stream</html>", "provider_error"),
    ],
    ids=["endless", "nested", "incomplete", "another shape", "not json", "html"],
)
async def test_body_that_cannot_be_read_is_reported(name: str, body: bytes, code: str) -> None:
    _, failure = await up_to_failure(over(name, lambda _: httpx2.Response(200, content=body)))
    assert (failure.code, failure.retryable) == (code, True)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": {"message": "x", "code": 429}}', "provider_rate_limited"),
        (b'{"error": {"message": "x", "type": "tokens", "code": "rate_limit_exceeded"}}', "provider_rate_limited"),
        (b'{"error": {"message": "x", "type": "insufficient_quota", "code": null}}', "provider_quota"),
        (b'{"error": {"message": "x", "code": 502}, "choices": [{"finish_reason": "error"}]}', "provider_error"),
        (b'{"error": "out of memory"}', "provider_error"),
        (b'{"error": {}}', "provider_error"),
    ],
)
async def test_errors_of_compatible_servers_are_mapped(body: bytes, code: str) -> None:
    content = b"data: " + body + b"\n\ndata: [DONE]\n\n"
    _, failure = await up_to_failure(over("openai", lambda _: httpx2.Response(200, content=content)))
    assert failure.code == code


async def test_chunks_of_compatible_servers_are_parsed() -> None:
    chunks = [
        '{"choices": [{"delta": {"role": "assistant"}, "finish_reason": ""}]}',
        '{"choices": [{"delta": {"content": null, "reasoning": "hm"}}], "usage": null, "error": null}',
        '{"choices": [{"delta": {"content": "Hi"}}], "x_groq": {"id": "1"}}',
        '{"choices": null}',
        "{}",
        '{"choices": [{"delta": null, "finish_reason": "eos"}], "usage": {"prompt_tokens": 3}}',
    ]
    content = "".join(f": comment\nevent: message\ndata:{chunk}\n\n" for chunk in chunks).encode()
    events = await everything(over("openai", lambda _: httpx2.Response(200, content=content)))
    assert events == [Reasoning("hm"), Text("Hi"), Finish("complete", {"input_tokens": 3})]


async def test_unknown_events_of_anthropic_are_ignored() -> None:
    events = [
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Be"}},
        {"type": "content_block_start", "index": 1},
        {"type": "an_event_of_tomorrow", "delta": {"text": "not for us"}},
        {"type": "content_block_delta", "delta": {"type": "citations_delta", "citation": {}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "gin"}},
        {"type": "message_delta", "delta": {"stop_reason": None}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "too late"}},
    ]
    content = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    seen = await everything(over("anthropic", lambda _: httpx2.Response(200, content=content)))
    assert seen == [Text("Begin"), Finish("complete", {"output_tokens": 3})]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "complete"),
        ("stop_sequence", "complete"),
        ("pause_turn", "complete"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refused"),
        ("tool_use", "tool_calls"),
    ],
)
async def test_stop_reasons_of_anthropic_are_mapped(reason: str, expected: str) -> None:
    delta = json.dumps({"type": "message_delta", "delta": {"stop_reason": reason}})
    content = f'data: {delta}\n\ndata: {{"type": "message_stop"}}\n\n'.encode()
    assert await everything(over("anthropic", lambda _: httpx2.Response(200, content=content))) == [Finish(expected)]  # type: ignore[arg-type]


async def test_input_tokens_of_anthropic_include_its_cache() -> None:
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 200, "cache_read_input_tokens": 3000}
    events = [
        {"type": "message_start", "message": {"usage": usage | {"output_tokens": 1}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 50}},
        {"type": "message_stop"},
    ]
    content = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    assert await everything(over("anthropic", lambda _: httpx2.Response(200, content=content))) == [
        Finish("complete", {"input_tokens": 3210, "output_tokens": 50, "cached_tokens": 3000})
    ]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 99999 07:28:00 GMT"}, None),
    ],
)
def test_retry_after_headers_are_parsed(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_retry_after_may_be_a_date(zone: str) -> None:
    date = email.utils.formatdate(time.time() + 60, usegmt=True).replace("GMT", zone)
    seconds = retry_after({"retry-after": date})
    assert seconds is not None
    assert 55 < seconds <= 60


async def test_fake_server_is_understood_by_the_sdks(server: ProviderServer) -> None:
    """The parsers of both SDKs must read the same content."""
    server.scenario = Scenario(reasoning=("hm",), pieces=("é", "😀"), reason="tool_calls")
    async with openai_sdk.AsyncOpenAI() as one:
        stream = await one.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "é😀"
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["tool_calls"]
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 4)

    async with (
        anthropic_sdk.AsyncAnthropic() as other,
        other.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]) as messages,
    ):
        final = await messages.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    assert [block.text for block in final.content if block.type == "text"] == ["é😀"]
    assert final.stop_reason == "tool_use"
    assert (final.usage.input_tokens, final.usage.cache_read_input_tokens, final.usage.output_tokens) == (5, 2, 4)


async def test_fake_server_rejects_calls_without_a_key(server: ProviderServer) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{server.url}/v1/messages", json={"messages": []})
    assert answer.status_code == 401
    assert server.calls[0].prompt == ""


async def test_fake_server_chooses_by_prompt_and_stores_no_key(server: ProviderServer, provider: Connected) -> None:
    server.scenarios["Why is the sky blue?"] = Scenario(pieces=("Because.",))
    assert text_of(await everything(provider)) == "Because."
    assert text_of(await everything(provider, Request("m", [{"role": "user", "content": "Hm?"}]))) == "Hello, world!"
    assert [call.prompt for call in server.calls] == ["Why is the sky blue?", "Hm?"]
    assert KEY not in str(server.calls)
    assert PLACEHOLDER_KEY != KEY
