"""What providers and compatible servers send, read with the real SDKs from a real socket.

Each kind has the report that it was found by and variations of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pytest

from gateway.streams.targets import Target
from tests.raw_provider import Ending, RawProvider, Reply
from workers.providers import Event, Finish, ProviderError, Reasoning, Request, Text, anthropic, exchange, openai

if TYPE_CHECKING:
    from collections.abc import Callable

Body: TypeAlias = tuple[bytes | str, ...]
REQUEST = Request("m", [{"role": "user", "content": "Hello?"}])
DONE = "data: [DONE]\n\n"


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    # Loading the machine's certificates takes longer than a test, and no test uses TLS.
    monkeypatch.setenv("SSL_CERT_DIR", "/")


class Answer(NamedTuple):
    """What a worker gets of one call."""

    text: str
    reasoning: str
    end: str
    """The reason of the Finish, or the code of the failure."""
    usage: dict[str, int]
    detail: str = ""
    retryable: bool = False


async def ask(server: RawProvider, api: str = "openai", request: Request = REQUEST, **target: Any) -> Answer:
    """Make one call of a target."""
    connect: Any = openai.connect if api == "openai" else anthropic.connect
    path = "/v1" if api == "openai" else ""
    provider = connect(Target(api, "m", base_url=f"{server.url}{path}", **target))
    try:
        return await answer_of(provider, request)
    finally:
        await provider.aclose()


async def answer_of(provider: Any, request: Request = REQUEST) -> Answer:
    events: list[Event] = []
    end, usage, detail, retryable = "none", {}, "", False
    try:
        async with asyncio.timeout(10), aclosing(provider(request)) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - what came before a failure is kept
    except ProviderError as error:
        end, usage, detail, retryable = error.code, dict(error.usage), error.detail, error.retryable
    text = "".join(event.text for event in events if isinstance(event, Text))
    reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
    if events and isinstance(events[-1], Finish):
        end, usage = events[-1].reason, dict(events[-1].usage)
    return Answer(text, reasoning, end, usage, detail, retryable)


async def answered(body: Body, api: str = "openai", ending: Ending = "close", **reply: Any) -> Answer:
    """Return what a worker gets of one answer."""
    async with RawProvider(Reply(body, ending, **reply)) as server:
        return await ask(server, api)


def chunk(delta: Any = None, reason: Any = None, **fields: Any) -> str:
    """Return an event of Chat Completions."""
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}], **fields})}\n\n"


def event(kind: str, **fields: Any) -> str:
    """Return an event of Messages."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"


def delta(**fields: Any) -> str:
    return event("content_block_delta", index=0, delta=fields)


def text(value: Any) -> str:
    return chunk({"content": value})


STOP = chunk({}, "stop")
ONE, TWO = text("One"), text(" two")
ANTHROPIC_ONE, ANTHROPIC_TWO = delta(type="text_delta", text="One"), delta(type="text_delta", text=" two")
END_TURN = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 5})
MESSAGE_STOP = event("message_stop")

FILLERS = {
    "empty data": "data:\n\n",
    "empty data with a space": "data: \n\n",
    "several empty lines": "data\ndata:\n\n",
    "comment": ": OPENROUTER PROCESSING\n\n",
    "null": "data: null\n\n",
    "word": "data: ping\n\n",
    "number": "data: 1\n\n",
    "empty list": "data: []\n\n",
    "empty object": "data: {}\n\n",
    "object without meaning": 'data: {"type": "ping", "choices": [], "usage": null, "error": null}\n\n',
    "null choices": 'data: {"choices": [null], "delta": null}\n\n',
    "named": "event: heartbeat\ndata: 2026\n\n",
    "other fields": "id: 1\nretry: 3000\n\n",
}


@pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS)
async def test_filler_is_skipped(filler: str) -> None:
    found = await answered((filler, ONE, filler, TWO, filler, STOP, filler, DONE))
    assert found[:3] == ("One two", "", "complete")
    found = await answered(
        (filler, ANTHROPIC_ONE, filler, ANTHROPIC_TWO, filler, END_TURN, filler, MESSAGE_STOP), "anthropic"
    )
    assert found[:3] == ("One two", "", "complete")


