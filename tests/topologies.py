"""Real servers that belong together: a primary with its replica and sentinels, and a cluster."""

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

    from tests.stores import Make

SERVICE: Final = "tokenwire"
DOWN_AFTER: Final = 1.0
"""Seconds until a server that does not answer is taken for down. Who was cut off for ten times as long is not made the
primary any more.
"""

TOGETHER_WITHIN: Final = 30.0
AT_ONCE: Final = ("--repl-diskless-sync-delay", "0", "--repl-timeout", "5")


def until(condition: Callable[[], Any], what: str, seconds: float = TOGETHER_WITHIN) -> Any:
    """Wait until the condition holds, and return what it returned; `what` is told of one that does not."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if result := condition():
                return result
        except (redis.RedisError, OSError):
            # It starts, or has just been killed.
            pass
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class _Together:
    """Servers that a test ends, freezes and starts as one; which is what becomes of a rack."""

    servers: list[RealServer]

    def kill(self) -> None:
        """End every server at once, as a crash does."""
        for server in self.servers:
            server.kill()

    def restart(self) -> None:
        """Crash, and start every server with the data that were written."""
        self.kill()
        for server in self.servers:
            server.start()

    def freeze(self) -> None:
        """Stop every server where it is."""
        for server in self.servers:
            server.freeze()

    def resume(self) -> None:
        """Let every server go on."""
        for server in self.servers:
            server.resume()

    def cut_off(self, primary: RealServer, replica: RealServer) -> None:
        """From now on the replica gets nothing of what its primary acknowledges; what was before, it has."""
        written = primary.command("INFO", "replication")["master_repl_offset"]
        until(
            lambda: replica.command("INFO", "replication")["slave_repl_offset"] >= written,
            "a replica that has what was written",
        )
        # A password that the primary does not want: it refuses the replica's handshake.
        replica.command("CONFIG", "SET", "masterauth", "wrong")
        primary.command("CLIENT", "KILL", "TYPE", "replica")

    def reunite(self) -> None:
        """Let replicas follow again; wait until everything is together."""
        for server in self.servers:
            server.command("CONFIG", "SET", "masterauth", "")
        self.together()

    def together(self) -> None:
        """Wait until all are agreed, and replicas follow."""
        raise NotImplementedError


class RealSentinels(_Together):
    """A primary, one replica of it, and three sentinels that watch over them."""

    def __init__(self, make: Make = "valkey", *options: str) -> None:
        """`options` are added to the servers' command lines."""
        self._make: Make = make
        self._options = (*AT_ONCE, *options)
        self._stack = ExitStack()
        self.servers: list[RealServer] = []
        self.ports: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """The address, which stays the same whoever is the primary."""
        return f"sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{SERVICE}"

    @property
    def primary(self) -> RealServer:
        """The server that the sentinels call the primary."""
        port = int(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> RealServer:
        """The other server."""
        primary = self.primary
        return next(server for server in self.servers if server is not primary)

    def ask(self, *words: str, sentinel: int = 0) -> Any:
        """Send a command to one of the sentinels."""
        with redis.Redis(port=self.ports[sentinel], socket_timeout=5.0, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*words)

    def promote(self) -> None:
        """Make the replica the primary, in order, and wait until the old primary follows it."""
        self.fail_over()
        self.together()

    def fail_over(self) -> None:
        """Make the replica the primary, whatever it has."""
        before = self.primary

        def done() -> bool:
            if self.primary is not before:
                return True
            # Again and again, because sentinels give up with a replica that took half a second to answer. While one is
            # under way, this is refused.
            self.ask("SENTINEL", "FAILOVER", SERVICE)
            return False

        until(done, "another primary")

    def together(self) -> None:
        """Wait until the sentinels agree, and the replica follows its primary."""

        def agree() -> bool:
            found = {tuple(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE, sentinel=n)) for n in range(3)}
            return len(found) == 1

        until(agree, "sentinels that agree")
        until(lambda: follows(self.replica, self.primary), "a replica that follows")

        def known() -> bool:
            return bool(self.ask("SENTINEL", "MASTER", SERVICE)[b"num-slaves"] == b"1")

        until(known, "sentinels that know of the replica")

    def start(self) -> Self:
        """Start everything; return when it is together."""
        try:
            self.servers = [self._stack.enter_context(RealServer(self._make, *self._options)) for _ in range(2)]
            primary, replica = self.servers
            replica.command("REPLICAOF", "127.0.0.1", primary.port)
            for _ in range(3):
                self._start_sentinel(primary)
            self.together()

            def acquainted() -> bool:
                told = [self.ask("SENTINEL", "MASTER", SERVICE, sentinel=n) for n in range(3)]
                return all(each[b"num-other-sentinels"] == b"2" and each[b"num-slaves"] == b"1" for each in told)

            until(acquainted, "sentinels that know each other")
        except BaseException:
            self.close()
            raise
        return self

    def _start_sentinel(self, primary: RealServer) -> None:
        port = free_port()
        configuration = primary.folder / f"sentinel-{port}.conf"
        milliseconds = int(DOWN_AFTER * 1000)
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
        quick = ("INFO-PERIOD", "200", "PUBLISH-PERIOD", "200", "ASK-PERIOD", "200", "PING-PERIOD", "300")
        until(lambda: self.ask("SENTINEL", "DEBUG", *quick, sentinel=-1), "a sentinel that answers")

    @contextmanager
    def one_frozen(self) -> Iterator[None]:
        """A block in which one sentinel does not answer."""
        self._processes[0].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._processes[0].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End everything and remove its data."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class RealCluster(_Together):
    """Three primaries, and a replica for each."""

    def __init__(self, make: Make = "valkey", *options: str) -> None:
        """`options` are added to the servers' command lines."""
        self._make: Make = make
        self._options = (
            *AT_ONCE,
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(int(DOWN_AFTER * 1000))),
            *("--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no"),
            *options,
        )
        self._stack = ExitStack()
        self.servers: list[RealServer] = []

    @property
    def url(self) -> str:
        """The address: two of the nodes, which know the others."""
        return f"cluster://127.0.0.1:{self.servers[0].port},127.0.0.1:{self.servers[1].port}"

    def name(self, server: RealServer) -> str:
        """A node's id."""
        return str(server.command("CLUSTER", "MYID").decode())

    def primaries(self) -> list[RealServer]:
        """Who has slots, in their order, as the first node that answers says."""
        reply = until(lambda: next(filter(None, map(_slots, self.servers)), None), "a node that answers")
        ports = dict.fromkeys(int(entry[2][1]) for entry in sorted(reply, key=lambda entry: int(entry[0])))
        return [next(server for server in self.servers if server.port == port) for port in ports]

    def owner(self, slot: int) -> RealServer:
        """Who has a slot."""
        reply = until(lambda: next(filter(None, map(_slots, self.servers)), None), "a node that answers")
        port = next(int(entry[2][1]) for entry in reply if entry[0] <= slot <= entry[1])
        return next(server for server in self.servers if server.port == port)

    def migrate(self, slot: int, target: RealServer, keys: int = 1000) -> None:
        """Move a slot to another primary, key by key, while it is used."""
        self.begin_migration(slot, target)
        while self.migrate_keys(slot, target, keys):
            pass
        self.end_migration(slot, target)

    def migrate_at_once(self, slot: int, target: RealServer) -> None:
        """Let Valkey 9 move a slot by itself."""
        source = self.owner(slot)
        source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.name(target))
        until(lambda: self.owner(slot) is target, "a slot that has moved")

    def begin_migration(self, slot: int, target: RealServer) -> None:
        """From now on keys of the slot may be at either of the two."""
        source = self.owner(slot)
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.name(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.name(target))

    def migrate_keys(self, slot: int, target: RealServer, count: int = 1000) -> int:
        """Move at most so many keys of a slot; return how many there were."""
        source = self.owner(slot)
        keys: list[bytes] = source.command("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_migration(self, slot: int, target: RealServer) -> None:
        """The slot is the target's, and everybody is told."""
        name = self.name(target)
        # The target first: should the source be asked in between, it redirects to who says that it is the owner.
        for server in sorted(self.primaries(), key=lambda server: server is not target):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", name)

    def replica(self, primary: RealServer) -> RealServer:
        """The replica of a primary, once it has one."""
        found: RealServer = until(lambda: self._follower(primary), "a replica that follows")
        return found

    def _follower(self, primary: RealServer) -> RealServer | None:
        others = [server for server in self.servers if server is not primary and server.running]
        return next((server for server in others if follows(server, primary)), None)

    def start(self) -> Self:
        """Start everything; return when it is together."""
        try:
            buses = [free_port() for _ in range(6)]
            for bus in buses:
                server = RealServer(self._make, *self._options, "--cluster-port", str(bus))
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
            self.together()
        except BaseException:
            self.close()
            raise
        return self

    def together(self) -> None:
        """Wait until all nodes agree on who has which slot, and every replica follows its primary."""

        def agree() -> bool:
            told = [_slots(server) for server in self.servers]
            if None in told:
                return False
            owners = {str(sorted((entry[0], entry[1], entry[2][1]) for entry in entries)) for entries in told}
            states = {b"cluster_state:ok" in server.command("CLUSTER", "INFO") for server in self.servers}
            return len(owners) == 1 and states == {True}

        until(agree, "nodes that agree")
        until(lambda: None not in map(self._follower, self.primaries()), "replicas that follow")

    def close(self) -> None:
        """End everything and remove its data."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def follows(server: RealServer, primary: RealServer) -> bool:
    """Tell whether a server is a replica that has all that its primary has."""
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
    # Said in two words, so that redis-py leaves the reply as it is.
    lines: list[bytes] = server.command("CLUSTER", "NODES").splitlines()
    return [line for line in lines if b"handshake" not in line]
