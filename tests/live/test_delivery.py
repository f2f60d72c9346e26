"""Delivery over real sockets, Valkey and two gateways: nothing is lost, duplicated or reordered."""

from __future__ import annotations

import asyncio
import random
import secrets

import pytest

from tests.live.client import Client
from tests.live.conftest import Deployment, entries, text_of
from workers.providers import demo

pytestmark = pytest.mark.live

SEED = 20261122


async def test_random_disconnects_lose_and_duplicate_nothing(deployment: Deployment) -> None:
    """Fifty answers, each with a client that is disconnected repeatedly and reconnects to either gateway."""
    cuts = await cut_at_random(deployment, 50)
    print(f"{cuts} cuts over 50 answers")
    assert cuts >= 500


async def cut_at_random(deployment: Deployment, answers: int) -> int:
    """Check so many answers, each with a client that is disconnected at random; return the number of disconnects."""
    chance = random.Random(SEED)
    cuts = 0

    # A few at a time, so that this process is not the bottleneck.
    few = asyncio.Semaphore(8)

    async def follow(number: int) -> None:
        async with few:
            await follow_now(number)

    async def follow_now(number: int) -> None:
        nonlocal cuts
        prompt = f"/long {150 + number}"
        client = Client(f"cuts-{secrets.token_hex(4)}-{number}")
        await client.connect(chance.choice(deployment.urls()))
        response = await client.ask(prompt)
        while not client.answer(response).ends:
            await client.more(chance.randint(1, 4), response)
            if not client.answer(response).ends:
                client.cut()
                cuts += 1
                await client.connect(chance.choice(deployment.urls()))
        text = await client.settled(response)
        await client.close()
        log = await entries(deployment.server.url, response)
        assert client.answer(response).text == text == text_of(log) == demo.answer(prompt)
        assert client.answer(response).resets == []
        assert [entry.seq for entry, _ in log] == list(range(1, len(log) + 1))

    async with asyncio.TaskGroup() as group:
        for number in range(answers):
            group.create_task(follow(number))
    return cuts


async def test_other_tabs_receive_the_whole_answer(deployment: Deployment, conversation: str) -> None:
    """Two tabs on two gateways and a late third; only the first one sent. Each gateway reads each log at most once."""
    before = [gateway.counts("tokenwire_log_reads_total") for gateway in deployment.gateways]
    first, second, late = (Client(conversation) for _ in range(3))
    async with first, second, late:
        await first.connect(deployment.urls()[0])
        await second.connect(deployment.urls()[1])
        response = await first.ask("/long 150")
        await second.until(lambda: len(second.answer(response).text) > 100)
        await late.connect(deployment.urls()[1])
        texts = {(await client.settled(response)) for client in (first, second, late)}
        assert len(texts) == 1
        for client in (first, second, late):
            assert client.answer(response).text in texts
            assert [m["text"] for m in client.transcript.messages.values() if m["role"] == "user"] == ["/long 150"]
        assert late.transcript.snapshots == 1
        assert late.answer(response).resets == []
        # Tokens were coalesced into fewer frames, and the first frame of the late tab was the snapshot.
        assert sum(frame["type"] == "delta" for frame in late.frames) < 150
    after = [gateway.counts("tokenwire_log_reads_total") for gateway in deployment.gateways]
    for earlier, later in zip(before, after, strict=True):
        reads = {kind: later.get(kind, 0) - earlier.get(kind, 0) for kind in later}
        assert reads.get('log="conversation"', 0) <= 1
        assert reads.get('log="response"', 0) <= 1


async def test_hundred_viewers_add_no_store_reads(deployment: Deployment, conversation: str) -> None:
    """The number of reads is that of one viewer."""
    clients = [Client(conversation) for _ in range(100)]
    before = deployment.gateways[0].counted("tokenwire_log_reads_total")
    for client in clients:
        await client.connect(deployment.urls()[0])
    response = await clients[0].ask("Why do a hundred people watch?")
    texts = {await client.settled(response) for client in clients}
    assert texts == {demo.answer("Why do a hundred people watch?")}
    assert deployment.gateways[0].counted("tokenwire_log_reads_total") - before <= 2
    for client in clients:
        await client.close()


async def test_killed_gateway_loses_nothing(deployment_without_worker: Deployment, conversation: str) -> None:
    """SIGKILL in mid-answer: the clients resume at the other gateway from their cursors."""
    deployment = deployment_without_worker
    deployment.worker()
    clients = [Client(conversation) for _ in range(5)]
    for client in clients:
        await client.connect(deployment.urls()[0])
    response = await clients[0].ask("/long 200")
    for client in clients:
        await client.shows(response, 50)
    deployment.gateways[0].kill()
    for client in clients:
        await client.closed()
        await client.connect(deployment.urls()[1])
    for client in clients:
        await client.settled(response)
        assert client.answer(response).text == text_of(await entries(deployment.server.url, response))
        assert client.answer(response).resets == []
        assert client.transcript.snapshots == 1
        await client.close()