SHAPES: dict[str, tuple[Any, str, str]] = {
    "parts": ({"content": [{"type": "text", "text": "Four"}]}, "Four", ""),
    "thinking part": (
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                {"type": "text", "text": "Four"},
            ]
        },
        "Four",
        "Hm.",
    ),
    "object": ({"content": {"type": "text", "text": {"value": "Four"}}}, "Four", ""),
    "strings": ({"content": ["Fo", "ur"]}, "Four", ""),
    "unknown part": ({"content": [{"type": "image_url", "image_url": {"url": "x"}}, "Four"]}, "Four", ""),
    "delta is text": ("Four", "Four", ""),
    "reasoning_content": ({"reasoning_content": "Hm.", "content": "Four"}, "Four", "Hm."),
    "reasoning": ({"reasoning": "Hm.", "content": None}, "", "Hm."),
    "reasoning_text": ({"reasoning_text": "Hm."}, "", "Hm."),
    "reasoning_details": ({"reasoning_details": [{"type": "reasoning.text", "text": "Hm."}], "content": ""}, "", "Hm."),
    "same reasoning twice": ({"reasoning": "Hm.", "reasoning_details": [{"text": "Hm."}]}, "", "Hm."),
    "reasoning as an object": ({"reasoning_content": {"signature": "c2ln"}, "content": "Four"}, "Four", ""),
    "reasoning in a list": ({"reasoning": [{"text": "Hm."}]}, "", "Hm."),
    "thinking": ({"thinking": {"content": "Hm."}}, "", "Hm."),
    "thoughts": ({"thoughts": ["H", "m."]}, "", "Hm."),
    "tool calls are null": ({"content": "Four", "tool_calls": None, "audio": None}, "Four", ""),
    "tool calls of another shape": ({"content": "Four", "tool_calls": "none"}, "Four", ""),
}


@pytest.mark.parametrize(("delta_", "words", "reasoning"), SHAPES.values(), ids=SHAPES)
async def test_text_in_any_shape_is_shown(delta_: Any, words: str, reasoning: str) -> None:
    found = await answered((ONE, chunk(delta_), STOP, DONE))
    assert found[:3] == (f"One{words}", reasoning, "complete")


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"role": "assistant", "content": "One two"}, "finish_reason": "stop"},
        {"text": "One two", "finish_reason": "stop"},
        {"delta": {"content": "One two", "finish_reason": "stop"}},
        {"delta": {"content": "One two"}, "finish_reason": {"type": "stop"}},
        {"delta": {"content": "One two"}, "message": {"content": "One two"}, "finish_reason": "stop"},
    ],
)
async def test_text_beside_the_delta_is_shown_once(choice: Any) -> None:
    assert (await answered((f"data: {json.dumps({'choices': [choice]})}\n\n",)))[:3] == ("One two", "", "complete")
    assert (await answered((f"data: {json.dumps({'choices': choice})}\n\n",)))[:3] == ("One two", "", "complete")


async def test_message_that_grows_is_shown_once() -> None:
    def grown(words: str, reason: str | None = None) -> str:
        return f"data: {json.dumps({'choices': [{'message': {'content': words}, 'finish_reason': reason}]})}\n\n"

    assert (await answered((grown("One"), grown("One two"), grown("One two", "stop"))))[0] == "One two"
    assert (await answered((grown("One"), grown(" two"), grown("", "stop"))))[0] == "One two"
    # Beside deltas, the message contains all of their text.
    last = {"delta": {"content": ""}, "message": {"content": "One two"}, "finish_reason": "stop"}
    whole = f"data: {json.dumps({'choices': [last]})}\n\n"
    assert (await answered((ONE, TWO, whole)))[0] == "One two"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
async def test_events_without_an_empty_line_are_read(newline: str) -> None:
    body = f"{ONE.strip()}\n{TWO.strip()}\n{STOP.strip()}\n\n".replace("\n", newline)
    assert (await answered((body,)))[:3] == ("One two", "", "complete")


USAGES: list[tuple[Any, dict[str, int]]] = [
    ({"usage": {"prompt_tokens": "3", "completion_tokens": 5.0}}, {"input_tokens": 3, "output_tokens": 5}),
    ({"usage": {"prompt_tokens": None, "completion_tokens": -1, "total_tokens": {}}}, {}),
    ({"usage": "none"}, {}),
    ({"usage": []}, {}),
    ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": [], "x": 2**70}}, {"input_tokens": 3}),
    ({"usage": {"prompt_tokens": 2**70}}, {}),
    ({"x_groq": {"usage": {"prompt_tokens": 3}}}, {"input_tokens": 3}),
    ({"choices": [{"delta": {}, "usage": {"prompt_tokens": 3}}]}, {"input_tokens": 3}),
]


