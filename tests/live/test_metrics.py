"""Metrics, health and readiness: what is counted, and which requests may read it."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.live.client import Client
from tests.live.conftest import OPERATOR
from tests.live.processes import GatewayProcess
from tests.provider_server import Scenario
from tests.stores import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.live.conftest import Operated
    from tests.live.processes import Process

pytestmark = pytest.mark.live


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds: counts per token are published once a second."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def status(url: str, **headers: str) -> int:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=5.0) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


async def test_an_answer_moves_gateway_and_worker_metrics(operated: Operated, conversation: str) -> None:
    gateway, worker = operated.gateway, operated.worker
    counted: list[tuple[Process, str]] = [
        (gateway, "tokenwire_entries_received_total"),
        (gateway, "tokenwire_entries_delivered_total"),
        (gateway, "tokenwire_frames_total"),
        (gateway, "tokenwire_feed_messages_total"),
        (gateway, "tokenwire_added_delay_seconds_count"),
        (gateway, "tokenwire_time_to_first_token_seconds_count"),
        (gateway, "tokenwire_submits_total"),
        (gateway, "tokenwire_watches_total"),
        (gateway, "tokenwire_store_round_trip_seconds_count"),
        (worker, "tokenwire_attempts_total"),
        (worker, "tokenwire_responses_ended_total"),
        (worker, "tokenwire_queue_wait_seconds_count"),
        (worker, "tokenwire_entries_appended_total"),
        (worker, "tokenwire_appends_total"),
        (worker, "tokenwire_store_round_trip_seconds_count"),
        (worker, "gen_ai_client_operation_duration_seconds_count"),
        (worker, "gen_ai_client_operation_time_to_first_chunk_seconds_count"),
        (worker, "gen_ai_client_token_usage_count"),
    ]
    before = [process.counted(name) for process, name in counted]
    await operated.answered(conversation, "What moves?", model="fake")
    for (process, name), was in zip(counted, before, strict=True):
        await until(lambda process=process, name=name, was=was: process.counted(name) > was)  # type: ignore[misc]
    # The first piece of an answer takes a person's patience, and no more; the gateway's part of it is small.
    assert gateway.counted("tokenwire_time_to_first_token_seconds_sum") < 10.0
    assert worker.counted("tokenwire_worker_concurrency") == 300
    labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="fake"'
    assert f'error_type="",{labels}' in worker.counts("gen_ai_client_operation_duration_seconds_count")


async def test_every_entry_is_counted_once_per_viewer(operated: Operated, conversation: str) -> None:
    gateway = operated.gateway
    async with Client(conversation) as first, Client(conversation) as second, Client(conversation) as third:
        for client in (first, second, third):
            await client.connect(gateway.socket_url)
            await client.watches()
        # Taken over once a second, together: with the viewers came all that was before them.
        await until(lambda: gateway.counted("tokenwire_viewers") == 3)
        received = gateway.counted("tokenwire_entries_received_total")
        delivered = gateway.counted("tokenwire_entries_delivered_total")
        response = await first.ask("/long 60")
        for client in (first, second, third):
            await client.settled(response)
    await until(lambda: gateway.counted("tokenwire_viewers") == 0)
    # The conversation's own entries, of which there are three, are received too, and are no response's.
    entries = gateway.counted("tokenwire_entries_received_total") - received - 3
    assert gateway.counted("tokenwire_entries_delivered_total") - delivered == 3 * entries > 0


async def test_a_resume_counts_the_missed_entries(operated: Operated, conversation: str) -> None:
    gateway = operated.gateway
    resumed = 'outcome="resumed"'
    async with Client(conversation) as client:
        await client.connect(gateway.socket_url)
        await client.watches()
        response = await client.ask("/long 200")
        await client.shows(response, 30)
        client.cut()
        before = gateway.counts("tokenwire_watches_total").get(resumed, 0.0)
        replayed = gateway.counted("tokenwire_replayed_entries_total")
        async with Client(conversation) as other:
            await other.connect(gateway.socket_url)
            await other.watches()
            await other.shows(response, 150)
        await client.connect(gateway.socket_url)
        await client.settled(response)
        assert gateway.counts("tokenwire_watches_total")[resumed] == before + 1
        assert gateway.counted("tokenwire_replayed_entries_total") > replayed


async def test_a_stop_is_counted_at_gateway_and_worker(operated: Operated, conversation: str) -> None:
    operated.provider.scenarios["stop me"] = Scenario(pieces=("One ", "two "), ending="silence")
    stops, fences = operated.gateway.counted("tokenwire_stops_total"), operated.worker.counted("tokenwire_fences_total")
    async with Client(conversation) as client:
        await client.connect(operated.gateway.socket_url)
        await client.watches()
        response = await client.ask("stop me", model="fake")
        await client.shows(response)
        await until(lambda: operated.worker.counted("tokenwire_worker_responses") >= 1)
        await client.stop(response)
        await client.ended(response)
    # The end may reach the client, and the client leave, before the gateway has the reply of the store.
    await until(lambda: operated.gateway.counted("tokenwire_stops_total") == stops + 1)
    await until(lambda: operated.worker.counted("tokenwire_fences_total") == fences + 1)


@pytest.mark.parametrize("kind", ["gateway", "worker"])
def test_the_metrics_port_serves_health(operated: Operated, kind: str) -> None:
    process: Process = getattr(operated, kind)
    place = process.metrics_url.removesuffix("/metrics")
    assert [status(f"{place}{path}") for path in ("/healthz", "/readyz", "/metrics", "/")] == [200, 200, 200, 404]
    assert 'version="' in next(iter(process.counts("tokenwire_build_info")))
    assert process.counted("process_open_fds") > 0


def test_with_a_metrics_port_the_public_one_needs_a_token(operated: Operated) -> None:
    public = f"{operated.gateway.url}/metrics"
    assert status(public) == 404
    assert status(public, Authorization="Bearer wrong") == 404
    assert status(public, Authorization=f"Bearer {OPERATOR}") == 200


def test_without_a_metrics_port_only_local_programs_scrape() -> None:
    with GatewayProcess("memory://", command="run") as process:
        public = f"{process.url}/metrics"
        assert status(public) == 200
        for header in ("X_Forwarded_For", "Forwarded", "X_Real_IP", "Via"):
            assert status(public, **{header: "203.0.113.7"}) == 404


def test_each_gateway_process_has_its_own_metrics_port(operated: Operated) -> None:
    with ExitStack() as stack:
        first = free_port(2)
        process = stack.enter_context(
            GatewayProcess(operated.server.url, "--processes", "2", "--metrics-port", str(first))
        )
        deadline = time.monotonic() + 10.0
        while sum(line.startswith("Metrics are at") for line in process.output) < 2:
            assert time.monotonic() < deadline, process.text
            time.sleep(0.02)
        for port in (first, first + 1):
            assert status(f"http://127.0.0.1:{port}/metrics") == 200
