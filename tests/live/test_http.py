"""The HTTP API: messages, snapshots, and event streams that are disconnected and resume at another gateway."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx2
import jwt
import pytest

from gateway import wire
from gateway.streams import keys
from gateway.streams.history_log import MAX_AHEAD
from gateway.streams.store.store import open_store
from gateway.transports import event_stream
from tests.live.conftest import MODELS, Deployment, entries, text_of
from tests.live.processes import GatewayProcess
from tests.provider_server import Scenario
from tests.stores import RealServer
from tests.transcript import Transcript
from workers.providers import demo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.live

JWT_KEY: Final = "k" * 32
ORIGIN: Final = "https://good.example"
TIMEOUT_S: Final = 30.0


@pytest.fixture(scope="module")
def guarded(deployment: Deployment) -> Iterator[list[GatewayProcess]]:
    """Two more gateways of the shared deployment, with required tokens, a list of models and one allowed origin."""
    options = ("--origins", ORIGIN, "--models", json.dumps(MODELS))
    with ExitStack() as stack:
        yield [
            stack.enter_context(GatewayProcess(deployment.server.url, *options, TOKENWIRE_JWT_KEY=JWT_KEY))
            for _ in range(2)
        ]


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=TIMEOUT_S) as opened:
        yield opened


def bearer(*conversations: str, **claims: Any) -> dict[str, str]:
    fields = {"sub": "ann", "exp": time.time() + 600, "conversations": conversations or ["*"], **claims}
    return {"authorization": f"Bearer {jwt.encode(fields, JWT_KEY, algorithm='HS256')}"}


def problem(reply: httpx2.Response, status: int | None = None) -> str:
    """Return the code of an error after a check of its form. `status`: if it is not that of the code."""
    body = reply.json()
    assert list(body) == ["error"]
    explained = ["problem"] if body["error"]["code"] == "unauthenticated" else []
    assert sorted(body["error"]) == ["code", "message", *explained]
    assert reply.status_code == (status or wire.ERRORS[body["error"]["code"]])
    assert body["error"]["message"].endswith((".", "`", ")", "]")) or body["error"]["code"] == "bad_frame"
    return str(body["error"]["code"])


@dataclass
class Event:
    """One server-sent event; a comment has no data."""

    id: str | None
    data: dict[str, Any] | None


class EventReader:
    """Parses an event stream (WHATWG HTML, section 9.2) and keeps the last id."""

    def __init__(self, reply: httpx2.Response, last: str | None) -> None:
        self.headers = reply.headers
        self.last = last
        self._lines = reply.aiter_lines()

    async def next(self, *, comments: bool = False) -> Event | None:
        """Return the next event; None at the end of the stream."""
        data: list[str] = []
        async for line in self._lines:
            if not line:
                if data:
                    return Event(self.last, json.loads("\n".join(data)))
            elif line.startswith(":"):
                if comments:
                    return Event(None, None)
            else:
                name, _, value = line.partition(": ")
                assert name in ("id", "data"), line
                if name == "id":
                    self.last = value
                else:
                    data.append(value)
        return None


@asynccontextmanager
async def stream(
    client: httpx2.AsyncClient, url: str, last: str | None = None, **headers: str
) -> AsyncIterator[EventReader]:
    """Open an event stream after the event `last`."""
    if last is not None:
        headers["last-event-id"] = last
    async with asyncio.timeout(TIMEOUT_S), client.stream("GET", url, headers=headers) as reply:
        assert reply.status_code == 200, await reply.aread()
        yield EventReader(reply, last)


def settled(transcript: Transcript, response: str) -> bool:
    return any(message.get("response") == response for message in transcript.messages.values())


async def ask(client: httpx2.AsyncClient, url: str, conversation: str, text: str, **fields: Any) -> str:
    reply = await client.post(f"{url}/v1/conversations/{conversation}/messages", json={"text": text, **fields})
    assert reply.status_code == 202, reply.text
    return str(reply.json()["response"])


async def whole(client: httpx2.AsyncClient, url: str, response: str) -> str:
    """Read a response to its end."""
    transcript = Transcript("")
    async with stream(client, f"{url}/v1/responses/{response}/events") as reader:
        while (event := await reader.next()) is not None:
            assert event.data is not None
            transcript.fold(event.data)
    assert transcript.answers[response].ends == 1
    return transcript.answers[response].text


# Messages


async def test_idempotency_key_posts_message_once(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    """The same key and body are the same response at either gateway; another body is a conflict."""
    urls = [f"{gateway.url}/v1/conversations/{conversation}/messages" for gateway in deployment.gateways]
    headers = {"idempotency-key": "the-key"}
    first = await client.post(urls[0], json={"text": f"once {conversation}", "model": "fake"}, headers=headers)
    assert first.status_code == 202
    assert first.json()["duplicate"] is False
    for url in urls:
        again = await client.post(url, json={"text": f"once {conversation}", "model": "fake"}, headers=headers)
        assert again.status_code == 200
        assert again.json() == {**first.json(), "duplicate": True}
        other = await client.post(url, json={"text": "else", "model": "fake"}, headers=headers)
        assert (other.status_code, problem(other)) == (409, "key_conflict")
    # Without a key each request is a separate message.
    without = [await client.post(urls[0], json={"text": "twice", "model": "fake"}) for _ in range(2)]
    assert len({reply.json()["response"] for reply in [first, *without]}) == 3
    for reply in [first, *without]:
        assert await whole(client, deployment.gateways[1].url, reply.json()["response"]) == "Hello, world!"
    assert deployment.calls(f"once {conversation}") == 1


async def test_hundred_concurrent_posts_with_one_key_are_one(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    urls = [f"{gateway.url}/v1/conversations/{conversation}/messages" for gateway in deployment.gateways]
    replies = await asyncio.gather(
        *(
            client.post(urls[n % 2], json={"text": "at once", "model": "fake"}, headers={"idempotency-key": "k"})
            for n in range(100)
        )
    )
    assert sorted(reply.status_code for reply in replies) == [200] * 99 + [202]
    assert len({reply.json()["response"] for reply in replies}) == 1


BAD_BODIES: Final[dict[str, tuple[bytes, str | None]]] = {
    "no-content-type": (b'{"text":"x"}', None),
    "text": (b'{"text":"x"}', "text/plain"),
    "form": (b"text=x", "application/x-www-form-urlencoded"),
    "json-in-name-only": (b'{"text":"x"}', "application/jsonp"),
    "too-large": (b'{"text":"' + b"x" * wire.MAX_FRAME_BYTES + b'"}', "application/json"),
    "not-json": (b"{", "application/json"),
    "not-utf8": (b'{"text":"\xff"}', "application/json"),
    "byte-order-mark": (b'\xef\xbb\xbf{"text":"x"}', "application/json"),
    "surrogate": (b'{"text":"\\ud800"}', "application/json"),
    "deep": (b'{"text":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "application/json"),
    "nan": (b'{"text":"x","max_tokens":NaN}', "application/json"),
    "5000-digits": (b'{"text":"x","max_tokens":' + b"9" * 5_000 + b"}", "application/json"),
    "list": (b'["x"]', "application/json"),
    "null": (b"null", "application/json"),
    "empty": (b"", "application/json"),
    "no-text": (b"{}", "application/json"),
    "empty-text": (b'{"text":""}', "application/json"),
    "long-text": (json.dumps({"text": "x" * (wire.MAX_TEXT + 1)}).encode(), "application/json"),
    "wrong-type": (b'{"text":5}', "application/json"),
    "unknown-choice": (b'{"text":"x","if_busy":"later"}', "application/json"),
    "unknown-model": (b'{"text":"x","model":"a b"}', "application/json"),
}


@pytest.mark.parametrize(("body", "kind"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_invalid_body_is_rejected(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str, body: bytes, kind: str | None
) -> None:
    url = f"{deployment.gateways[0].url}/v1/conversations/{conversation}"
    headers = {"content-type": kind} if kind else {}
    reply = await client.post(f"{url}/messages", content=body, headers=headers)
    assert problem(reply, 413 if len(body) > wire.MAX_FRAME_BYTES else None) == "bad_frame"
    assert (await client.get(url)).json()["messages"] == []


@pytest.mark.parametrize("key", ["a b", "ü", "k" * 129])
async def test_invalid_idempotency_key_is_rejected(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str, key: str
) -> None:
    url = f"{deployment.gateways[0].url}/v1/conversations/{conversation}/messages"
    reply = await client.post(url, json={"text": "x"}, headers={b"idempotency-key": key.encode()})
    assert problem(reply) == "bad_frame"


async def test_body_cannot_override_path_and_headers(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    url = deployment.gateways[0].url
    body = {"text": "mine", "model": "fake", "conversation": f"{conversation}-other", "key": "k", "type": "stop"}
    posted = await client.post(f"{url}/v1/conversations/{conversation}/messages", json=body)
    await whole(client, url, posted.json()["response"])
    assert (await client.get(f"{url}/v1/conversations/{conversation}-other")).json()["messages"] == []
    mine = (await client.get(f"{url}/v1/conversations/{conversation}")).json()["messages"]
    assert [message["text"] for message in mine] == ["mine", "Hello, world!"]


async def test_too_many_messages_are_rejected_with_retry_after(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    url = deployment.gateways[0].url
    deployment.provider.scenarios[f"for ever {conversation}"] = Scenario(ending="silence")
    responses = [
        await ask(client, url, conversation, f"for ever {conversation}", model="fake") for _ in range(MAX_AHEAD)
    ]
    reply = await client.post(f"{url}/v1/conversations/{conversation}/messages", json={"text": "one more"})
    assert problem(reply) == "too_many"
    assert int(reply.headers["retry-after"]) > 0
    reply = await client.post(
        f"{url}/v1/conversations/{conversation}/messages", json={"text": "now", "if_busy": "reject"}
    )
    assert problem(reply) == "busy"
    for response in reversed(responses):
        assert (await client.post(f"{url}/v1/responses/{response}/stop")).json()["stopped"]


async def test_stop_is_idempotent_and_retry_replaces_response(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    here, there = (gateway.url for gateway in deployment.gateways)
    response = await ask(client, here, conversation, "/long 4000")
    running = await client.post(f"{there}/v1/responses/{response}/retry", json={})
    assert problem(running) == "still_running"
    async with stream(client, f"{there}/v1/responses/{response}/events") as reader:
        while (event := await reader.next()) is not None and event.data is not None:
            if event.data["type"] == "delta":
                break
        first = await client.post(f"{there}/v1/responses/{response}/stop")
        while (event := await reader.next()) is not None:
            last = event.data
    assert last is not None
    assert (last["type"], last["reason"], last["retryable"]) == ("end", "stopped", True)
    assert first.json() == {"response": response, "stopped": True}
    for url in (here, there):
        again = await client.post(f"{url}/v1/responses/{response}/stop")
        assert (again.status_code, again.json()) == (200, {"response": response, "stopped": False})
    headers = {"idempotency-key": "again"}
    retried = await client.post(f"{here}/v1/responses/{response}/retry", json={"mode": "restart"}, headers=headers)
    assert retried.status_code == 202
    repeated = await client.post(f"{there}/v1/responses/{response}/retry", json={"mode": "restart"}, headers=headers)
    assert (repeated.status_code, repeated.json()) == (200, {**retried.json(), "duplicate": True})
    other = await client.post(f"{there}/v1/responses/{response}/retry", json={"mode": "continue"}, headers=headers)
    assert problem(other) == "key_conflict"
    unknown = await client.post(f"{there}/v1/responses/{response}/retry", json={"mode": "again"})
    assert problem(unknown) == "bad_frame"
    assert (await client.post(f"{here}/v1/responses/{retried.json()['response']}/stop")).json()["stopped"]
    messages = (await client.get(f"{here}/v1/conversations/{conversation}")).json()["messages"]
    assert [message.get("replaces") for message in messages if message["role"] == "assistant"] == [None, response]


# Conversations


async def test_get_conversation_returns_snapshot(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    url = f"{deployment.gateways[0].url}/v1/conversations/{conversation}"
    empty = await client.get(url)
    assert empty.json() == {
        "type": "snapshot",
        "conversation": conversation,
        "cursor": empty.json()["cursor"],
        "messages": [],
        "responses": [],
    }
    assert empty.headers["content-type"] == "application/json"
    assert empty.headers["cache-control"] == "no-store"
    settled_one = await ask(client, deployment.gateways[0].url, conversation, "first", model="fake")
    text = await whole(client, deployment.gateways[0].url, settled_one)
    running = await ask(client, deployment.gateways[0].url, conversation, "/long 4000")
    async with stream(client, f"{deployment.gateways[1].url}/v1/responses/{running}/events") as reader:
        while (event := await reader.next()) is not None and event.data is not None:
            if event.data["type"] == "delta":
                break
    for gateway in deployment.gateways:
        snapshot = (await client.get(f"{gateway.url}/v1/conversations/{conversation}")).json()
        assert [(m["role"], m["text"]) for m in snapshot["messages"]] == [
            ("user", "first"),
            ("assistant", text),
            ("user", "/long 4000"),
        ]
        (shown,) = snapshot["responses"]
        assert shown["response"] == running
        assert shown["text"]
        assert demo.answer("/long 4000").startswith(shown["text"])
    await client.post(f"{deployment.gateways[0].url}/v1/responses/{running}/stop")


async def test_head_of_events_starts_no_stream(deployment: Deployment, conversation: str) -> None:
    """uvicorn would not detect the disconnect of such a stream."""
    url = f"{deployment.gateways[0].url}/v1/conversations/{conversation}/events"
    before = deployment.gateways[0].counts("tokenwire_connections")
    async with httpx2.AsyncClient() as client:
        response = await client.head(url)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert deployment.gateways[0].counts("tokenwire_connections") == before


@pytest.mark.parametrize("every", [1, 2, 3, 5, 8])
async def test_event_stream_resumes_at_other_gateway(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str, every: int
) -> None:
    """With repeated disconnects during the answers, the final text is that of the log, without a reset."""
    transcript = Transcript(conversation)
    last: str | None = None
    connections = 0
    asked = [await ask(client, deployment.gateways[0].url, conversation, f"/long {120 + n}") for n in range(2)]
    while not all(settled(transcript, response) for response in asked):
        url = f"{deployment.gateways[connections % 2].url}/v1/conversations/{conversation}/events"
        connections += 1
        async with stream(client, url, last) as reader:
            taken = 0
            while taken < every and not all(settled(transcript, response) for response in asked):
                event = await reader.next()
                assert event is not None
                assert event.data is not None
                assert event.id is not None or event.data["type"] == "watching"
                transcript.fold(event.data)
                last = event.id
                # A client that never reads more than the first event makes no progress.
                taken += event.data["type"] != "watching"
    for number, response in enumerate(asked):
        answer = transcript.answers[response]
        assert (
            answer.text
            == text_of(await entries(deployment.server.url, response))
            == demo.answer(f"/long {120 + number}")
        )
        assert answer.resets == []
        assert answer.ends == 1
    assert transcript.snapshots == 1
    print(f"cut after every {every}: {connections} connections")


async def test_event_stream_resumes_after_each_event(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    """One client reads everything. From each of its ids, the other gateway leads to the same state."""
    here, there = (f"{gateway.url}/v1/conversations/{conversation}/events" for gateway in deployment.gateways)
    places: list[tuple[str, Transcript]] = []
    transcript = Transcript(conversation)
    async with stream(client, here) as reader:
        asked = [
            await ask(client, deployment.gateways[0].url, conversation, text)
            for text in ("/long 60", "/think", "/fail")
        ]
        while not all(settled(transcript, response) for response in asked):
            event = await reader.next()
            assert event is not None
            assert event.data is not None
            transcript.fold(event.data)
            if event.id is not None:
                places.append((event.id, copy.deepcopy(transcript)))
    assert len(places) > 30
    for last, place in places:
        async with stream(client, there, last) as reader:
            while not all(settled(place, response) for response in asked):
                event = await reader.next()
                assert event is not None
                assert event.data is not None
                place.fold(event.data)
        assert place.messages == transcript.messages
        for response, answer in place.answers.items():
            # A response that ended before its first frame is only a message.
            assert answer.text == transcript.answers[response].text
            assert answer.reasoning == transcript.answers[response].reasoning
            assert answer.ends == 1
            assert answer.resets == []
        assert place.snapshots == 1
    print(f"{len(places)} places")


@pytest.mark.parametrize("last", ["", "x", "$", "-1", "1-1", "0-0~r=1-1", "9" * 40, "１-１", "1-1~" + "x" * 5_000])
async def test_invalid_event_id_leads_to_snapshot(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str, last: str
) -> None:
    url = deployment.gateways[0].url
    response = await ask(client, url, conversation, "x", model="fake")
    text = await whole(client, url, response)
    events, headers = f"{url}/v1/conversations/{conversation}/events", {b"last-event-id": last.encode()}
    async with asyncio.timeout(TIMEOUT_S), client.stream("GET", events, headers=headers) as reply:
        reader = EventReader(reply, None)
        transcript = Transcript(conversation)
        while not transcript.snapshots:
            event = await reader.next()
            assert event is not None
            assert event.data is not None
            transcript.fold(event.data)
            # What cannot be resumed is no id of an event: the first one that has an id is the snapshot.
            assert bool(event.id) == (event.data["type"] == "snapshot")
            if event.id:
                responses = (f"{each['response']}={each['cursor']}" for each in event.data["responses"])
                assert event.id == "~".join([event.data["cursor"], *responses])
                place, resumed = event.id, copy.deepcopy(transcript)
        assert transcript.resumed is False
        while not settled(transcript, response):
            event = await reader.next()
            assert event is not None
            assert event.data is not None
            transcript.fold(event.data)
    assert text in [message["text"] for message in transcript.messages.values()]
    async with stream(client, events, place) as again:
        while resumed.resumed is False or not settled(resumed, response):
            event = await again.next()
            assert event is not None
            assert event.data is not None
            resumed.fold(event.data)
    assert (resumed.resumed, resumed.snapshots) == (True, 1)
    assert resumed.messages == transcript.messages


# Responses


async def test_response_whose_log_has_expired_serves_its_settled_text_and_can_be_retried(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    here, there = (gateway.url for gateway in deployment.gateways)
    response = await ask(client, here, conversation, "/long 1")
    cursors: list[str | None] = []
    async with stream(client, f"{here}/v1/responses/{response}/events") as reader:
        while (event := await reader.next()) is not None:
            cursors.append(event.id)
    text = text_of(await entries(deployment.server.url, response))
    store = await open_store(deployment.server.url)
    await store.client.delete(keys.log(response))
    await store.close()
    for last in (None, cursors[1], cursors[-1]):
        transcript = Transcript(conversation)
        async with stream(client, f"{there}/v1/responses/{response}/events", last) as reader:
            while (event := await reader.next()) is not None:
                assert event.data is not None
                transcript.fold(event.data)
        answer = transcript.answers[response]
        assert (answer.text, answer.reason, answer.ends) == (text, "complete", 1)
    reply = await client.post(f"{there}/v1/responses/{response}/retry", json={})
    assert reply.status_code in (200, 201, 202), reply.text


async def test_response_stream_resumes_after_each_event_and_ends(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    here, there = (gateway.url for gateway in deployment.gateways)
    response = await ask(client, here, conversation, "/long 100")
    events: list[Event] = []
    async with stream(client, f"{here}/v1/responses/{response}/events") as reader:
        while (event := await reader.next()) is not None:
            events.append(event)
    types = [event.data["type"] for event in events if event.data]
    assert types[-1] == "end"
    assert types.count("end") == 1
    assert {"start", "delta"} < set(types)
    text = text_of(await entries(deployment.server.url, response))
    for number, last in enumerate(events):
        transcript = Transcript(conversation)
        for event in events[: number + 1]:
            assert event.data is not None
            transcript.fold(event.data)
        for url in (here, there):
            address = f"{url}/v1/responses/{response}/events"
            assert last.id is not None
            if last is events[-1]:
                for headers, query in ({"last-event-id": last.id}, ""), ({}, f"?lastEventId={last.id}"):
                    reply = await client.get(f"{address}{query}", headers=headers)
                    assert (reply.status_code, reply.content) == (204, b"")
                continue
            going_on = copy.deepcopy(transcript)
            # Some clients send the cursor in the query.
            asked = (
                stream(client, address, last.id) if url is here else stream(client, f"{address}?lastEventId={last.id}")
            )
            async with asked as reader:
                while (next_event := await reader.next()) is not None:
                    assert next_event.data is not None
                    going_on.fold(next_event.data)
            assert going_on.answers[response].text == text
            assert going_on.answers[response].ends == 1
            assert going_on.answers[response].resets == []
    # An id that no log ever had leads to a reset.
    for spoiled in ("x", "0-0", "1-1", "9-9", f"{events[-1].id}0"):
        async with stream(client, f"{there}/v1/responses/{response}/events", spoiled) as reader:
            first = await reader.next()
            assert first is not None
            assert first.data is not None
            assert (first.data["type"], first.data["text"]) == ("reset", text)


async def test_response_stream_survives_disconnects(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    response = await ask(client, deployment.gateways[0].url, conversation, "/long 150")
    transcript = Transcript(conversation)
    last: str | None = None
    connections = 0
    while response not in transcript.answers or not transcript.answers[response].ends:
        url = f"{deployment.gateways[connections % 2].url}/v1/responses/{response}/events"
        connections += 1
        async with stream(client, url, last) as reader:
            event = await reader.next()
            assert event is not None
            assert event.data is not None
            transcript.fold(event.data)
            last = event.id
    assert transcript.answers[response].text == demo.answer("/long 150")
    assert transcript.answers[response].resets == []
    assert connections > 10


async def test_event_stream_has_keep_alive_and_is_unbuffered(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    """Headers disable buffering in proxies, and an idle stream gets comments."""
    begun = time.monotonic()
    async with stream(client, f"{deployment.gateways[0].url}/v1/conversations/{conversation}/events") as reader:
        assert reader.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reader.headers["cache-control"] == "no-cache, no-transform"
        assert reader.headers["x-accel-buffering"] == "no"
        assert "content-length" not in reader.headers
        while (event := await reader.next(comments=True)) is not None and event.data is not None:
            pass
        assert event is not None
    assert event_stream.KEEP_ALIVE_S - 1 < time.monotonic() - begun < 2 * event_stream.KEEP_ALIVE_S


# Authorization


async def test_request_without_token_is_unauthenticated(
    guarded: list[GatewayProcess], client: httpx2.AsyncClient, conversation: str
) -> None:
    url, response = guarded[0].url, "r00" + "0" * 16
    requests = [
        ("GET", f"/v1/conversations/{conversation}"),
        ("GET", f"/v1/conversations/{conversation}/events"),
        ("POST", f"/v1/conversations/{conversation}/messages"),
        ("GET", f"/v1/responses/{response}/events"),
        ("POST", f"/v1/responses/{response}/stop"),
        ("POST", f"/v1/responses/{response}/retry"),
    ]
    good = bearer(conversation)["authorization"]
    bad = [
        "",
        "Bearer",
        "Bearer x",
        good.replace("Bearer", "Basic"),
        good[:-2],
        *(bearer(conversation, exp=time.time() - 1)["authorization"],),
    ]
    for method, path in requests:
        for authorization in (None, *bad):
            headers = {} if authorization is None else {"authorization": authorization}
            reply = await client.request(method, url + path, headers=headers, json={"text": "x"})
            assert problem(reply) == "unauthenticated"
            # RFC 6750, section 3.1: a request without a token gets no error code.
            sent = (authorization or "").startswith("Bearer ")
            assert reply.headers["www-authenticate"] == ('Bearer error="invalid_token"' if sent else "Bearer")
        # A token in the URL is ignored, because URLs end up in logs.
        reply = await client.request(method, f"{url}{path}?token={good.split()[1]}", json={"text": "x"})
        assert problem(reply) == "unauthenticated"
    for path in ("/healthz", "/readyz", "/"):
        assert (await client.get(url + path)).status_code == 200


async def test_token_opens_only_its_conversations(
    guarded: list[GatewayProcess], client: httpx2.AsyncClient, conversation: str
) -> None:
    url = guarded[0].url
    mine, yours = bearer(conversation), bearer(f"{conversation}-yours")
    posted = await client.post(
        f"{url}/v1/conversations/{conversation}/messages", json={"text": "/long 4000"}, headers=mine
    )
    response = posted.json()["response"]
    for method, path in [("GET", ""), ("GET", "/events"), ("POST", "/messages")]:
        reply = await client.request(
            method, f"{url}/v1/conversations/{conversation}{path}", headers=yours, json={"text": "x"}
        )
        assert problem(reply) == "forbidden"
    # A response of another conversation and a missing one have the same answer.
    for method, path in [("GET", "events"), ("POST", "stop"), ("POST", "retry")]:
        replies = [
            await client.request(method, f"{url}/v1/responses/{name}/{path}", headers=yours, json={})
            for name in (response, f"{response[:3]}{'0' * 16}", "r99" + "0" * 16, "x", "..%2f..")
        ]
        assert {problem(reply) for reply in replies[:4]} == {"not_found"}
        assert len({reply.text for reply in replies[:4]}) == 1
        assert replies[4].status_code in (404, 405)
    stopped = await client.post(f"{url}/v1/responses/{response}/stop", headers=mine)
    assert stopped.json()["stopped"]
    for name in ("a b", "ü", "a*", "{x}", "c" * 129):
        reply = await client.get(f"{url}/v1/conversations/{name}", headers=mine)
        assert problem(reply) == "bad_frame"
    reply = await client.post(
        f"{url}/v1/conversations/{conversation}/messages", json={"text": "x", "model": "else"}, headers=mine
    )
    assert problem(reply) == "unknown_model"


async def test_event_stream_ends_when_token_expires(
    guarded: list[GatewayProcess], client: httpx2.AsyncClient, conversation: str
) -> None:
    expires = time.time() + 3.0
    headers = bearer(conversation, exp=expires)
    async with stream(client, f"{guarded[0].url}/v1/conversations/{conversation}/events", **headers) as reader:
        # Cut off: a clean end of the body would mean the end of an answer.
        with pytest.raises(httpx2.RemoteProtocolError):  # noqa: PT012
            while await reader.next() is not None:
                pass
    # The upper limit only distinguishes an end from a timeout of the client.
    assert 0 <= time.time() - expires < 10.0


OFFERED: Final = "authorization,baggage,content-type,idempotency-key,last-event-id,sentry-trace,traceparent,tracestate"
"""The headers of PROTOCOL.md, those of W3C Trace Context, and one that a monitoring script adds."""


async def test_cors_allows_only_listed_origins(
    guarded: list[GatewayProcess], client: httpx2.AsyncClient, conversation: str
) -> None:
    url = f"{guarded[0].url}/v1/conversations/{conversation}"
    asked = {"access-control-request-method": "POST", "access-control-request-headers": OFFERED}
    preflight = await client.options(f"{url}/messages", headers={"origin": ORIGIN, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in preflight.headers["access-control-allow-methods"]
    listed = preflight.headers["access-control-allow-headers"].replace(" ", "").split(",")
    assert set(OFFERED.split(",")) <= set(listed)
    allowed = await client.get(url, headers={"origin": ORIGIN, **bearer(conversation)})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "access-control-allow-credentials" not in allowed.headers
    assert "retry-after" in allowed.headers["access-control-expose-headers"].lower()
    assert "origin" in allowed.headers["vary"].lower()
    # A page can only show an error that it may read.
    refused = await client.get(url, headers={"origin": ORIGIN})
    assert (problem(refused), refused.headers["access-control-allow-origin"]) == ("unauthenticated", ORIGIN)
    async with stream(client, f"{url}/events", origin=ORIGIN, **bearer(conversation)) as reader:
        assert reader.headers["access-control-allow-origin"] == ORIGIN
    for origin in (f"{ORIGIN}.evil", "null", "https://evil.example", f"{ORIGIN}:444", "http://good.example", ""):
        reply = await client.get(url, headers={"origin": origin, **bearer(conversation)})
        assert problem(reply) == "forbidden"
        assert "access-control-allow-origin" not in reply.headers
        preflight = await client.options(f"{url}/messages", headers={"origin": origin, **asked})
        assert preflight.status_code == 400
        assert "access-control-allow-origin" not in preflight.headers
        posted = await client.post(
            f"{url}/messages", json={"text": "x"}, headers={"origin": origin, **bearer(conversation)}
        )
        assert problem(posted) == "forbidden"


# Operators and browsers


async def test_health_readiness_and_metrics(deployment: Deployment, client: httpx2.AsyncClient) -> None:
    url = deployment.gateways[0].url
    for path in ("/healthz", "/readyz"):
        reply = await client.get(url + path)
        assert (reply.status_code, reply.text) == (200, "ok\n")
    metrics = await client.get(f"{url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert "\ntokenwire_connections{" in metrics.text
    assert "server" not in metrics.headers


async def test_page_has_strict_content_security_policy(deployment: Deployment, client: httpx2.AsyncClient) -> None:
    url = deployment.gateways[0].url
    page = await client.get(f"{url}/")
    assert page.status_code == 200
    assert "<title>" in page.text
    scripts = [part.split('"')[0] for part in page.text.split('src="')[1:]]
    scripts.remove("widget.js")  # for pages of any origin, and so under no policy of this one
    assert scripts
    for path in ("", "index.html", "client/client.js", *scripts):
        reply = await client.get(f"{url}/{path.removeprefix('/')}")
        assert reply.status_code == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        again = await client.get(str(reply.url), headers={"if-none-match": reply.headers["etag"]})
        assert again.status_code == 304


SECRET_PLACES: Final = [
    *("/../gateway/app.py", "/../../pyproject.toml", "/%2e%2e/gateway/app.py", "/..%2fgateway%2fapp.py"),
    *("/....//gateway/app.py", "/..\\gateway\\app.py", "/%5c..%5cgateway%5capp.py", "/%252e%252e/gateway/app.py"),
    *("//etc/passwd", "/%2fetc%2fpasswd", "/etc/passwd", "///etc/passwd", "/./../../../../../../etc/passwd"),
    *("/%00", "/index.html%00.js", "/%c0%ae%c0%ae/gateway/app.py", "/" + "../" * 40 + "etc/passwd", "/" + "a" * 5_000),
    *("/v1/../../gateway/app.py", "/v1", "/v1/", "/v2/ws", "/.git/config", "/__pycache__", "/%ff"),
]


@pytest.mark.parametrize("path", SECRET_PLACES, ids=lambda path: path[:40])
async def test_only_page_files_are_served(deployment: Deployment, path: str) -> None:
    """Sent as raw bytes, because clients normalize such paths."""
    gateway = deployment.gateways[0]
    printed = len(gateway.output)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        reply = await asyncio.wait_for(reader.read(), TIMEOUT_S)
    finally:
        writer.close()
        await writer.wait_closed()
    assert int(reply.split(b" ")[1]) in (400, 404, 405)
    for secret in (b"root:", b"import asyncio", b"[project]", b"[core]"):
        assert secret not in reply
    assert "Traceback" not in "".join(gateway.output[printed:])


async def test_unsupported_methods_change_nothing(
    deployment: Deployment, client: httpx2.AsyncClient, conversation: str
) -> None:
    url = deployment.gateways[0].url
    for method in ("PUT", "DELETE", "PATCH", "TRACE"):
        for path in (
            f"/v1/conversations/{conversation}",
            f"/v1/conversations/{conversation}/messages",
            "/healthz",
            "/",
        ):
            assert (await client.request(method, url + path)).status_code == 405
    assert (await client.get(f"{url}/v1/conversations/{conversation}/messages")).status_code == 400
    assert (await client.post(f"{url}/v1/conversations/{conversation}/events")).status_code == 405


# A store that fails


async def test_full_or_unavailable_store_is_an_error_with_retry_after(conversation: str) -> None:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(RealServer())
        gateway = stack.enter_context(GatewayProcess(server.url))
        client = await stack.enter_async_context(httpx2.AsyncClient(timeout=TIMEOUT_S))
        messages = f"{gateway.url}/v1/conversations/{conversation}/messages"
        response = await ask(client, gateway.url, conversation, "kept")
        server.command("CONFIG", "SET", "maxmemory", "1")
        full = await client.post(messages, json={"text": "x"})
        assert problem(full) == "store_full"
        assert int(full.headers["retry-after"]) > 0
        # Reads still work.
        snapshot = await client.get(f"{gateway.url}/v1/conversations/{conversation}")
        assert [message["text"] for message in snapshot.json()["messages"]] == ["kept"]
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert (await client.post(messages, json={"text": "x"})).status_code == 202
        server.kill()
        # Each waits for the store for ten seconds, so they run concurrently.
        other = f"{gateway.url}/v1/conversations/{conversation}-other"
        replies = await asyncio.gather(
            client.post(messages, json={"text": "x"}),
            client.post(f"{gateway.url}/v1/responses/{response}/stop"),
            client.post(f"{gateway.url}/v1/responses/{response}/retry", json={}),
            client.get(f"{gateway.url}/v1/responses/{response}/events"),
            client.get(other),
            client.get(f"{other}/events"),
        )
        for reply in replies:
            assert problem(reply) == "unavailable"
            assert int(reply.headers["retry-after"]) > 0
        ready = await client.get(f"{gateway.url}/readyz")
        assert (ready.status_code, ready.text) == (503, "the store does not answer\n")
        assert (await client.get(f"{gateway.url}/healthz")).status_code == 200
        server.start()
        async with asyncio.timeout(TIMEOUT_S):
            while (await client.get(f"{gateway.url}/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
        store = await open_store(server.url)
        await store.close()
        assert (await client.post(messages, json={"text": "x"})).status_code == 202
        assert "Traceback" not in gateway.text
