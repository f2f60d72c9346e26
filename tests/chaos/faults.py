"""The faults of a schedule, done to a house. Each undoes what it did, as far as it can be undone."""

from __future__ import annotations

import asyncio
import shutil
import signal
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from gateway.streams import keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.chaos.house import House, Member
    from tests.chaos.link import Link, Weather
    from tests.chaos.run import Run
    from tests.chaos.schedule import Fault
    from tests.stores import RealServer


async def inject(run: Run, fault: Fault) -> None:
    """Do one fault; return when it is over."""
    if fault.kind in STORE:
        # One after the other: what one of them replaces is not there for the next one to hurt.
        async with run.house.replacing:
            await FAULTS[fault.kind](run, fault)
    else:
        await FAULTS[fault.kind](run, fault)


async def tell(server: RealServer, *words: str | int) -> None:
    """Send a command to a server, if it is not down for another reason."""
    try:
        await asyncio.to_thread(server.command, *words)
    except (RedisError, OSError):
        pass


def worker(run: Run, fault: Fault) -> Member:
    """The worker that a fault hits."""
    return run.house.workers[fault.which % len(run.house.workers)]


def gateway(run: Run, fault: Fault) -> Member:
    """The gateway that a fault hits."""
    return run.house.gateways[fault.which % len(run.house.gateways)]


async def kill_worker(run: Run, fault: Fault) -> None:
    await kill(worker(run, fault), fault.lasts)


async def kill_gateway(run: Run, fault: Fault) -> None:
    await kill(gateway(run, fault), fault.lasts)


async def kill(member: Member, lasts: float) -> None:
    member.kill()
    await asyncio.sleep(lasts)
    if member.child is None:
        await member.start()


async def freeze_worker(run: Run, fault: Fault) -> None:
    await freeze(worker(run, fault), fault.lasts)


async def freeze_gateway(run: Run, fault: Fault) -> None:
    await freeze(gateway(run, fault), fault.lasts)


async def freeze(member: Member, lasts: float) -> None:
    member.signal(signal.SIGSTOP)
    await asyncio.sleep(lasts)
    member.signal(signal.SIGCONT)


async def kill_at_end(run: Run, fault: Fault) -> None:
    """Between the last token, the end and the acknowledgement: the moment at which a call of the provider ends."""
    finished = {id(call) for call in run.calls() if call.finished}
    deadline = run.now() + 4.0
    while run.now() < deadline:
        for call in run.calls():
            if call.finished and id(call) not in finished:
                # Some ten milliseconds have the last append, the end and the acknowledgement in them.
                await asyncio.sleep(0.03 * fault.amount)
                await kill(run.caller(call), fault.lasts)
                return
        await asyncio.sleep(0.001)


async def poison(run: Run, fault: Fault) -> None:
    """One question ends every worker that takes it up."""
    keys_ = run.keys()
    key = keys_[fault.which % len(keys_)]
    killed = 0
    deadline = run.now() + 8.0
    while killed < 2 and run.now() < deadline:
        calls = run.script.calls.get(key, [])
        if len(calls) > killed and (calls[killed].sent > 2 or calls[killed].finished):
            await kill(run.caller(calls[killed]), 0.1)
            killed += 1
        await asyncio.sleep(0.005)


async def leave_worker(run: Run, fault: Fault) -> None:
    await leave(run, worker(run, fault), 1.0 + 8.0)


async def leave_gateway(run: Run, fault: Fault) -> None:
    await leave(run, gateway(run, fault), 15.0)


async def leave(run: Run, member: Member, within: float) -> None:
    await member.leave(within)
    if member.child is None:
        await member.start()


async def swallow_to_worker(run: Run, fault: Fault) -> None:
    await swallow(worker(run, fault).store, fault)


async def swallow_to_gateway(run: Run, fault: Fault) -> None:
    await swallow(gateway(run, fault).store, fault)


async def swallow(link: Link, fault: Fault) -> None:
    """What the store replies next is lost, several times."""
    for _ in range(1 + int(fault.amount * 4)):
        link.down.swallow = True
        await asyncio.sleep(fault.lasts / 4)
    link.down.swallow = False


async def crash_store(run: Run, fault: Fault) -> None:
    house = run.house
    await asyncio.to_thread(house.primary.kill)
    await asyncio.sleep(fault.lasts)
    await asyncio.to_thread(house.primary.start)


async def empty_store(run: Run, fault: Fault) -> None:
    house = run.house
    await asyncio.to_thread(house.primary.kill)
    for path in house.primary.folder.glob("appendonly*"):
        shutil.rmtree(path, ignore_errors=True)
    await asyncio.sleep(fault.lasts)
    await asyncio.to_thread(house.primary.start)


