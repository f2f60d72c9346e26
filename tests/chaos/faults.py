"""Fault injectors. Each injects a fault into a deployment and undoes it as far as possible."""

from __future__ import annotations

import asyncio
import shutil
import signal
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from gateway.streams import keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.chaos.deployment import Deployment, Instance
    from tests.chaos.link import Conditions, Link
    from tests.chaos.run import Run
    from tests.chaos.schedule import Fault
    from tests.stores import RealServer


async def inject(run: Run, fault: Fault) -> None:
    """Inject a fault; return when it is over."""
    if fault.kind in STORE:
        # Store faults are serialized: each expects a primary and a replica that the previous fault may have replaced.
        async with run.deployment.replacing:
            await FAULTS[fault.kind](run, fault)
    else:
        await FAULTS[fault.kind](run, fault)


async def send_command(server: RealServer, *words: str | int) -> None:
    """Send a command to a server; ignored if the server is down."""
    try:
        await asyncio.to_thread(server.command, *words)
    except (RedisError, OSError):
        pass


def worker(run: Run, fault: Fault) -> Instance:
    """Return the target worker of a fault."""
    return run.deployment.workers[fault.target % len(run.deployment.workers)]


def gateway(run: Run, fault: Fault) -> Instance:
    """Return the target gateway of a fault."""
    return run.deployment.gateways[fault.target % len(run.deployment.gateways)]


async def kill_worker(run: Run, fault: Fault) -> None:
    await kill(worker(run, fault), fault.duration)


async def kill_gateway(run: Run, fault: Fault) -> None:
    await kill(gateway(run, fault), fault.duration)


async def kill(instance: Instance, duration: float) -> None:
    instance.kill()
    await asyncio.sleep(duration)
    if instance.child is None:
        await instance.start()


async def freeze_worker(run: Run, fault: Fault) -> None:
    await freeze(worker(run, fault), fault.duration)


async def freeze_gateway(run: Run, fault: Fault) -> None:
    await freeze(gateway(run, fault), fault.duration)


async def freeze(instance: Instance, duration: float) -> None:
    instance.signal(signal.SIGSTOP)
    await asyncio.sleep(duration)
    instance.signal(signal.SIGCONT)


async def kill_at_end(run: Run, fault: Fault) -> None:
    """Kill a worker between the last token, the end and the acknowledgement: shortly after its provider call ends."""
    finished = {id(call) for call in run.calls() if call.finished}
    deadline = run.now() + 4.0
    while run.now() < deadline:
        for call in run.calls():
            if call.finished and id(call) not in finished:
                # The last append, the end and the acknowledgement happen within about 10 ms.
                await asyncio.sleep(0.03 * fault.severity)
                await kill(run.caller(call), fault.duration)
                return
        await asyncio.sleep(0.001)


async def poison_message(run: Run, fault: Fault) -> None:
    """Kill every worker that takes one particular question, twice at most."""
    text_keys = run.keys()
    key = text_keys[fault.target % len(text_keys)]
    killed = 0
    deadline = run.now() + 8.0
    while killed < 2 and run.now() < deadline:
        calls = run.script.calls.get(key, [])
        if len(calls) > killed and (calls[killed].sent > 2 or calls[killed].finished):
            await kill(run.caller(calls[killed]), 0.1)
            killed += 1
        await asyncio.sleep(0.005)


async def drain_worker(run: Run, fault: Fault) -> None:
    await drain(run, worker(run, fault), 1.0 + 8.0)


async def drain_gateway(run: Run, fault: Fault) -> None:
    await drain(run, gateway(run, fault), 15.0)


async def drain(run: Run, instance: Instance, within: float) -> None:
    await instance.terminate(within)
    if instance.child is None:
        await instance.start()


async def drop_reply_to_worker(run: Run, fault: Fault) -> None:
    await drop_replies(worker(run, fault).store, fault)


async def drop_reply_to_gateway(run: Run, fault: Fault) -> None:
    await drop_replies(gateway(run, fault).store, fault)


async def drop_replies(link: Link, fault: Fault) -> None:
    """Drop the next reply of the store, several times."""
    for _ in range(1 + int(fault.severity * 4)):
        link.down.drop_next = True
        await asyncio.sleep(fault.duration / 4)
    link.down.drop_next = False


async def crash_store(run: Run, fault: Fault) -> None:
    deployment = run.deployment
    await asyncio.to_thread(deployment.primary.kill)
    await asyncio.sleep(fault.duration)
    await asyncio.to_thread(deployment.primary.start)


async def wipe_store(run: Run, fault: Fault) -> None:
    deployment = run.deployment
    await asyncio.to_thread(deployment.primary.kill)
    for path in deployment.primary.folder.glob("appendonly*"):
        shutil.rmtree(path, ignore_errors=True)
    await asyncio.sleep(fault.duration)
    await asyncio.to_thread(deployment.primary.start)