async def test_cursor_that_cannot_be_resumed_leads_to_reset(deployment: Deployment, conversation: str) -> None:
    """Garbage, a cursor of another log, a cursor ahead: a snapshot or a reset, and the whole text at the end."""
    async with Client(conversation) as asking:
        await asking.connect(deployment.urls()[0])
        response = await asking.ask("/long 120")
        await asking.until(lambda: len(asking.answer(response).text) > 100)
        spoiled = ["", "$", "-1", "99999999999999999999-1", "18446744073709551616-1", "1-999999", "5-5;DROP", "９-９"]
        for cursor in spoiled:
            async with Client(conversation) as client:
                await client.connect(deployment.urls()[1], watch=False)
                await client.send(
                    {"type": "watch", "conversation": conversation, "after": cursor, "responses": {response: cursor}}
                )
                await client.watches()
                assert client.transcript.resumed is False
        text = await asking.settled(response)
        for cursor in spoiled:
            async with Client(conversation) as client:
                await client.connect(deployment.urls()[1], watch=False)
                await client.send(
                    {
                        "type": "watch",
                        "conversation": conversation,
                        "after": asking.transcript.cursor,
                        "responses": {response: cursor},
                    }
                )
                client.transcript.cursor = asking.transcript.cursor
                answer = await client.ended(response)
                assert answer.text == text
                assert answer.resets


async def test_hundred_submits_with_one_key_are_one(deployment: Deployment, conversation: str) -> None:
    """One response, one message, one provider call at either gateway; another body is a conflict."""
    prompt = f"once {conversation}"
    clients = [Client(conversation) for _ in range(100)]
    await asyncio.gather(*(client.connect(deployment.urls()[n % 2]) for n, client in enumerate(clients)))
    responses = await asyncio.gather(*(client.ask(prompt, key="the-key", model="fake") for client in clients))
    assert len(set(responses)) == 1
    assert sum(not client.accepted["the-key"]["duplicate"] for client in clients) == 1
    assert await clients[0].settled(responses[0]) == "Hello, world!"
    assert deployment.calls(prompt) == 1
    await clients[1].send(
        {"type": "send", "key": "the-key", "conversation": conversation, "text": "else", "model": "fake"}
    )
    await clients[1].until(lambda: clients[1].errors)
    assert clients[1].errors[0]["code"] == "key_conflict"
    assert len([m for m in clients[0].transcript.messages.values() if m["role"] == "user"]) == 1
    for client in clients:
        await client.close()


async def test_messages_are_answered_in_order(deployment: Deployment, conversation: str) -> None:
    """Three messages at once: each is answered after its predecessor, and queued until then."""
    async with Client(conversation) as client:
        await client.connect(deployment.urls()[0])
        responses = [await client.ask(f"turn {n}", model="fake") for n in range(3)]
        for response in responses:
            await client.settled(response)
        order = [frame["response"] for frame in client.frames if frame["type"] in ("start", "end")]
        assert order == [response for response in responses for _ in range(2)]
        bodies = [call.body["messages"] for call in deployment.provider.calls if call.prompt == "turn 2"]
        assert [message["role"] for message in bodies[-1]] == ["user", "assistant"] * 2 + ["user"]


async def test_message_while_busy_interrupts_or_is_rejected(deployment: Deployment, conversation: str) -> None:
    """`if_busy`: reject changes nothing; interrupt stops the open response."""
    async with Client(conversation) as client:
        await client.connect(deployment.urls()[0])
        slow = await client.ask("/long 4000")
        await client.until(lambda: client.answer(slow).text)
        await client.send(
            {"type": "send", "key": "k2", "conversation": conversation, "text": "hm", "if_busy": "reject"}
        )
        await client.until(lambda: client.errors)
        assert client.errors[0]["code"] == "busy"
        assert client.errors[0]["key"] == "k2"
        second = await client.ask("now", model="fake", if_busy="interrupt")
        assert (await client.ended(slow, 2.0)).reason == "stopped"
        assert (await client.ended(second)).reason == "complete"


async def test_retry_replaces_failed_response(deployment: Deployment, conversation: str) -> None:
    """The partial text stays. The retry is another response to the same message, which restarts or continues."""
    async with Client(conversation) as client:
        await client.connect(deployment.urls()[0])
        failed = await client.ask("/fail")
        answer = await client.ended(failed)
        assert answer.reason == "failed"
        assert answer.retryable
        assert answer.error is not None
        assert answer.text
        partial = answer.text
        for mode in ("restart", "continue"):
            await client.send({"type": "retry", "response": failed, "key": f"retry-{mode}", "mode": mode})
            again = await client.response_of(f"retry-{mode}")
            (started,) = await client.received_frames(1, type="start", response=again)
            assert started["replaces"] == failed
            await client.ended(again)
            assert client.answer(again).text.startswith(partial[:20])
        messages = [m for m in client.transcript.messages.values() if m["role"] == "user"]
        assert len(messages) == 1