@pytest.mark.parametrize(("fields", "usage"), USAGES)
async def test_usage_in_any_shape_is_counted(fields: Any, usage: dict[str, int]) -> None:
    for body in (
        (ONE, f"data: {json.dumps(fields)}\n\n", STOP, DONE),
        (ONE, STOP, f"data: {json.dumps(fields)}\n\n", DONE),
    ):
        assert await answered(body) == ("One", "", "complete", usage, "", False)


@pytest.mark.parametrize("bad", [b"caf\xc3", b"\xff\xfe", b"\xf0\x9f\x98", b"\xed\xa0\x80"])
async def test_half_a_character_is_replaced(bad: bytes) -> None:
    body: Body = (b'data: {"choices": [{"delta": {"content": "' + bad + b'"}}]}\n\n', TWO, STOP)
    found = await answered(body)
    assert (found.text, found.end) == (f"{bad.decode('utf-8', 'replace')} two", "complete")
    body = (b'data: {"type": "content_block_delta", "delta": {"text": "' + bad + b'"}}\n\n', END_TURN)
    assert (await answered(body, "anthropic")).text == bad.decode("utf-8", "replace")


@pytest.mark.parametrize("tag", ["think", "thinking", "thought", "reasoning", "THINK"])
@pytest.mark.parametrize("size", [1, 3, 100])
async def test_reasoning_between_tags_is_separated(tag: str, size: int) -> None:
    words = f"<{tag}>Two and two.</{tag}>\n\nFour. Not <think>this</think>."
    body = tuple(text(words[start : start + size]) for start in range(0, len(words), size))
    found = await answered((*body, STOP, DONE))
    assert found[:3] == ("Four. Not <think>this</think>.", "Two and two.", "complete")


@pytest.mark.parametrize("words", ["<thin", "<", "<table>", "`<think>`", "a <think>b</think>"])
async def test_text_that_is_no_tag_stays_text(words: str) -> None:
    assert (await answered((text(words), STOP, DONE)))[:3] == (words, "", "complete")
    failed = await answered((text(words),))
    assert failed[:3] == (words, "", "provider_incomplete")


REASONS = [
    ("insufficient_system_resource", "provider_stopped", "insufficient_system_resource"),
    ("error", "provider_stopped", "error"),
    ("abort", "provider_stopped", "abort"),
    (
        "function_call_filter: MALFORMED_FUNCTION_CALL",
        "provider_stopped",
        "function_call_filter:_MALFORMED_FUNCTION_CALL",
    ),
    ("<script>alert(1)</script>" + "x" * 100, "provider_stopped", ("script_alert_1_script_" + "x" * 100)[:64]),
    (7, "provider_stopped", "7"),
    ("model_length", "length", ""),
    ("MAX_TOKENS", "length", ""),
    ("content_filter: SAFETY", "filtered", ""),
    ("SAFETY", "filtered", ""),
    ("STOP", "complete", ""),
    ("eos_token", "complete", ""),
    ("end_turn", "complete", ""),
]


@pytest.mark.parametrize(("reason", "end", "detail"), REASONS)
async def test_only_a_known_reason_is_a_success(reason: Any, end: str, detail: str) -> None:
    found = await answered((ONE, chunk({}, reason), DONE))
    assert (found.text, found.end) == ("One", end)
    assert found.detail[:63] == detail[:63]
    assert found.retryable is (end == "provider_stopped")
    stopped = event("message_delta", delta={"stop_reason": reason})
    assert (await answered((ANTHROPIC_ONE, stopped, MESSAGE_STOP), "anthropic"))[2] == end


async def test_error_explains_an_unknown_reason() -> None:
    error = 'data: {"error": {"code": 429}}\n\n'
    assert (await answered((ONE, chunk({}, "error"), error))).end == "provider_rate_limited"
    assert (await answered((ONE, STOP, error))).end == "complete"
    assert (await answered((ONE, f"event: error\n{error}", STOP))).end == "provider_rate_limited"


@pytest.mark.parametrize(
    "done",
    [
        DONE,
        "data: [DONE] \n\n",
        "data:[DONE]\n\n",
        "data: [done]\n\n",
        'data: "[DONE]"\n\n',
        "data: data: [DONE]\n\n",
        'data: {"done": true}\n\n',
        "data: [DONE]",
    ],
)
async def test_terminal_marker_without_a_reason_is_an_end(done: str) -> None:
    assert (await answered((ONE, TWO, done)))[:3] == ("One two", "", "complete")
    assert (await answered((ANTHROPIC_ONE, ANTHROPIC_TWO, done), "anthropic"))[:3] == ("One two", "", "complete")


