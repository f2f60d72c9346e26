"""Test clusters of real servers: a primary with a replica and sentinels, and a Redis Cluster."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.streams.store.topology import SLOTS
from tests.stores import RealServer, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.stores import ServerProgram

SERVICE: Final = "tokenwire"
DOWN_AFTER_S: Final = 1.0
"""Seconds until an unresponsive server is considered down. A replica that was disconnected ten times as long cannot be
promoted."""

AGREEMENT_TIMEOUT_S: Final = 30.0
FAST_SYNC: Final = ("--repl-diskless-sync-delay", "0", "--repl-timeout", "5")


def until(condition: Callable[[], Any], description: str, seconds: float = AGREEMENT_TIMEOUT_S) -> Any:
    """Wait until the condition returns a true value, and return it; `description` is for the failure message."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if result := condition():
                return result
        except (redis.RedisError, OSError):
            # The server is starting or was just killed.
            pass
        assert time.monotonic() < deadline, f"not within {seconds} s: {description}"
        time.sleep(0.02)


class _ServerGroup:
    """Servers that a test kills, freezes and starts together, like a rack."""

    servers: list[RealServer]

    def kill(self) -> None:
        """Kill every server, like a crash."""
        for server in self.servers:
            server.kill()

    def restart(self) -> None:
        """Kill every server and start it with the written data."""
        self.kill()
        for server in self.servers:
            server.start()

    def freeze(self) -> None:
        """Freeze every server."""
        for server in self.servers:
            server.freeze()

    def resume(self) -> None:
        """Resume every server."""
        for server in self.servers:
            server.resume()

    def stop_replication(self, primary: RealServer, replica: RealServer) -> None:
        """Stop the replication: the replica has all earlier writes of its primary and receives no later ones."""
        written = primary.command("INFO", "replication")["master_repl_offset"]
        until(
            lambda: replica.command("INFO", "replication")["slave_repl_offset"] >= written,
            "replica has all writes",
        )
        # A wrong password, so that the primary rejects the replica's handshake.
        replica.command("CONFIG", "SET", "masterauth", "wrong")
        primary.command("CLIENT", "KILL", "TYPE", "replica")

    def restart_replication(self) -> None:
        """Restart the replication and wait until the servers agree."""
        for server in self.servers:
            server.command("CONFIG", "SET", "masterauth", "")
        self.wait_until_agreed()

    def wait_until_agreed(self) -> None:
        """Wait until all servers agree and replicas are in sync."""
        raise NotImplementedError


