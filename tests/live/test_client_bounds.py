"""What a client with a token can ask for: requests a second, the bytes of an answer, and names of other logs."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, Final

import httpx2
import jwt
import pytest
from websockets.asyncio.client import connect

from gateway.history_replica import ENTRY_BYTES, MAX_SNAPSHOT_BYTES
from gateway.rate_limits import BURST_S, WITHOUT_TOKEN_PER_S
from gateway.replica import MAX_PIECE_BYTES
from gateway.streams import keys, log_entries
from gateway.streams.log_entries import NONCES, End, HistoryId, LogId, Opened, Queued, Start, UserMessage
from gateway.streams.store.store import Store, open_store
from tests.live.client import Client
from tests.live.processes import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.live.conftest import Deployment

pytestmark = pytest.mark.live

JWT_KEY: Final = "k" * 32
RATE: Final = 4
TIMEOUT_S: Final = 60.0


@pytest.fixture
async def store(deployment: Deployment) -> AsyncIterator[Store]:
    opened = await open_store(deployment.server.url)
    yield opened
    await opened.close()


def token(subject: str) -> str:
    claims = {"sub": subject, "exp": time.time() + 600, "conversations": ["*"]}
    return jwt.encode(claims, JWT_KEY, algorithm="HS256")


async def write_history(store: Store, conversation: str, count: int, size: int) -> list[str]:
    """Write a history of so many messages of so many characters; return their ids."""
    names = []
    for seq in range(1, count + 1):
        value = log_entries.encode(log_entries.MESSAGE, UserMessage(f"m{seq}", f"{seq} ".ljust(size, "x")))
        await add(store, keys.history(conversation), HistoryId(seq, 7), value)
        names.append(f"m{seq}")
    return names


async def add(store: Store, key: str, entry: LogId | HistoryId, value: bytes) -> None:
    """Append an entry without a publish."""
    await store.client.xadd(key, {log_entries.FIELD: value}, id=str(entry))


async def write_answer(store: Store, conversation: str, pieces: list[str]) -> tuple[str, LogId]:
    """Write an open response with these entries of text, without a job; return it and its last id."""
    response, last = keys.response_id(conversation, secrets.token_hex(8)), LogId(NONCES + 1, 2)
    opened = log_entries.encode(log_entries.OPENED, Opened(response, "m1", "none"))
    await add(store, keys.history(conversation), HistoryId(1, 7), opened)
    queued = log_entries.encode(log_entries.QUEUED, Queued(conversation, "m1", "none"))
    await add(store, keys.log(response), LogId(1, 1), queued)
    await add(store, keys.log(response), last, log_entries.encode(log_entries.START, Start("none")))
    for piece in pieces:
        last = LogId(last.attempt, last.seq + 1)
        await add(store, keys.log(response), last, log_entries.TEXT + log_entries.escape(piece))
    return response, last


async def test_http_and_sockets_share_the_rate_limit_of_a_subject(deployment: Deployment, conversation: str) -> None:
    with GatewayProcess(deployment.server.url, TOKENWIRE_JWT_KEY=JWT_KEY, TOKENWIRE_REQUESTS=str(RATE)) as gateway:
        url = f"{gateway.url}/v1/conversations/{conversation}"
        ann, bob = ({"authorization": f"Bearer {token(name)}"} for name in ("ann", "bob"))
        async with httpx2.AsyncClient(timeout=TIMEOUT_S) as client, Client(conversation, token("ann")) as socket:
            begun = time.monotonic()
            replies = [await client.get(url, headers=ann) for _ in range(10 * RATE)]
            taken = time.monotonic() - begun
            served = sum(reply.status_code == 200 for reply in replies)
            # Each snapshot costs a little more than its request.
            assert RATE <= served <= RATE * (BURST_S + taken) + 1
            refused = next(reply for reply in replies if reply.status_code != 200)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_fast")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await client.get(url, headers=bob)).status_code == 200
            while (await client.get(url, headers=ann)).status_code == 200:
                pass
            await socket.connect(gateway.socket_url, watch=False)
            for _ in range(20):
                await socket.send(socket.transcript.watch())
            await socket.until(lambda: socket.errors)
            assert (socket.errors[0]["code"], socket.errors[0]["conversation"]) == ("too_fast", conversation)
            assert 0 < socket.errors[0]["retry_after"] <= 60
            # A bucket that is empty for sockets is empty for HTTP too.
            assert (await client.get(url, headers=ann)).status_code == 429


async def test_snapshots_are_charged_by_their_bytes(deployment: Deployment, conversation: str, store: Store) -> None:
    await write_history(store, conversation, 8, 60_000)
    with GatewayProcess(deployment.server.url, TOKENWIRE_JWT_KEY=JWT_KEY, TOKENWIRE_REQUESTS="20") as gateway:
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, headers={"authorization": f"Bearer {token('ann')}"}) as client:
            url = f"{gateway.url}/v1/conversations/{conversation}"
            begun = time.monotonic()
            replies = [await client.get(url) for _ in range(60)]
            taken = time.monotonic() - begun
            brought = sum(len(reply.content) for reply in replies if reply.status_code == 200)
            # The burst, what the time refills, and the one snapshot that goes into debt.
            assert brought <= 16_384 * 20 * (BURST_S + taken) + 2 * MAX_SNAPSHOT_BYTES
            assert replies[-1].status_code == 429


async def test_older_messages_are_paged_over_socket_and_http(
    deployment: Deployment, conversation: str, store: Store
) -> None:
    names = await write_history(store, conversation, 20, 40_000)
    url = f"{deployment.gateways[0].url}/v1/conversations/{conversation}"
    async with connect(deployment.urls()[0], max_size=None) as socket, httpx2.AsyncClient(timeout=TIMEOUT_S) as client:

        async def ask(frame: dict[str, Any], kind: str) -> dict[str, Any]:
            await socket.send(json.dumps(frame))
            async with asyncio.timeout(TIMEOUT_S):
                while (answer := json.loads(await socket.recv()))["type"] != kind:
                    pass
            assert isinstance(answer, dict)
            return answer

        await socket.send('{"type":"hello"}')
        page = await ask({"type": "watch", "conversation": conversation}, "snapshot")
        shown: list[str] = []
        while True:
            assert sum(len(message["text"]) + ENTRY_BYTES for message in page["messages"][1:]) <= MAX_SNAPSHOT_BYTES
            shown[:0] = [message["id"] for message in page["messages"]]
            assert page.get("more", False) == ("earlier" in page)
            if "earlier" not in page:
                break
            older = {"type": "older", "conversation": conversation, "before": page["earlier"]}
            page = await ask(older, "messages")
            over_http = await client.get(f"{url}/messages", params={"before": older["before"]})
            assert over_http.json() == page
        assert shown == names
        assert len(page["messages"]) < len(names)
        for before in ("", "9", "x-1"):
            assert (await client.get(f"{url}/messages", params={"before": before})).status_code == 400


async def test_long_answer_arrives_in_pieces_and_resumes_between_them(
    deployment: Deployment, conversation: str, store: Store
) -> None:
    pieces = [f"{number} ".ljust(10_000, "ä") for number in range(40)]
    response, last = await write_answer(store, conversation, pieces)
    client = Client(conversation)
    for round_ in range(1, 4):
        # A disconnect after any piece: the cursor of each is one to resume from.
        async with client:
            await client.connect(deployment.urls()[0])
            await client.shows(response, round_ * MAX_PIECE_BYTES // 2)
    async with client:
        await client.connect(deployment.urls()[1])
        await client.shows(response, sum(map(len, pieces)))
        assert client.answer(response).text == "".join(pieces)
        end = log_entries.encode(log_entries.END, End("complete"))
        await add(store, keys.log(response), LogId(last.attempt, last.seq + 1), end)
        await client.ended(response)
    texts = [frame.get("text", "") for frame in client.frames if frame["type"] in ("delta", "reset")]
    assert max(len(text.encode()) for text in texts) <= MAX_PIECE_BYTES
    assert client.answer(response).resets == []


async def test_names_of_no_response_harm_no_other_viewer(
    deployment: Deployment, conversation: str, store: Store
) -> None:
    response, last = await write_answer(store, conversation, ["Hello"])
    broken = keys.response_id(conversation, "0" * 16)
    await store.client.set(keys.log(broken), "no stream")
    url = f"{deployment.gateways[0].url}/v1/conversations/{conversation}/events"
    async with Client(conversation) as client, httpx2.AsyncClient(timeout=TIMEOUT_S) as attacker:
        await client.connect(deployment.urls()[0])
        await client.shows(response, 5)
        refused = await attacker.get(url, headers={"last-event-id": "0-0~rzz0000000000000000=0-0"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_frame")
        named = {broken: "1-1", **{keys.response_id(conversation, f"{n:016d}"): "1-1" for n in range(1, 60)}}
        async with Client(conversation) as naming:
            await naming.connect(deployment.urls()[0], watch=False)
            await naming.send({"type": "watch", "conversation": conversation, "responses": named})
            await naming.until(lambda: all(naming.answer(name).ends for name in named))
            assert (naming.answer(broken).error or {})["code"] == "gone"
        # An entry that is written past the publish is still found by the reconciliation.
        value = log_entries.TEXT + log_entries.escape(", world")
        await store.client.xadd(
            keys.log(response), {log_entries.FIELD: value}, id=str(LogId(last.attempt, last.seq + 1))
        )
        await client.shows(response, len("Hello, world"))
        assert client.answer(response).text == "Hello, world"


async def test_subject_holds_its_share_of_the_memory_and_others_are_served(
    deployment: Deployment, conversation: str, store: Store
) -> None:
    """An eighth of 16 MiB: after four conversations of half a MiB the next is refused, on sockets and event streams."""
    names = [f"{conversation}:{number}" for number in range(8)]
    for name in names:
        await write_history(store, name, 9, 60_000)
    env = {"TOKENWIRE_JWT_KEY": JWT_KEY, "TOKENWIRE_MEMORY": "16", "TOKENWIRE_REQUESTS": "0"}
    with GatewayProcess(deployment.server.url, **env) as gateway:
        async with (
            connect(gateway.socket_url, max_size=None) as socket,
            httpx2.AsyncClient(timeout=TIMEOUT_S) as client,
        ):
            await socket.send(json.dumps({"type": "hello", "token": token("ann")}))
            await socket.recv()

            async def watch(name: str) -> str:
                await socket.send(json.dumps({"type": "watch", "conversation": name}))
                while (frame := json.loads(await socket.recv()))["type"] not in ("snapshot", "error"):
                    pass
                return str(frame.get("code", "snapshot"))

            answers = [await watch(name) for name in names]
            held = answers.count("snapshot")
            assert 3 <= held < len(names)
            assert answers == ["snapshot"] * held + ["too_many"] * (len(names) - held)
            last = f"{gateway.url}/v1/conversations/{names[-1]}/events"
            ann, bob = ({"authorization": f"Bearer {token(subject)}"} for subject in ("ann", "bob"))
            refused = await client.get(last, headers=ann)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many")
            async with client.stream("GET", last, headers=bob) as served:
                assert served.status_code == 200
            await socket.send(json.dumps({"type": "unwatch", "conversation": names[0]}))
            assert await watch(names[-1]) == "snapshot"


FORWARDED: Final = {"x-forwarded-for": "203.0.113.9"}
"""An address that is none of this machine: for those without authentication there is no rate limit."""


async def hello(url: str, sent: str) -> tuple[dict[str, Any], int | None]:
    """Return the answer to `hello` with a token, and the close code if the socket is closed."""
    async with connect(url, additional_headers=FORWARDED) as socket:
        await socket.send(json.dumps({"type": "hello", "token": sent}))
        answer = json.loads(await socket.recv())
        if answer["type"] == "ready":
            return answer, None
        await socket.wait_closed()
        return answer, socket.close_code


async def test_every_answer_of_the_api_counts_for_the_rate(deployment: Deployment, conversation: str) -> None:
    """Also one without a route, and a refused token on every transport; a token that was valid lately is served."""
    env = {"TOKENWIRE_JWT_KEY": JWT_KEY, "TOKENWIRE_PROXIES": "127.0.0.1", "TOKENWIRE_REQUESTS": str(RATE)}
    below = "/v1/conversations/"
    with GatewayProcess(deployment.server.url, **env) as gateway:
        for method, path, sent in (
            ("GET", f"{below}{conversation}/no/route", token("ann")),
            ("DELETE", f"{below}{conversation}", token("bob")),
            ("PUT", "/v1/responses/r/stop", token("carl")),
        ):
            headers = {**FORWARDED, "authorization": f"Bearer {sent}"}
            async with httpx2.AsyncClient(timeout=TIMEOUT_S, headers=headers) as client:
                assert (await client.get(f"{gateway.url}{below}{conversation}")).status_code == 200
                begun = time.monotonic()
                statuses = [(await client.request(method, gateway.url + path)).status_code for _ in range(10 * RATE)]
                served = len(statuses) - statuses.count(429)
                assert set(statuses) == {404 if method == "GET" else 405, 429}
                assert served <= RATE * (BURST_S + time.monotonic() - begun)
        good, bad = token("dora"), token("eve")[:-4] + "AAAA"
        assert (await hello(gateway.socket_url, good))[1] is None
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, headers=FORWARDED) as client:

            async def refused(number: int) -> tuple[int, str]:
                reply = await client.get(
                    f"{gateway.url}{below}{conversation}{'/no/route' * (number % 2)}",
                    headers={"authorization": f"Bearer {bad}"},
                )
                return reply.status_code, reply.headers.get("connection", "")

            begun = time.monotonic()
            statuses = [(await refused(number))[0] for number in range(1_000)]
            served = len(statuses) - statuses.count(429)
            assert set(statuses) == {401, 404, 429}
            assert served <= WITHOUT_TOKEN_PER_S * (BURST_S + time.monotonic() - begun)
            # The rate of the address is used up, for its sockets too.
            answers = await asyncio.gather(*(hello(gateway.socket_url, bad) for _ in range(10)))
            codes = {(answer["code"], closed) for answer, closed in answers}
            assert ("too_fast", 1013) in codes
            assert codes <= {("too_fast", 1013), ("unauthenticated", 4401)}
            assert (await hello(gateway.socket_url, good))[1] is None
            reply = await client.get(f"{gateway.url}{below}{conversation}", headers={"authorization": f"Bearer {good}"})
            assert reply.status_code == 200


async def test_connections_of_a_subject_are_limited_over_all_transports(
    deployment: Deployment, conversation: str
) -> None:
    env = {"TOKENWIRE_JWT_KEY": JWT_KEY, "TOKENWIRE_SOCKETS_PER_SUBJECT": "3"}
    with GatewayProcess(deployment.server.url, **env) as gateway:
        url = f"{gateway.url}/v1/conversations/{conversation}"
        ann, bob = ({"authorization": f"Bearer {token(subject)}"} for subject in ("ann", "bob"))
        async with httpx2.AsyncClient(timeout=TIMEOUT_S) as client, AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(Client(conversation, token("ann"))) for _ in range(2)]
            for socket in sockets:
                await socket.connect(gateway.socket_url)
                await socket.watches()
            async with client.stream("GET", f"{url}/events", headers=ann) as third:
                assert third.status_code == 200
                for path in ("", "/messages?before=1-1", "/events"):
                    refused = await client.get(url + path, headers=ann)
                    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many")
                    assert refused.headers["retry-after"] == "10"
                answer, closed = await hello(gateway.socket_url, token("ann"))
                assert (answer["code"], answer["retry_after"], closed) == ("too_many", 10.0, 1013)
                async with asyncio.timeout(TIMEOUT_S):
                    while not any("request_refused reason=hello" in line for line in gateway.output):
                        await asyncio.sleep(0.01)
                assert (await client.get(url, headers=bob)).status_code == 200
                assert (await hello(gateway.socket_url, token("bob")))[1] is None
            async with asyncio.timeout(TIMEOUT_S):
                # The gateway notices the end of the stream a moment later.
                while (await client.get(url, headers=ann)).status_code != 200:
                    pass


async def test_bodies_that_are_not_read_count_for_the_memory_of_their_subject(
    deployment: Deployment, conversation: str, store: Store
) -> None:
    """An eighth of 16 MiB: a client that reads none of its snapshots and pages holds a few, and another is served."""
    await write_history(store, conversation, 12, 60_000)
    env = {"TOKENWIRE_JWT_KEY": JWT_KEY, "TOKENWIRE_MEMORY": "16", "TOKENWIRE_REQUESTS": "0"}
    with GatewayProcess(deployment.server.url, **env) as gateway, ExitStack() as stack:
        port = int(gateway.url.rsplit(":", 1)[1])
        url = f"{gateway.url}/v1/conversations/{conversation}"
        ann, bob = ({"authorization": f"Bearer {token(subject)}"} for subject in ("ann", "bob"))
        async with httpx2.AsyncClient(timeout=TIMEOUT_S) as client:
            earlier = (await client.get(url, headers=ann)).json()["earlier"]
            held = 0
            while True:
                path = f"/v1/conversations/{conversation}" + (f"/messages?before={earlier}" if held % 2 else "")
                each = stack.enter_context(socket.socket())
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                each.connect(("127.0.0.1", port))
                request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {ann['authorization']}\r\n\r\n"
                each.sendall(request.encode())
                # The first line of a response, and nothing of its body.
                status = (await asyncio.to_thread(each.recv, 12)).split()[1]
                if status != b"200":
                    break
                held += 1
            assert status == b"429"
            # The snapshots and pages of this conversation have 180 to 240 kB.
            assert 6 <= held <= 12
            refused = await client.get(url, headers=ann)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many")
            assert (await client.get(url, headers=bob)).status_code == 200
            stack.close()
            async with asyncio.timeout(TIMEOUT_S):
                # The gateway notices the ends of the connections a moment later.
                while (await client.get(url, headers=ann)).status_code != 200:
                    pass
