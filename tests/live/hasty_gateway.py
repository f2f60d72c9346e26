"""`tokenwire` with a heartbeat every second, for tests that have no minute to wait for a proxy's patience to end."""

from __future__ import annotations

from gateway import connection, wire
from gateway.cli import main
from gateway.dialects import sse

EVERY = 1

# Constants for everybody else.
vars(wire)["HEARTBEAT"] = vars(connection)["HEARTBEAT_AFTER"] = vars(sse)["KEEP_ALIVE"] = EVERY

if __name__ == "__main__":
    main()