async def old_store(run: Run, fault: Fault) -> None:
    """It comes back as it was some time before it crashed."""
    server = run.house.primary
    (saved,) = server.folder.glob("appendonly*")
    copy = saved.with_name("before")
    await asyncio.to_thread(shutil.copytree, saved, copy)
    await asyncio.sleep(fault.lasts)
    await asyncio.to_thread(server.kill)
    shutil.rmtree(saved)
    copy.rename(saved)
    await asyncio.to_thread(server.start)


async def failover(run: Run, fault: Fault) -> None:
    await fail_over(run, fault)


async def failover_and_death(run: Run, fault: Fault) -> None:
    """The workers that knew what was lost die, too."""
    await fail_over(run, fault, deaths=run.house.workers)


async def fail_over(run: Run, fault: Fault, deaths: list[Member] | None = None) -> None:
    """The replica becomes the primary, without what it had not been told of the last `lasts` seconds."""
    house = run.house
    house.replication.down.hole = True
    await asyncio.sleep(fault.lasts)
    for member in deaths or ():
        member.kill()
    await asyncio.to_thread(house.promote)
    for member in house.members:
        house.switch(member)
    for member in deaths or ():
        await member.start()
    await rejoin(house)


async def split(run: Run, fault: Fault) -> None:
    """The replica is promoted while the old primary still acknowledges: some go over, and the others later."""
    house = run.house
    house.replication.down.hole = True
    await asyncio.sleep(0.3 * fault.amount)
    await asyncio.to_thread(house.promote)
    at_once = [member for number, member in enumerate(house.members) if fault.which >> number & 1]
    for member in at_once:
        house.switch(member)
    await asyncio.sleep(fault.lasts)
    for member in house.members:
        if member not in at_once:
            house.switch(member)
    await rejoin(house)


async def rejoin(house: House) -> None:
    """The old primary follows the new one."""
    house.replication.cut()
    house.replication.clears()
    house.replication.target = house.address
    await tell(house.replica, "REPLICAOF", "127.0.0.1", house.replication.port)


async def flip_role(run: Run, fault: Fault) -> None:
    """The primary follows its replica for a while, and returns without a tail; its clients stay connected."""
    house = run.house
    house.replication.down.hole = True
    await asyncio.sleep(0.2 * fault.amount)
    await tell(house.replica, "REPLICAOF", "NO", "ONE")
    await tell(house.primary, "REPLICAOF", "127.0.0.1", house.replica.port)
    await asyncio.sleep(fault.lasts)
    await tell(house.primary, "REPLICAOF", "NO", "ONE")
    await rejoin(house)


async def freeze_store(run: Run, fault: Fault) -> None:
    server = run.house.primary
    server.freeze()
    await asyncio.sleep(fault.lasts)
    server.resume()


async def pause_store(run: Run, fault: Fault) -> None:
    await tell(run.house.primary, "CLIENT", "PAUSE", int(fault.lasts * 1000))
    await asyncio.sleep(fault.lasts)


async def sleep_store(run: Run, fault: Fault) -> None:
    await tell(run.house.primary, "DEBUG", "SLEEP", str(fault.lasts))