class RealSentinels(_ServerGroup):
    """A primary, one replica and three sentinels."""

    def __init__(self, program: ServerProgram = "valkey", *options: str) -> None:
        """`options` are appended to the command lines of the servers."""
        self._program: ServerProgram = program
        self._options = (*FAST_SYNC, *options)
        self._stack = ExitStack()
        self.servers: list[RealServer] = []
        self.ports: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """Return the URL, which does not depend on the current primary."""
        return f"sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{SERVICE}"

    @property
    def primary(self) -> RealServer:
        """Return the primary according to the sentinels."""
        port = int(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> RealServer:
        """Return the server that is not the primary."""
        primary = self.primary
        return next(server for server in self.servers if server is not primary)

    def ask(self, *words: str, sentinel: int = 0) -> Any:
        """Send a command to a sentinel and return its reply."""
        with redis.Redis(port=self.ports[sentinel], socket_timeout=5.0, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*words)

    def promote(self) -> None:
        """Promote the replica, and wait until the old primary follows it."""
        self.fail_over()
        self.wait_until_agreed()

    def fail_over(self) -> None:
        """Promote the replica, even if it lacks writes."""
        before = self.primary

        def done() -> bool:
            if self.primary is not before:
                return True
            # Repeated, because sentinels abort a failover if the replica replies late. It fails during a failover.
            self.ask("SENTINEL", "FAILOVER", SERVICE)
            return False

        until(done, "another primary")

    def wait_until_agreed(self) -> None:
        """Wait until the sentinels agree and the replica follows its primary."""

        def agree() -> bool:
            found = {tuple(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE, sentinel=n)) for n in range(3)}
            return len(found) == 1

        until(agree, "sentinels that agree")
        until(lambda: follows(self.replica, self.primary), "a replica that follows")

        # A sentinel that still considers the old primary a primary demotes it again (+convert-to-slave), also while a
        # failover promotes it. That failover then times out.
        def informed() -> bool:
            replicas = [self.ask("SENTINEL", "REPLICAS", SERVICE, sentinel=n) for n in range(3)]
            return all([each[b"role-reported"] for each in known] == [b"slave"] for known in replicas)

        until(informed, "sentinels that know the replica and its role")

    def start(self) -> Self:
        """Start all servers; return when they agree."""
        try:
            self.servers = [self._stack.enter_context(RealServer(self._program, *self._options)) for _ in range(2)]
            primary, replica = self.servers
            replica.command("REPLICAOF", "127.0.0.1", primary.port)
            for _ in range(3):
                self._start_sentinel(primary)
            self.wait_until_agreed()

            def discovered() -> bool:
                replies = [self.ask("SENTINEL", "MASTER", SERVICE, sentinel=n) for n in range(3)]
                return all(each[b"num-other-sentinels"] == b"2" and each[b"num-slaves"] == b"1" for each in replies)

            until(discovered, "sentinels that know each other")
        except BaseException:
            self.close()
            raise
        return self

    def _start_sentinel(self, primary: RealServer) -> None:
        port = free_port()
        configuration = primary.folder / f"sentinel-{port}.conf"
        milliseconds = int(DOWN_AFTER_S * 1000)
        configuration.write_text(
            f"bind 127.0.0.1\nport {port}\ndir {primary.folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {milliseconds}\n"
            f"sentinel failover-timeout {SERVICE} 4000\n"
        )
        with (primary.folder / "sentinel.log").open("ab") as output:
            process = subprocess.Popen(
                [primary.program, str(configuration), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self._processes.append(process)
        self.ports.append(port)
        # By default sentinels need ten seconds to discover each other and the replica. PING-PERIOD stays above 200 ms:
        # while the primary is down, a sentinel rejects a replica whose INFO is older than five ping periods, and it
        # requests INFO once a second. With 100 ms every other failover was aborted (-failover-abort-no-good-slave), and
        # the next try came 8 s later (twice the failover-timeout).
        # Four publish periods must exceed the duration of a failover. Otherwise a sentinel that does not know of it yet
        # demotes the promoted replica (+convert-to-slave), both servers are replicas, and the failover is reverted.
        quick = ("INFO-PERIOD", "200", "PUBLISH-PERIOD", "400", "ASK-PERIOD", "200", "PING-PERIOD", "300")
        until(lambda: self.ask("SENTINEL", "DEBUG", *quick, sentinel=-1), "a sentinel that answers")

    @contextmanager
    def one_frozen(self) -> Iterator[None]:
        """Freeze one sentinel for the duration of the block."""
        self._processes[0].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._processes[0].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill all servers and remove their data."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class RealCluster(_ServerGroup):
    """Three primaries with one replica each."""

    def __init__(self, program: ServerProgram = "valkey", *options: str) -> None:
        """`options` are appended to the command lines of the servers."""
        self._program: ServerProgram = program
        self._options = (
            *FAST_SYNC,
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(int(DOWN_AFTER_S * 1000))),
            *("--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no"),
            *options,
        )
        self._stack = ExitStack()
        self.servers: list[RealServer] = []

    @property
    def url(self) -> str:
        """Return the URL with two of the nodes, which know the others."""
        return f"cluster://127.0.0.1:{self.servers[0].port},127.0.0.1:{self.servers[1].port}"

    def name(self, server: RealServer) -> str:
        """Return the id of a node."""
        return str(server.command("CLUSTER", "MYID").decode())

    def primaries(self) -> list[RealServer]:
        """Return the primaries in the order of their slots, according to the first node that replies."""
        reply = until(lambda: next(filter(None, map(_slots, self.servers)), None), "a node that answers")
        ports = dict.fromkeys(int(entry[2][1]) for entry in sorted(reply, key=lambda entry: int(entry[0])))
        return [next(server for server in self.servers if server.port == port) for port in ports]

    def owner(self, slot: int) -> RealServer:
        """Return the owner of a slot."""
        reply = until(lambda: next(filter(None, map(_slots, self.servers)), None), "a node that answers")
        port = next(int(entry[2][1]) for entry in reply if entry[0] <= slot <= entry[1])
        return next(server for server in self.servers if server.port == port)

    def migrate(self, slot: int, target: RealServer, keys: int = 1000) -> None:
        """Move a slot to another primary key by key, while it is in use."""
        self.begin_migration(slot, target)
        while self.migrate_keys(slot, target, keys):
            pass
        self.end_migration(slot, target)

    def migrate_atomically(self, slot: int, target: RealServer) -> None:
        """Move a slot with the atomic migration of Valkey 9."""
        source = self.owner(slot)
        source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.name(target))
        until(lambda: self.owner(slot) is target, "a slot that has moved")

    def begin_migration(self, slot: int, target: RealServer) -> None:
        """Start a migration: keys of the slot may be at either primary."""
        source = self.owner(slot)
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.name(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.name(target))

    def migrate_keys(self, slot: int, target: RealServer, count: int = 1000) -> int:
        """Move at most `count` keys of a slot; return the number of moved keys."""
        source = self.owner(slot)
        keys: list[bytes] = source.command("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_migration(self, slot: int, target: RealServer) -> None:
        """Assign the slot to the target and notify all primaries."""
        name = self.name(target)
        # The target first: until then the source redirects clients only to a node that owns the slot.
        for server in sorted(self.primaries(), key=lambda server: server is not target):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", name)

    def replica(self, primary: RealServer) -> RealServer:
        """Return the replica of a primary; wait until it has one."""
        found: RealServer = until(lambda: self._follower(primary), "a replica that follows")
        return found

    def _follower(self, primary: RealServer) -> RealServer | None:
        others = [server for server in self.servers if server is not primary and server.running]
        return next((server for server in others if follows(server, primary)), None)

    def start(self) -> Self:
        """Start all servers; return when they agree."""
        try:
            buses = [free_port() for _ in range(6)]
            for bus in buses:
                server = RealServer(self._program, *self._options, "--cluster-port", str(bus))
                self.servers.append(self._stack.enter_context(server))
            share = SLOTS // 3
            for number, server in enumerate(self.servers[:3]):
                last = SLOTS if number == 2 else (number + 1) * share
                server.command("CLUSTER", "ADDSLOTSRANGE", number * share, last - 1)
            first = self.servers[0]
            for number, server in enumerate(self.servers):
                server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                if number:
                    first.command("CLUSTER", "MEET", "127.0.0.1", server.port, buses[number])
            until(lambda: all(len(_nodes(server)) == 6 for server in self.servers), "nodes that know each other")
            for primary, replica in zip(self.servers[:3], self.servers[3:], strict=True):
                replica.command("CLUSTER", "REPLICATE", self.name(primary))
            self.wait_until_agreed()
        except BaseException:
            self.close()
            raise
        return self

    def wait_until_agreed(self) -> None:
        """Wait until all nodes agree on the slots and every replica follows its primary."""

        def agree() -> bool:
            replies = [_slots(server) for server in self.servers]
            if None in replies:
                return False
            owners = {str(sorted((entry[0], entry[1], entry[2][1]) for entry in entries)) for entries in replies}
            states = {b"cluster_state:ok" in server.command("CLUSTER", "INFO") for server in self.servers}
            return len(owners) == 1 and states == {True}

        until(agree, "nodes that agree")
        until(lambda: None not in map(self._follower, self.primaries()), "replicas that follow")

    def close(self) -> None:
        """Kill all servers and remove their data."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def follows(server: RealServer, primary: RealServer) -> bool:
    """Return whether a server is a replica in sync with `primary`."""
    state = server.command("INFO", "replication")
    return bool(
        state["role"] == "slave" and int(state["master_port"]) == primary.port and state["master_link_status"] == "up"
    )


def _slots(server: RealServer) -> Any:
    try:
        with redis.Redis(
            unix_socket_path=str(server.socket), socket_timeout=2.0, retry=Retry(NoBackoff(), 0)
        ) as client:
            return client.execute_command("CLUSTER", "SLOTS")
    except (redis.RedisError, OSError):
        return None


def _nodes(server: RealServer) -> list[bytes]:
    # Two words, so that redis-py does not parse the reply.
    lines: list[bytes] = server.command("CLUSTER", "NODES").splitlines()
    return [line for line in lines if b"handshake" not in line]
