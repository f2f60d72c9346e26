"""One trace spans the processes of an answer; without an SDK, the traceparent of the client is forwarded."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from gateway.streams import response_log
from gateway.streams.store.store import open_store
from tests.live.client import Client
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.live.conftest import Deployment, Operated

pytestmark = pytest.mark.live

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"

SDK = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

file = open(os.environ["SPANS"], "a", buffering=1)
exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\\n")
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
"""
"""Write the spans of an OpenTelemetry SDK to a file, as an operator configures it."""


class Traced:
    """A gateway and a worker with an OpenTelemetry SDK that write their spans to one file."""

    def __init__(self, gateway: GatewayProcess, file: Path) -> None:
        self.gateway = gateway
        self._file = file

    def spans(self) -> dict[str, dict[str, Any]]:
        """Return the spans of the trace, by name."""
        lines = [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []
        return {line["name"]: line for line in lines if line["context"]["trace_id"] == f"0x{TRACE}"}

    async def until(self, *names: str) -> dict[str, dict[str, Any]]:
        """Wait for all of these spans, and return them."""
        deadline = time.monotonic() + 10.0
        while not set(names) <= (found := self.spans()).keys():
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)
        return found


@pytest.fixture
def traced(operated: Operated, tmp_path: Path) -> Iterator[Callable[..., Traced]]:
    with ExitStack() as stack:
        (tmp_path / "sitecustomize.py").write_text(SDK)

        def begin() -> Traced:
            file = tmp_path / "spans.jsonl"
            environment = {"PYTHONPATH": str(tmp_path), "SPANS": str(file)}
            gateway = stack.enter_context(GatewayProcess(operated.server.url, **environment))
            stack.enter_context(
                WorkerProcess(
                    operated.server.url,
                    *("--models", '{"default": "openai/fake-4", "traced": "openai/fake-4"}'),
                    OPENAI_BASE_URL=f"{operated.provider.url}/v1",
                    OPENAI_API_KEY="sk-planted-secret",
                    **environment,
                )
            )
            return Traced(gateway, file)

        yield begin


def parent(span: dict[str, Any]) -> str:
    return str(span["parent_id"]).removeprefix("0x")


def own(span: dict[str, Any]) -> str:
    return str(span["context"]["span_id"]).removeprefix("0x")


async def test_trace_has_request_store_provider_and_frame(
    traced: Callable[..., Traced], operated: Operated, conversation: str
) -> None:
    # The shared worker has no such model but would claim the job, so it must exit.
    operated.provider.scenarios["Trace me"] = Scenario(pieces=("Planted ", "answer"))
    operated.worker.freeze()
    try:
        deployment = traced()
        async with Client(conversation) as client, httpx2.AsyncClient() as http:
            await client.connect(deployment.gateway.socket_url)
            await client.watches()
            posted = await http.post(
                f"{deployment.gateway.url}/v1/conversations/{conversation}/messages",
                json={"text": "Trace me", "model": "traced", "max_tokens": 99},
                headers={"traceparent": TRACEPARENT},
            )
            response = posted.json()["response"]
            await client.settled(response)
        spans = await deployment.until("submit", "attempt", "chat fake-4", "first frame")
    finally:
        operated.worker.resume()
    assert parent(spans["submit"]) == CALLER
    assert parent(spans["attempt"]) == own(spans["submit"])
    assert parent(spans["chat fake-4"]) == own(spans["attempt"])
    assert parent(spans["first frame"]) == own(spans["submit"])
    kinds = {name: span["kind"].removeprefix("SpanKind.") for name, span in spans.items()}
    assert kinds == {"submit": "SERVER", "attempt": "CONSUMER", "chat fake-4": "CLIENT", "first frame": "INTERNAL"}
    chat = spans["chat fake-4"]
    assert chat["attributes"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "fake-4",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 99,
        "gen_ai.conversation.id": conversation,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 4,
    }
    assert [event["name"] for event in chat["events"]] == ["first chunk"]
    assert spans["attempt"]["attributes"]["tokenwire.attempt"] == 1
    for name in ("submit", "attempt", "first frame"):
        assert spans[name]["attributes"]["tokenwire.response"] == response
    assert not any(words in json.dumps(spans) for words in ("Planted", "Trace me", "sk-planted"))


async def trace_of(deployment: Deployment, response: str) -> str | None:
    store = await open_store(deployment.server.url)
    try:
        queued = await response_log.request(store, response)
    finally:
        await store.close()
    assert queued is not None
    return queued.trace


async def test_traceparent_is_forwarded_without_sdk(deployment: Deployment, conversation: str) -> None:
    async with Client(conversation) as client, httpx2.AsyncClient() as http:
        await client.connect(deployment.urls()[0])
        await client.watches()
        response = await client.ask("Trace me", model="fake", traceparent=TRACEPARENT)
        await client.settled(response)
        assert await trace_of(deployment, response) == TRACEPARENT
        untraced = await client.ask("Trace me not", model="fake")
        await client.settled(untraced)
        assert await trace_of(deployment, untraced) is None
        # An invalid header is ignored; an invalid field of a frame is an error.
        url = f"{deployment.gateways[0].url}/v1/conversations/{conversation}/messages"
        posted = await http.post(url, json={"text": "Trace me"}, headers={"traceparent": "nonsense"})
        assert await trace_of(deployment, posted.json()["response"]) is None
        frame = {"type": "send", "key": "k1", "conversation": conversation, "text": "x", "traceparent": "nonsense"}
        await client.send(frame)
        await client.until(lambda: client.errors)
        assert client.errors[0]["code"] == "bad_frame"