async def kill_connections(run: Run, fault: Fault) -> None:
    for _ in range(1 + int(fault.amount * 4)):
        for kind in ("normal", "pubsub"):
            await tell(run.house.primary, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await asyncio.sleep(fault.lasts / 4)


async def fill_store(run: Run, fault: Fault) -> None:
    server = run.house.primary
    await tell(server, "CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(fault.lasts)
    await tell(server, "CONFIG", "SET", "maxmemory", "0")


async def delete_log(run: Run, fault: Fault) -> None:
    response = await run.some_response(fault.which)
    if response is not None:
        await tell(run.house.primary, "DEL", keys.log(response))


async def expire_log(run: Run, fault: Fault) -> None:
    response = await run.some_response(fault.which)
    if response is not None:
        await tell(run.house.primary, "PEXPIRE", keys.log(response), int(fault.lasts * 300))


async def trim_history(run: Run, fault: Fault) -> None:
    """Of every conversation only the newest entry is left, as where a conversation is very long."""
    for name in run.conversations:
        await tell(run.house.primary, "XTRIM", keys.conversation(name), "MAXLEN", 1)


async def hole_to_worker(run: Run, fault: Fault) -> None:
    await hole(worker(run, fault).store, fault)


async def hole_to_gateway(run: Run, fault: Fault) -> None:
    await hole(gateway(run, fault).store, fault)


async def hole_to_clients(run: Run, fault: Fault) -> None:
    await hole(gateway(run, fault).clients, fault)


async def hole(link: Link, fault: Fault) -> None:
    """Nothing gets through one way or both; then it comes late, or the connections are dead."""
    directions = (fault.which >> 8) % 3
    link.up.hole = directions != 0
    link.down.hole = directions != 1
    await asyncio.sleep(fault.lasts)
    if fault.amount < 0.5:
        link.cut()
    link.up.hole = link.down.hole = False
    link.changes()


async def deaf_gateway(run: Run, fault: Fault) -> None:
    link = gateway(run, fault).store
    link.down.deaf = True
    await asyncio.sleep(fault.lasts)
    link.down.deaf = False


async def slow_to_worker(run: Run, fault: Fault) -> None:
    await slow(worker(run, fault).store, fault)


async def slow_to_gateway(run: Run, fault: Fault) -> None:
    await slow(gateway(run, fault).store, fault)


async def slow(link: Link, fault: Fault) -> None:
    for weather in (link.up, link.down):
        weather.latency, weather.jitter = 0.1 * fault.amount, 0.15 * fault.amount
    await asyncio.sleep(fault.lasts)
    for weather in (link.up, link.down):
        weather.latency = weather.jitter = 0.0


async def slices_of_the_store(run: Run, fault: Fault) -> None:
    await sliced([weather for member in run.house.members for weather in (member.store.up, member.store.down)], fault)


async def slices_of_clients(run: Run, fault: Fault) -> None:
    link = gateway(run, fault).clients
    await sliced([link.up, link.down], fault)


async def sliced(weathers: list[Weather], fault: Fault) -> None:
    for weather in weathers:
        weather.slice = 1 + int(fault.amount * 30)
    await asyncio.sleep(fault.lasts)
    for weather in weathers:
        weather.slice = 0


async def cut_clients(run: Run, fault: Fault) -> None:
    gateway(run, fault).clients.cut()


async def half_close_clients(run: Run, fault: Fault) -> None:
    gateway(run, fault).clients.half_close()


async def slow_clients(run: Run, fault: Fault) -> None:
    link = gateway(run, fault).clients
    link.down.rate = 1000 + 20_000 * fault.amount
    await asyncio.sleep(fault.lasts)
    link.down.rate = 0.0


async def limit_clients(run: Run, fault: Fault) -> None:
    """A connection is reset after so many bytes, wherever in a frame that is."""
    link = gateway(run, fault).clients
    link.down.limit = 600 + int(3000 * fault.amount)
    await asyncio.sleep(fault.lasts)
    link.down.limit = 0


async def wrong_clock_of_worker(run: Run, fault: Fault) -> None:
    await wrong_clock(worker(run, fault), fault)


async def wrong_clock_of_gateway(run: Run, fault: Fault) -> None:
    await wrong_clock(gateway(run, fault), fault)


async def wrong_clock(member: Member, fault: Fault) -> None:
    """Killed, and started anew with a clock that is an hour wrong, which it keeps for the rest of the run."""
    member.kill()
    await member.start(skew=3600.0 if fault.amount < 0.5 else -3600.0)


STORE: Final = frozenset(
    {
        "crash store",
        "empty store",
        "old store",
        "failover",
        "failover and death",
        "split",
        "flip role",
        "freeze store",
    }
)

FAULTS: Final[dict[str, Callable[[Run, Fault], Awaitable[None]]]] = {
    "kill worker": kill_worker,
    "freeze worker": freeze_worker,
    "kill worker at its end": kill_at_end,
    "poison": poison,
    "swallow to worker": swallow_to_worker,
    "swallow to gateway": swallow_to_gateway,
    "crash store": crash_store,
    "empty store": empty_store,
    "old store": old_store,
    "failover": failover,
    "failover and death": failover_and_death,
    "split": split,
    "freeze store": freeze_store,
    "pause store": pause_store,
    "sleep store": sleep_store,
    "kill connections": kill_connections,
    "flip role": flip_role,
    "fill store": fill_store,
    "delete log": delete_log,
    "expire log": expire_log,
    "trim history": trim_history,
    "kill gateway": kill_gateway,
    "leave gateway": leave_gateway,
    "freeze gateway": freeze_gateway,
    "leave worker": leave_worker,
    "hole to worker": hole_to_worker,
    "hole to gateway": hole_to_gateway,
    "deaf gateway": deaf_gateway,
    "slow to worker": slow_to_worker,
    "slow to gateway": slow_to_gateway,
    "slices of the store": slices_of_the_store,
    "cut clients": cut_clients,
    "hole to clients": hole_to_clients,
    "half-close clients": half_close_clients,
    "slow clients": slow_clients,
    "slices of clients": slices_of_clients,
    "limit clients": limit_clients,
    "wrong clock of worker": wrong_clock_of_worker,
    "wrong clock of gateway": wrong_clock_of_gateway,
}
