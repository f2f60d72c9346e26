"""`tokenwire` with a heartbeat every second, for tests that have no minute to wait for a proxy's patience to end."""

from __future__ import annotations

from gateway import frame_codec, wire
from gateway.cli.main import main
from gateway.transports import event_stream, websocket

EVERY = 1

# Constants for everybody else.
vars(wire)["HEARTBEAT_S"] = vars(frame_codec)["HEARTBEAT_S"] = vars(websocket)["HEARTBEAT_INTERVAL_S"] = vars(
    event_stream
)["KEEP_ALIVE_S"] = EVERY

if __name__ == "__main__":
    main()
