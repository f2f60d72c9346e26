"""Many clients behind HAProxy: a rolling restart of three gateways, and a simultaneous disconnect of all clients.

`pytest tests/live/test_rolling_restart.py -m long -s` runs it with a thousand and with ten thousand clients.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.live.client import Client
from tests.live.conftest import Deployment, build, entries, text_of
from tests.live.crowd import Member
from tests.live.processes import EXIT_WITHIN_S, GatewayProcess
from tests.live.proxies import HAProxy
from tests.provider_server import Scenario

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

pytestmark = pytest.mark.live

SEED = 20261126
INTERRUPTED = 1.0
CAUGHT_UP_WITHIN = 10.0


@dataclass
class Crowd:
    """Clients of several conversations, each with an open answer."""

    deployment: Deployment
    members: list[Member]
    askers: list[Client] = field(default_factory=list)
    responses: dict[str, str] = field(default_factory=dict)

    async def until(self, condition: object, seconds: float) -> None:
        assert callable(condition)
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.05)

    async def exact(self, seconds: float) -> None:
        """Check that each client has its whole answer once, in order, without a reset."""
        for asker in self.askers:
            await asker.ended(self.responses[asker.transcript.conversation], seconds)
        texts = {
            name: text_of(await entries(self.deployment.server.url, response))
            for name, response in self.responses.items()
        }

        def ended(member: Member) -> bool:
            answer = member.transcript.answers.get(self.responses[member.transcript.conversation])
            return answer is not None and bool(answer.ends)

        await self.until(lambda: all(ended(member) for member in self.members), 30.0)
        for member in self.members:
            name = member.transcript.conversation
            answer = member.transcript.answers[self.responses[name]]
            assert member.broken is None, member.broken
            assert answer.text == texts[name]
            assert answer.resets == []
            assert member.transcript.snapshots == 1


@asynccontextmanager
async def crowd(
    deployment: Deployment, urls: list[Sequence[str]], count: int, conversations: int, seconds: float, every: float
) -> AsyncIterator[Crowd]:
    """`urls` are assigned to the clients in turn; each answer lasts so many seconds."""
    chance = random.Random(SEED)
    names = [f"crowd-{secrets.token_hex(4)}" for _ in range(conversations)]
    pieces = tuple(f"word{n} " for n in range(int(seconds / every)))
    members = [
        Member(names[n % conversations], list(urls[n % len(urls)]), chance, obeys=n // conversations % 2 == 0)
        for n in range(count)
    ]
    gathered = Crowd(deployment, members)
    try:
        # Spread, because the simultaneous reconnect is tested later.
        for begin in range(0, count, 200):
            await asyncio.gather(*(member.connect() for member in members[begin : begin + 200]))
            await gathered.until(lambda begin=begin: all(m.live for m in members[begin : begin + 200]), 30.0)
        for name in names:
            deployment.provider.scenarios[name] = Scenario(pieces=pieces, delay=every)
            asker = await Client(name).connect(deployment.urls()[-1])
            gathered.askers.append(asker)
            gathered.responses[name] = await asker.ask(name, model="fake")
        for asker in gathered.askers:
            await asker.shows(gathered.responses[asker.transcript.conversation])
        yield gathered
    finally:
        for member in members:
            member.close()
        for asker in gathered.askers:
            await asker.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("count", "drain", "notice", "share"),
    [(90, 5, 1, 0.9), pytest.param(1000, 13, 3, 0.2, marks=pytest.mark.long)],
    ids=["90", "1000"],
)
async def test_rolling_restart_loses_nothing(count: int, drain: float, notice: float, share: float) -> None:
    """Half of the clients follow the reconnect hint, half wait for the close: none loses a token or gets a 1006.

    `share`: the most of a gateway's clients that may return within one second. The short form only excludes one wave,
    because a busy machine delays clients; tests/gateway/test_drain.py shows that the schedule is even.
    """
    with ExitStack() as stack:
        deployment = build(stack)
        deployment.worker()
        options = ("--drain", str(drain), "--notice", str(notice))
        gateways = [stack.enter_context(GatewayProcess(deployment.server.url, *options)) for _ in range(3)]
        addresses = [gateway.url.removeprefix("http://") for gateway in gateways]
        proxy = stack.enter_context(HAProxy(addresses))
        async with crowd(deployment, [[proxy.socket_url]], count, 10, 3 * drain + 12, 0.2) as gathered:
            window = drain - notice
            for number, address in enumerate(addresses):
                leaving = gateways[number]
                there = leaving.counts("tokenwire_connections")['kind="websocket"']
                begun = time.monotonic()
                leaving.terminate()
                assert await asyncio.to_thread(leaving.wait, drain + EXIT_WITHIN_S) == 0
                moments = [at - begun for member in gathered.members for at in member.returned if at > begun]
                rates = Counter(int(moment) for moment in moments)
                print(f"{there:.0f} clients reconnected at {max(rates.values())} a second at most, over {window} s")
                assert max(rates.values()) <= share * there
                gateways[number] = stack.enter_context(
                    GatewayProcess(deployment.server.url, *options, "--port", address.rpartition(":")[2])
                )
            await gathered.exact(60.0)
            away = sorted(seconds for member in gathered.members for seconds in member.downtimes)
            codes = Counter(code for member in gathered.members for code in member.codes)
            p99 = away[int(len(away) * 0.99)]
            refused = sum(member.refusals for member in gathered.members)
            print(
                f"{count} clients, {len(away)} interruptions: median {away[len(away) // 2]:.3f} s, p99 {p99:.3f} s, "
                f"most {away[-1]:.3f} s; close codes {dict(codes)}; {refused} refused"
            )
            assert set(codes) <= {1000, 1012}
            assert p99 <= INTERRUPTED


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("count", "conversations"), [(10_000, 50), (300, 10)], ids=["10000", "300"])
async def test_simultaneous_disconnect_of_all_clients_loses_nothing(count: int, conversations: int) -> None:
    """Behind HAProxy with two gateways; two proxies if one has too few descriptors."""
    with ExitStack() as stack:
        deployment = build(stack)
        deployment.worker()
        addresses = [gateway.url.removeprefix("http://") for gateway in deployment.gateways]
        most = 6000
        proxies = [
            stack.enter_context(HAProxy([*addresses, addresses[0]], most=most)) for _ in range(-(-count // most))
        ]
        urls = [[proxy.socket_url] for proxy in proxies]
        async with crowd(deployment, list(urls), count, conversations, 45.0 if count > 1000 else 8.0, 0.5) as gathered:
            calls = len(deployment.provider.calls)
            before = [gateway.counts("tokenwire_log_reads_total") for gateway in deployment.gateways]
            begun = time.monotonic()
            for member in gathered.members:
                member.cut()
            await gathered.until(lambda: all(len(member.downtimes) == 1 for member in gathered.members), 60.0)
            took = time.monotonic() - begun
            back = sorted(moment - begun for member in gathered.members for moment in member.returned)
            refused = sum(member.refusals for member in gathered.members)
            print(
                f"{count} clients cut at once: half were back after {back[len(back) // 2]:.2f} s, 99 % after "
                f"{back[int(len(back) * 0.99)]:.2f} s, all after {took:.2f} s; {refused} times one was refused"
            )
            after = [gateway.counts("tokenwire_log_reads_total") for gateway in deployment.gateways]
            for earlier, later in zip(before, after, strict=True):
                assert all(later[kind] - earlier.get(kind, 0) <= conversations for kind in later)
                print(f"logs read: { {kind: later[kind] - earlier.get(kind, 0) for kind in later} }")
            assert took <= CAUGHT_UP_WITHIN
            await gathered.exact(60.0)
            assert len(deployment.provider.calls) == calls
