"""The attacks: each is one connection that does one kind of harm for a few seconds.

An attack may be refused or disconnected at any moment; what counts is what the honest clients notice.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from tests.hostile.raw import RawClient, frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

SECONDS: Final = 5.0
"""Duration of an attack that goes on until it is stopped."""


class Attacker:
    """One attacker: its address, its token and the gateway."""

    def __init__(self, address: tuple[str, int], local: str, token: str, conversation: str, chance: Random) -> None:
        self.address = address
        self.local = local
        self.token = token
        self.conversation = conversation
        self.chance = chance

    def connect(self, receive_buffer: int | None = None) -> RawClient:
        """Return a connection to the gateway."""
        return RawClient(self.address, self.local, receive_buffer)

    @property
    def bearer(self) -> str:
        return f"Bearer {self.token}"

    async def flood(self, client: RawClient, block: bytes) -> None:
        """Write a block again and again, and read what comes back."""

        async def write() -> None:
            while not client.writer.transport.is_closing():
                client.writer.write(block)
                await client.writer.drain()

        writing = asyncio.create_task(write())
        try:
            await client.drain(SECONDS)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def hello(self, client: RawClient) -> None:
        """Upgrade and authenticate."""
        await client.upgrade()
        client.send(type="hello", token=self.token)


async def pipelined_requests(attacker: Attacker) -> None:
    """Requests one behind the other, without reading the responses in time."""
    async with attacker.connect() as client:
        await attacker.flood(client, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 500)


async def empty_fragments(attacker: Attacker) -> None:
    """One message of endless empty fragments, before or after hello."""
    async with attacker.connect() as client:
        await client.upgrade()
        if attacker.chance.random() < 0.5:
            client.send(type="hello", token=attacker.token)
        client.writer.write(frame(1, b"", final=False))
        await attacker.flood(client, frame(0, b"", final=False) * 5000)


async def pings(attacker: Attacker) -> None:
    """Control frames without end, before or after hello."""
    async with attacker.connect() as client:
        await client.upgrade()
        if attacker.chance.random() < 0.5:
            client.send(type="hello", token=attacker.token)
        await attacker.flood(client, frame(attacker.chance.choice((9, 10)), b"x") * 5000)


async def many_frames(attacker: Attacker) -> None:
    """Small frames without end."""
    async with attacker.connect() as client:
        await attacker.hello(client)
        await attacker.flood(client, frame(1, b'{"type":"unwatch","conversation":"x"}') * 500)


async def held_connection(attacker: Attacker) -> None:
    """A request, then one byte that begins no request."""
    async with attacker.connect() as client:
        client.request("GET", "/healthz")
        await client.drain(0.2)
        client.writer.write(attacker.chance.choice((b"\r\n", b"G", b"")))
        await client.drain(2 * SECONDS)


async def silent_connection(attacker: Attacker) -> None:
    """A connection that sends nothing, or an upgrade without hello."""
    async with attacker.connect() as client:
        if attacker.chance.random() < 0.5:
            await client.upgrade()
        await client.drain(2 * SECONDS)


async def connect_and_leave(attacker: Attacker) -> None:
    """Connections that end at once."""
    for _ in range(30):
        async with attacker.connect() as client:
            client.writer.write(b"GET /v1/ws HTTP/1.1\r\n")


async def poisoned_event_id(attacker: Attacker) -> None:
    """An event stream with cursors of responses that cannot exist, dropped at once."""
    names = "".join(f"~rzz{attacker.chance.randrange(10**6):06d}{index:010d}=0-0" for index in range(64))
    async with attacker.connect() as client:
        client.request(
            "GET",
            f"/v1/conversations/{attacker.conversation}/events",
            Authorization=attacker.bearer,
            Last_Event_ID=f"0-0{names}",
        )
        await client.drain(0.5)


async def dropped_event_stream(attacker: Attacker) -> None:
    """Event streams that are opened and dropped without reading."""
    for _ in range(5):
        async with attacker.connect(4096) as client:
            client.request("GET", f"/v1/conversations/{attacker.conversation}/events", Authorization=attacker.bearer)
            await asyncio.sleep(0.05)


async def repeated_snapshots(attacker: Attacker) -> None:
    """The same watch twenty times a second, read or not read."""
    async with attacker.connect(None if attacker.chance.random() < 0.5 else 4096) as client:
        await attacker.hello(client)
        for _ in range(int(20 * SECONDS)):
            client.send(type="watch", conversation=attacker.conversation)
            await client.drain(0.05)


async def slow_reader(attacker: Attacker) -> None:
    """A snapshot over HTTP, read at a few bytes a second."""
    async with attacker.connect(4096) as client:
        client.request("GET", f"/v1/conversations/{attacker.conversation}", Authorization=attacker.bearer)
        for _ in range(int(4 * SECONDS)):
            await asyncio.wait_for(client.reader.read(64), SECONDS)
            await asyncio.sleep(0.5)


async def many_submits(attacker: Attacker) -> None:
    """Messages with long instructions as fast as one connection can send them."""
    body = json.dumps({"text": "/fail early", "instructions": "\u6f22" * 20_000}).encode()
    async with attacker.connect() as client:
        for _ in range(40):
            path = f"/v1/conversations/{attacker.conversation}/messages"
            client.request("POST", path, body, Authorization=attacker.bearer, Content_Type="application/json")
            await client.drain(0.05)


async def many_retries(attacker: Attacker) -> None:
    """Retries of one answer, which has long instructions."""
    async with attacker.connect() as client:
        await attacker.hello(client)
        client.send(
            type="send",
            key=f"k{attacker.chance.random()}",
            conversation=attacker.conversation,
            text="/fail early",
            instructions="\u6f22" * 20_000,
        )
        for number in range(int(10 * SECONDS)):
            client.send(type="retry", response="r" + "00" + "0" * 16, key=f"q{number}")
            await client.drain(0.1)


async def misbehaving_generator(attacker: Attacker) -> None:
    """Questions to the generators that yield what they must not."""
    async with attacker.connect() as client:
        await attacker.hello(client)
        client.send(type="watch", conversation=attacker.conversation)
        for model in ("bad_usage", "controls", "large"):
            client.send(
                type="send",
                key=f"k{attacker.chance.random()}",
                conversation=attacker.conversation,
                text="x",
                model=model,
            )
            await client.drain(0.5)


async def wrong_tokens(attacker: Attacker) -> None:
    """Tokens that are rejected, for different reasons."""
    for token in ("", "x", attacker.token[:-3], attacker.token + "x", "a.b.c"):
        async with attacker.connect() as client:
            client.request("GET", f"/v1/conversations/{attacker.conversation}", Authorization=f"Bearer {token}")
            await client.drain(0.1)


async def garbage(attacker: Attacker) -> None:
    """Bytes that are no protocol."""
    async with attacker.connect() as client:
        client.writer.write(attacker.chance.randbytes(attacker.chance.randrange(1, 4096)))
        await client.drain(0.5)


async def large_head(attacker: Attacker) -> None:
    """Headers without end, or a body that is announced and never sent."""
    async with attacker.connect() as client:
        if attacker.chance.random() < 0.5:
            client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
            await attacker.flood(client, b"X-A: " + b"a" * 500 + b"\r\n")
        else:
            client.writer.write(b"POST /v1/responses/x/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{")
            await client.drain(SECONDS)


ATTACKS: Final[tuple[Callable[[Attacker], Awaitable[None]], ...]] = (
    pipelined_requests,
    empty_fragments,
    pings,
    many_frames,
    held_connection,
    silent_connection,
    connect_and_leave,
    poisoned_event_id,
    dropped_event_stream,
    repeated_snapshots,
    slow_reader,
    many_submits,
    many_retries,
    misbehaving_generator,
    wrong_tokens,
    garbage,
    large_head,
)
"""Every kind of attack."""


async def attack_forever(attacker: Attacker, counts: dict[str, int]) -> None:
    """Draw attacks at random until cancelled; `counts` gets the number of each."""
    while True:
        attack = attacker.chance.choice(ATTACKS)
        try:
            await attack(attacker)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            # Refused or disconnected, as it should be.
            pass
        counts[attack.__name__] = counts.get(attack.__name__, 0) + 1
        await asyncio.sleep(attacker.chance.random())