@pytest.mark.live
@pytest.mark.parametrize("ending", ["close", "cut", "reset", "hold"])
@pytest.mark.parametrize(
    "last", [STOP, STOP.strip(), f'{STOP}data: {{"choi', f"{STOP}<html>502</html>", f"{STOP}: ping\n\n"]
)
async def test_nothing_after_the_reason_fails_the_answer(
    ending: Ending, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "ENDED_TIMEOUT_S", 0.2)
    if ending == "hold" and last == STOP.strip():
        # A line without an end may continue.
        last += "\n"
    assert (await answered((ONE, TWO, last), ending=ending))[:3] == ("One two", "", "complete")
    last = last.replace(STOP, END_TURN).replace(STOP.strip(), END_TURN.strip())
    assert (await answered((ANTHROPIC_ONE, last), "anthropic", ending))[:3] == ("One", "", "complete")


@pytest.mark.live
@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_open_connection_is_left_after_a_second(api: str) -> None:
    body = (ONE, STOP) if api == "openai" else (ANTHROPIC_ONE, END_TURN)
    started = time.monotonic()
    assert (await answered(body, api, "hold"))[2] == "complete"
    assert exchange.ENDED_TIMEOUT_S <= time.monotonic() - started < exchange.ENDED_TIMEOUT_S + 5


async def test_usage_after_the_reason_is_counted() -> None:
    usage = 'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n'
    for ending in ("close", "cut"):
        assert (await answered((ONE, STOP, usage), ending=ending)).usage == {"input_tokens": 1, "output_tokens": 2}


@pytest.mark.parametrize("ending", ["close", "cut", "reset"])
async def test_answer_without_any_end_is_incomplete(ending: Ending) -> None:
    usage = chunk({}, None, usage={"prompt_tokens": 3})
    assert await answered((ONE, usage), ending=ending) == (
        "One",
        "",
        "provider_incomplete",
        {"input_tokens": 3},
        "",
        True,
    )
    assert (await answered((ANTHROPIC_ONE,), "anthropic", ending))[:3] == ("One", "", "provider_incomplete")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