async def roll_back_store(run: Run, fault: Fault) -> None:
    """Restart the store with the data that it had some time before its crash."""
    server = run.deployment.primary
    (saved,) = server.folder.glob("appendonly*")
    copy = saved.with_name("before")
    await asyncio.to_thread(shutil.copytree, saved, copy)
    await asyncio.sleep(fault.duration)
    await asyncio.to_thread(server.kill)
    shutil.rmtree(saved)
    copy.rename(saved)
    await asyncio.to_thread(server.start)


async def failover(run: Run, fault: Fault) -> None:
    await fail_over(run, fault)


async def failover_and_kill_workers(run: Run, fault: Fault) -> None:
    """Fail over, and kill the workers, which know the lost writes."""
    await fail_over(run, fault, deaths=run.deployment.workers)


async def fail_over(run: Run, fault: Fault, deaths: list[Instance] | None = None) -> None:
    """Promote the replica without the writes of the last `duration` seconds."""
    deployment = run.deployment
    deployment.replication.down.blackhole = True
    await asyncio.sleep(fault.duration)
    for instance in deaths or ():
        instance.kill()
    await asyncio.to_thread(deployment.promote)
    for instance in deployment.instances:
        deployment.switch(instance)
    for instance in deaths or ():
        await instance.start()
    await rejoin(deployment)


async def split_brain(run: Run, fault: Fault) -> None:
    """Promote the replica while the old primary still acknowledges writes; redirect some instances later."""
    deployment = run.deployment
    deployment.replication.down.blackhole = True
    await asyncio.sleep(0.3 * fault.severity)
    await asyncio.to_thread(deployment.promote)
    immediate = [instance for number, instance in enumerate(deployment.instances) if fault.target >> number & 1]
    for instance in immediate:
        deployment.switch(instance)
    await asyncio.sleep(fault.duration)
    for instance in deployment.instances:
        if instance not in immediate:
            deployment.switch(instance)
    await rejoin(deployment)


async def rejoin(deployment: Deployment) -> None:
    """Make the old primary a replica of the new one."""
    deployment.replication.cut()
    deployment.replication.restore()
    deployment.replication.target = deployment.address
    await send_command(deployment.replica, "REPLICAOF", "127.0.0.1", deployment.replication.port)


async def flip_role(run: Run, fault: Fault) -> None:
    """Make the primary follow its replica for a while; it returns without a tail. Its clients stay connected."""
    deployment = run.deployment
    deployment.replication.down.blackhole = True
    await asyncio.sleep(0.2 * fault.severity)
    await send_command(deployment.replica, "REPLICAOF", "NO", "ONE")
    await send_command(deployment.primary, "REPLICAOF", "127.0.0.1", deployment.replica.port)
    await asyncio.sleep(fault.duration)
    await send_command(deployment.primary, "REPLICAOF", "NO", "ONE")
    await rejoin(deployment)


async def freeze_store(run: Run, fault: Fault) -> None:
    server = run.deployment.primary
    server.freeze()
    await asyncio.sleep(fault.duration)
    server.resume()


async def pause_store(run: Run, fault: Fault) -> None:
    await send_command(run.deployment.primary, "CLIENT", "PAUSE", int(fault.duration * 1000))
    await asyncio.sleep(fault.duration)


async def block_store(run: Run, fault: Fault) -> None:
    await send_command(run.deployment.primary, "DEBUG", "SLEEP", str(fault.duration))