async def test_whole_body_instead_of_a_stream_is_shown(indent: int | None, *, packed: bool) -> None:
    whole = {
        "object": "chat.completion",
        "choices": [
            {
                "message": {"role": "assistant", "reasoning_content": "Hm.", "content": "One two"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    body = (json.dumps(whole, indent=indent),)
    headers = {"content-type": "application/json"}
    wanted = Answer("One two", "Hm.", "complete", {"input_tokens": 3, "output_tokens": 2})
    assert await answered(body, headers=headers, gzip=packed) == wanted
    message = {
        "type": "message",
        "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "One two"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    assert await answered((json.dumps(message, indent=indent),), "anthropic", headers=headers, gzip=packed) == wanted


async def test_lines_of_json_instead_of_a_stream_are_shown() -> None:
    lines = (
        '{"message": {"role": "assistant", "content": "One"}, "done": false}\n',
        '{"message": {"role": "assistant", "content": " two"}, "done": false}\n',
        '{"message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop", "eval_count": 2}\n',
    )
    assert await answered(lines) == Answer("One two", "", "complete", {"output_tokens": 2})


ERRORS: list[tuple[str, str]] = [
    ('{"error": {"message": "x", "code": 429}}', "provider_rate_limited"),
    ('{"error": {"message": "x", "code": "429"}}', "provider_rate_limited"),
    ('{"error": {"message": "x", "type": "insufficient_quota", "code": null}}', "provider_quota"),
    ('[{"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}]', "provider_overloaded"),
    ('{"error": [{"code": "401"}]}', "provider_refused_key"),
    ('{"error": {"message": {"error": {"type": "overloaded_error"}}}}', "provider_overloaded"),
    ('{"error": {"message": "upstream: {\\"error\\": {\\"code\\": 404}}"}}', "provider_unknown_model"),
    ('{"errors": [{"status": "429"}]}', "provider_rate_limited"),
    ('{"object": "error", "message": "secret", "type": "BadRequestError", "code": 400}', "provider_bad_request"),
    ('{"error": "out of memory"}', "provider_error"),
    ('{"error": true}', "provider_error"),
    ('{"code": 429, "message": "secret"}', "provider_rate_limited"),
    ('{"type": "error", "error": {"type": "rate_limit_error"}}', "provider_rate_limited"),
]


@pytest.mark.parametrize(("error", "code"), ERRORS)
@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_error_with_status_200_has_its_code(error: str, code: str, api: str) -> None:
    first = ONE if api == "openai" else ANTHROPIC_ONE
    if not error.startswith("["):
        assert (await answered((first, f"data: {error}\n\n"), api))[:3] == ("One", "", code)
        assert (await answered((first, f"event: error\ndata: {error}\n\n"), api))[:3] == ("One", "", code)
        assert (await answered((first, f"{error}\n"), api))[:3] == ("One", "", code)
    assert (await answered((error,), api, headers={"content-type": "application/json"}))[:3] == ("", "", code)
    assert (await answered((json.dumps(json.loads(error), indent=1),), api))[:3] == ("", "", code)


async def test_error_of_a_choice_has_its_code() -> None:
    failed = {"choices": [{"delta": {"content": ""}, "finish_reason": "error", "error": {"code": 502, "message": "x"}}]}
    assert (await answered((ONE, f"data: {json.dumps(failed)}\n\n")))[:3] == ("One", "", "provider_error")


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_body_that_cannot_be_unpacked_is_a_failure(api: str) -> None:
    first = ONE if api == "openai" else ANTHROPIC_ONE
    found = await answered((first,), api, headers={"content-encoding": "gzip"})
    assert (found.end, found.retryable) in (("provider_malformed", True), ("provider_incomplete", True))


async def test_kinds_of_anthropic_events() -> None:
    body = (
        event("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 1}}),
        event("ping"),
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
        delta(type="thinking_delta", thinking="Hm."),
        delta(type="signature_delta", signature="abc"),
        event("content_block_start", index=1, content_block={"type": "redacted_thinking", "data": "xx"}),
        event(
            "content_block_start", index=2, content_block={"type": "server_tool_use", "name": "web_search", "input": {}}
        ),
        delta(type="input_json_delta", partial_json='{"query": "x"}'),
        event(
            "content_block_start",
            index=3,
            content_block={"type": "web_search_tool_result", "content": [{"title": "no"}]},
        ),
        event("content_block_start", index=4, content_block={"type": "text", "text": "Fi"}),
        delta(type="text_delta", text="ne."),
        delta(type="citations_delta", citation={"cited_text": "no"}),
        event("content_block_stop", index=4),
        END_TURN,
    )
    assert await answered((*body, MESSAGE_STOP), "anthropic") == Answer(
        "Fine.", "Hm.", "complete", {"input_tokens": 3, "output_tokens": 5}
    )
    assert (await answered(body, "anthropic"))[:3] == ("Fine.", "Hm.", "complete")
    untyped = ('data: {"delta": {"text": "One"}}\n\n', 'data: {"delta": {"stop_reason": "end_turn"}}\n\n')
    assert (await answered(untyped, "anthropic"))[:3] == ("One", "", "complete")


Refusal: TypeAlias = "Callable[[dict[str, Any]], tuple[int, str] | None]"


def refusing(name: str, status: int, words: str) -> Refusal:
    return lambda request: (status, json.dumps({"error": {"message": words}})) if name in request else None


@pytest.mark.parametrize(
    ("name", "status", "words", "target"),
    [
        ("stream_options", 422, "extra input", {}),
        ("stream_options", 400, "stream_options is not supported", {}),
        ("stream_options", 404, "no endpoint with include_usage", {}),
        ("max_tokens", 400, "use max_completion_tokens", {}),
        ("max_tokens", 422, "Extra inputs are not permitted: max_tokens", {}),
        ("max_completion_tokens", 400, "unknown: max_completion_tokens", {"max_tokens_name": "max_completion_tokens"}),
        ("temperature", 400, "Only the default temperature is supported", {"temperature": 0.5}),
        ("reasoning_effort", 400, "bad request", {"effort": "high"}),
        ("stream_options", 200, "stream_options is not supported", {}),
        ("max_tokens", 200, "use max_completion_tokens", {}),
    ],
)
async def test_refused_parameter_is_left_out_and_remembered(
    name: str, status: int, words: str, target: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    request = Request("m", REQUEST.messages, max_tokens=50)
    async with RawProvider(Reply((ONE, STOP, DONE)), refuse=refusing(name, status, words)) as server:
        provider = openai.connect(Target("openai", "m", base_url=f"{server.url}/v1", **target))
        with caplog.at_level(logging.WARNING):
            assert (await answer_of(provider, request))[:3] == ("One", "", "complete")
        calls = len(server.requests)
        assert calls >= 2
        assert name in server.requests[0]
        assert name not in server.requests[-1]
        assert {"max_tokens", "max_completion_tokens"} & server.requests[-1].keys()
        (logged,) = [record for record in caplog.records if record.message == "parameters_refused"]
        assert logged.__dict__["target"].startswith("openai/m @ 127.0.0.1")
        assert (await answer_of(provider, request)).end == "complete"
        assert len(server.requests) == calls + 1
        await provider.aclose()


async def test_refusal_that_remains_is_reported() -> None:
    async with RawProvider(Reply((ONE, STOP)), refuse=lambda _: (400, "no")) as server:
        assert (await ask(server)).end == "provider_bad_request"
        assert len(server.requests) == 2


async def test_body_without_text_is_limited_after_decompression() -> None:
    """It arrives without waiting: meanwhile other answers get their turns."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    mebibyte = b": ping\n" * ((1 << 20) // 7)
    bomb = Reply((mebibyte,) * (2 + (exchange.MAX_SILENT_BYTES >> 20)), gzip=True)
    other = asyncio.create_task(others())
    async with RawProvider(bomb) as server:
        assert (await ask(server)).end == "provider_malformed"
    assert turns > (exchange.MAX_SILENT_BYTES >> 14) // exchange.READS_AT_ONCE // 2
    other.cancel()
    below = Reply((mebibyte,) * ((exchange.MAX_SILENT_BYTES >> 20) - 1) + (ONE, STOP, DONE), gzip=True)
    async with RawProvider(below) as server:
        assert (await ask(server))[:3] == ("One", "", "complete")


@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_not_followed(api: str, status: int) -> None:
    """Another host would get the prompt."""
    async with RawProvider(Reply((ONE, STOP, DONE))) as other:
        redirect = Reply(("moved",), status=status, headers={"location": f"{other.url}/v1/chat/completions"})
        async with RawProvider(redirect) as server:
            found = await ask(server, api)
        assert (found.end, found.retryable) == ("provider_misconfigured", False)
        assert len(server.requests) == 1
        assert not other.requests


async def test_parameters_of_a_target_are_sent() -> None:
    async with RawProvider(Reply((ONE, STOP, DONE))) as server:
        await ask(server, temperature=0.5, effort="low", max_tokens=70, extra_body={"top_k": 3}, stream_options=False)
        assert server.requests[-1] == {
            "model": "m",
            "messages": REQUEST.messages,
            "stream": True,
            "temperature": 0.5,
            "reasoning_effort": "low",
            "max_tokens": 70,
            "top_k": 3,
        }
        limited = Request("m", REQUEST.messages, max_tokens=50)
        await ask(server, request=limited, max_tokens=70)
        assert server.requests[-1]["max_tokens"] == 50
    async with RawProvider(Reply((ANTHROPIC_ONE, END_TURN, MESSAGE_STOP))) as server:
        await ask(
            server,
            "anthropic",
            temperature=1,
            thinking=2048,
            prompt_caching=True,
            max_tokens=70,
            extra_body={"top_k": 3},
        )
        assert server.requests[-1] == {
            "model": "m",
            "messages": REQUEST.messages,
            "stream": True,
            "temperature": 1,
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "cache_control": {"type": "ephemeral"},
            "max_tokens": 70 + 2048,
            "top_k": 3,
        }
        await ask(server, "anthropic", thinking=False, effort="max")
        assert server.requests[-1]["thinking"] == {"type": "disabled"}
        assert server.requests[-1]["output_config"] == {"effort": "max"}


async def test_key_of_a_target_is_sent_to_its_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("MINE", " sk-mine\n")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    async with RawProvider(Reply((ONE, STOP, DONE))) as server:
        await ask(server)
        await ask(server, key="MINE")
        await ask(server, "anthropic", key="MINE")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        await ask(server)
    assert server.keys[2].endswith("sk-mine")
    assert server.keys == [
        f"Bearer {exchange.PLACEHOLDER_KEY}",
        "Bearer sk-mine",
        server.keys[2],
        "Bearer sk-of-openai",
    ]


async def test_key_that_cannot_be_sent_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk\n-1")
    with pytest.raises(ValueError, match="U\\+000A"):
        openai.connect("m")
    with pytest.raises(ValueError, match="key MISSING: it is empty or not set"):
        openai.connect(Target("openai", "m", key="MISSING"))


@pytest.mark.parametrize("header", ["x-request-id", "request-id"])
async def test_failure_has_the_request_id_as_a_note(header: str) -> None:
    async with RawProvider(
        Reply((ONE,), headers={header: "req_1 <b>"}), Reply(("{}",), status=503, headers={header: "req_2"})
    ) as server:
        provider = openai.connect(Target("openai", "m", base_url=f"{server.url}/v1"))
        notes = []
        for _ in range(2):
            with pytest.raises(ProviderError) as caught:
                async for _ in provider(REQUEST):
                    pass
            notes.append(caught.value.__notes__)
        await provider.aclose()
    assert notes == [["request id req_1_b"], ["HTTP status 503", "request id req_2"]]
    assert provider.host == server.url.removeprefix("http://")


FILLERS_LIKE_ERRORS = (
    '{"status": "processing"}',
    '{"status": "ok"}',
    '{"status": 200}',
    '{"code": 200, "message": "OK"}',
    '{"code": 0}',
    '{"code": "success"}',
    '{"object": "ping", "status": "in_progress"}',
    '{"error": {"code": 0, "message": "success"}}',
    '{"error": {"code": null}, "choices": []}',
    '{"error": {"code": "200"}}',
    '{"error": {}}',
    '{"error": []}',
    '{"message": "heartbeat"}',
    '{"base_resp": {"status_code": 0, "status_msg": ""}}',
    "[" * 3000 + "]" * 3000,
)


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_fillers_that_look_like_errors_are_skipped(api: str) -> None:
    first = ONE if api == "openai" else ANTHROPIC_ONE
    fillers = tuple(f"data: {filler}\n\n" for filler in FILLERS_LIKE_ERRORS)
    for each in (*fillers, "".join(fillers)):
        assert (await answered((first, each, first, DONE), api))[:3] == ("OneOne", "", "complete")


@pytest.mark.parametrize(
    ("body", "code", "retryable"),
    [
        ('{"message": "Invalid API key"}', "provider_refused_key", False),
        ('{"detail": "Invalid API key"}', "provider_refused_key", False),
        ('{"detail": [{"loc": ["body", "model"], "msg": "unknown"}]}', "provider_bad_request", False),
        ('{"success": false, "message": "quota exceeded"}', "provider_quota", False),
        ('{"base_resp": {"status_code": 1002, "status_msg": "x"}}', "provider_rate_limited", True),
        ('{"Error": {"Code": "AccessDenied", "Message": "x"}}', "provider_refused_key", False),
        ('{"error": {}}', "provider_error", True),
        ('{"message": "no idea"}', "provider_error", True),
        ("data: error: rate limit exceeded\n\n", "provider_rate_limited", True),
        ("data: [ERROR] 401 Unauthorized\n\n", "provider_refused_key", False),
        ("event: error\n\n", "provider_incomplete", True),
        ("event: error\ndata: {}\n\n", "provider_error", True),
        ("<html><title>503 Service Temporarily Unavailable</title></html>", "provider_overloaded", True),
        ("<html>\n<body>\nSign in\n</body>", "provider_error", True),
        ("model 'x' not found\n", "provider_unknown_model", False),
        (": ping\n\n", "provider_incomplete", True),
    ],
)
@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_body_with_status_200_and_no_answer_has_its_code(
    body: str, code: str, *, retryable: bool, api: str
) -> None:
    found = await answered((body,), api)
    assert (found.text, found.end, found.retryable) == ("", code, retryable)


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_marker_after_an_unclear_error_does_not_hide_it(api: str) -> None:
    found = await answered(('data: {"message": "Invalid API key"}\n\n', DONE), api)
    assert found.end == "provider_refused_key"
    assert (await answered(("data: error: rate limit\n\n",), api, "reset")).end == "provider_rate_limited"


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_message_after_an_answer_is_no_error(api: str) -> None:
    first = ONE if api == "openai" else ANTHROPIC_ONE
    unclear = 'data: {"message": "Invalid API key"}\n\ndata: error: slow\n\n'
    assert (await answered((first, unclear, DONE), api))[:3] == ("One", "", "complete")
    assert (await answered((unclear, first), api))[:3] == ("One", "", "provider_incomplete")


async def test_parameter_that_a_body_refuses_in_any_shape_is_left_out() -> None:
    for refusal in (
        '{"message": "Unrecognized request argument supplied: stream_options"}',
        '{"detail": [{"loc": ["body", "stream_options"], "msg": "extra fields not permitted"}]}',
        '{"success": false, "msg": "stream_options: unknown"}',
        'data: {"code": "InvalidParameter", "message": "stream_options"}\n\ndata: [DONE]\n\n',
        "data: error: stream_options is not supported\n\n",
        "stream_options is not supported",
    ):
        async with RawProvider(Reply((refusal,)), Reply((ONE, DONE))) as server:
            assert (await ask(server))[:3] == ("One", "", "complete")


@pytest.mark.parametrize(
    ("first", "later", "end"),
    [
        ("error", "stop", "provider_stopped"),
        ("length", "stop", "length"),
        ("content_filter", "stop", "filtered"),
        ("stop", "content_filter", "filtered"),
        ("stop", "stop", "complete"),
        ("FinishReason.STOP", "stop", "complete"),
    ],
)
async def test_reason_of_a_cut_counts_before_a_success(first: str, later: str, end: str) -> None:
    assert (await answered((ONE, chunk({}, first), chunk({}, later), DONE))).end == end
    events = (f'data: {{"type": "message_delta", "delta": {{"stop_reason": "{each}"}}}}\n\n' for each in (first, later))
    assert (await answered((ANTHROPIC_ONE, *events), "anthropic")).end == end


@pytest.mark.parametrize("name", ["done", "end", "message_stop"])
@pytest.mark.parametrize("data", ["data: {}\n\n", "\n", "data:\n\n"])
@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_name_of_an_event_can_be_the_end(name: str, data: str, api: str) -> None:
    first = ONE if api == "openai" else ANTHROPIC_ONE
    assert (await answered((first, f"event: {name}\n{data}"), api, "reset"))[:3] == ("One", "", "complete")


async def test_whole_document_needs_no_reason() -> None:
    for message in (
        '{"choices": [{"message": {"content": "One"}}]}',
        '{"choices": [{"text": "One"}]}',
        '{"message": {"content": "One"}}',
    ):
        assert (await answered((message,)))[:3] == ("One", "", "complete")
    started = '{"message": {"content": "One"}, "done": false}\n'
    assert (await answered((started,)))[:3] == ("One", "", "provider_incomplete")
    assert (await answered((f"data: {message}\n\n",)))[:3] == ("One", "", "provider_incomplete")

    lines = '{"choices": [{"text": "O"}]}\n{"choices": [{"text": "ne"}]}\n'
    assert (await answered((lines,)))[:3] == ("One", "", "provider_incomplete")
    untyped = '{"role": "assistant", "content": [{"type": "text", "text": "One"}]}'
    assert (await answered((untyped,), "anthropic"))[:3] == ("One", "", "complete")


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_type_of_an_event_can_be_the_end(api: str) -> None:
    first = ONE if api == "openai" else ANTHROPIC_ONE
    assert (await answered((first, 'data: {"type": "done"}\n\n'), api, "reset"))[:3] == ("One", "", "complete")


@pytest.mark.parametrize("first", [chunk({"role": "assistant", "content": ""}), ONE])
async def test_only_one_of_several_choices_is_read(first: str) -> None:
    def other(*choices: int) -> str:
        given = [{"index": each, "delta": {"content": f" {each}"}} for each in choices]
        return f"data: {json.dumps({'choices': given})}\n\n"

    found = await answered((first, other(1), other(1, 0), other(0), DONE))
    assert found.text == ("One 0 0" if first == ONE else " 0 0")
    assert (await answered((other(1), other(1), DONE))).text == " 1 1"


async def test_reason_beside_the_choice_counts_too() -> None:
    assert (await answered((ONE, chunk({}, "stop", finish_reason="length"), DONE))).end == "length"
    stopped = {"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "###"}]}
    assert (await answered((ONE, f"data: {json.dumps(stopped)}\n\n", DONE))).end == "complete"


async def test_numbered_choices_are_read() -> None:
    body = 'data: {"choices": {"0": {"delta": {"content": "One"}}}}\n\n'
    assert (await answered((body, DONE)))[:3] == ("One", "", "complete")


async def test_default_limit_above_that_of_the_model_is_lowered() -> None:
    refusal = '{"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: 16384 > 4096"}}'
    refused = Reply((refusal,), status=400, headers={"content-type": "application/json"})
    async with RawProvider(refused, Reply((ANTHROPIC_ONE, DONE)), Reply((ANTHROPIC_ONE, DONE))) as server:
        provider = anthropic.connect(Target("anthropic", "m", base_url=server.url))
        try:
            assert (await answer_of(provider)).end == "complete"
            assert (await answer_of(provider)).end == "complete"
        finally:
            await provider.aclose()
        assert [each["max_tokens"] for each in server.requests] == [16_384, 4096, 4096]