async def kill_connections(run: Run, fault: Fault) -> None:
    for _ in range(1 + int(fault.severity * 4)):
        for kind in ("normal", "pubsub"):
            await send_command(run.deployment.primary, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await asyncio.sleep(fault.duration / 4)


async def fill_store(run: Run, fault: Fault) -> None:
    server = run.deployment.primary
    await send_command(server, "CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(fault.duration)
    await send_command(server, "CONFIG", "SET", "maxmemory", "0")


async def delete_log(run: Run, fault: Fault) -> None:
    response = await run.some_response(fault.target)
    if response is not None:
        await send_command(run.deployment.primary, "DEL", keys.log(response))


async def expire_log(run: Run, fault: Fault) -> None:
    response = await run.some_response(fault.target)
    if response is not None:
        await send_command(run.deployment.primary, "PEXPIRE", keys.log(response), int(fault.duration * 300))


async def trim_history(run: Run, fault: Fault) -> None:
    """Trim every history to its newest entry, as for a very long conversation."""
    for name in run.conversations:
        await send_command(run.deployment.primary, "XTRIM", keys.history(name), "MAXLEN", 1)


async def blackhole_worker(run: Run, fault: Fault) -> None:
    await blackhole(worker(run, fault).store, fault)


async def blackhole_gateway(run: Run, fault: Fault) -> None:
    await blackhole(gateway(run, fault).store, fault)


async def blackhole_clients(run: Run, fault: Fault) -> None:
    await blackhole(gateway(run, fault).clients, fault)


async def blackhole(link: Link, fault: Fault) -> None:
    """Hold back bytes in one or both directions; then deliver them late or reset the connections."""
    directions = (fault.target >> 8) % 3
    link.up.blackhole = directions != 0
    link.down.blackhole = directions != 1
    await asyncio.sleep(fault.duration)
    if fault.severity < 0.5:
        link.cut()
    link.up.blackhole = link.down.blackhole = False
    link.notify()


async def drop_publishes_to_gateway(run: Run, fault: Fault) -> None:
    link = gateway(run, fault).store
    link.down.drop_publishes = True
    await asyncio.sleep(fault.duration)
    link.down.drop_publishes = False


async def delay_worker(run: Run, fault: Fault) -> None:
    await delay(worker(run, fault).store, fault)


async def delay_gateway(run: Run, fault: Fault) -> None:
    await delay(gateway(run, fault).store, fault)


async def delay(link: Link, fault: Fault) -> None:
    for conditions in (link.up, link.down):
        conditions.latency, conditions.jitter = 0.1 * fault.severity, 0.15 * fault.severity
    await asyncio.sleep(fault.duration)
    for conditions in (link.up, link.down):
        conditions.latency = conditions.jitter = 0.0


async def fragment_store_traffic(run: Run, fault: Fault) -> None:
    await fragment(
        [
            conditions
            for instance in run.deployment.instances
            for conditions in (instance.store.up, instance.store.down)
        ],
        fault,
    )


async def fragment_client_traffic(run: Run, fault: Fault) -> None:
    link = gateway(run, fault).clients
    await fragment([link.up, link.down], fault)


async def fragment(directions: list[Conditions], fault: Fault) -> None:
    for conditions in directions:
        conditions.chunk_bytes = 1 + int(fault.severity * 30)
    await asyncio.sleep(fault.duration)
    for conditions in directions:
        conditions.chunk_bytes = 0


async def cut_clients(run: Run, fault: Fault) -> None:
    gateway(run, fault).clients.cut()


async def half_close_clients(run: Run, fault: Fault) -> None:
    gateway(run, fault).clients.half_close()


async def throttle_clients(run: Run, fault: Fault) -> None:
    link = gateway(run, fault).clients
    link.down.rate = 1000 + 20_000 * fault.severity
    await asyncio.sleep(fault.duration)
    link.down.rate = 0.0


async def reset_clients_after_bytes(run: Run, fault: Fault) -> None:
    """Reset connections after a number of bytes, at any position in a frame."""
    link = gateway(run, fault).clients
    link.down.reset_after_bytes = 600 + int(3000 * fault.severity)
    await asyncio.sleep(fault.duration)
    link.down.reset_after_bytes = 0


async def skew_worker_clock(run: Run, fault: Fault) -> None:
    await skew_clock(worker(run, fault), fault)


async def skew_gateway_clock(run: Run, fault: Fault) -> None:
    await skew_clock(gateway(run, fault), fault)


async def skew_clock(instance: Instance, fault: Fault) -> None:
    """Restart a process with a clock that is an hour wrong, for the rest of the run."""
    instance.kill()
    await instance.start(skew=3600.0 if fault.severity < 0.5 else -3600.0)


STORE: Final = frozenset(
    {
        "crash store",
        "wipe store",
        "roll back store",
        "failover",
        "failover and kill workers",
        "split brain",
        "flip role",
        "freeze store",
    }
)

FAULTS: Final[dict[str, Callable[[Run, Fault], Awaitable[None]]]] = {
    "kill worker": kill_worker,
    "freeze worker": freeze_worker,
    "kill worker at end": kill_at_end,
    "poison message": poison_message,
    "drop reply to worker": drop_reply_to_worker,
    "drop reply to gateway": drop_reply_to_gateway,
    "crash store": crash_store,
    "wipe store": wipe_store,
    "roll back store": roll_back_store,
    "failover": failover,
    "failover and kill workers": failover_and_kill_workers,
    "split brain": split_brain,
    "freeze store": freeze_store,
    "pause store": pause_store,
    "block store": block_store,
    "kill connections": kill_connections,
    "flip role": flip_role,
    "fill store": fill_store,
    "delete log": delete_log,
    "expire log": expire_log,
    "trim history": trim_history,
    "kill gateway": kill_gateway,
    "drain gateway": drain_gateway,
    "freeze gateway": freeze_gateway,
    "drain worker": drain_worker,
    "blackhole worker": blackhole_worker,
    "blackhole gateway": blackhole_gateway,
    "drop publishes to gateway": drop_publishes_to_gateway,
    "delay worker": delay_worker,
    "delay gateway": delay_gateway,
    "fragment store traffic": fragment_store_traffic,
    "cut clients": cut_clients,
    "blackhole clients": blackhole_clients,
    "half-close clients": half_close_clients,
    "throttle clients": throttle_clients,
    "fragment client traffic": fragment_client_traffic,
    "reset clients after bytes": reset_clients_after_bytes,
    "skew worker clock": skew_worker_clock,
    "skew gateway clock": skew_gateway_clock,
}
