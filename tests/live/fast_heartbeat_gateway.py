"""`tokenwire` with a heartbeat every second, for tests of the idle timeouts of proxies."""

from __future__ import annotations

from gateway import frame_codec, wire
from gateway.cli.main import main
from gateway.transports import event_stream, websocket

INTERVAL_S = 1

# They are constants in the product.
vars(wire)["HEARTBEAT_S"] = vars(frame_codec)["HEARTBEAT_S"] = vars(websocket)["HEARTBEAT_INTERVAL_S"] = vars(
    event_stream
)["KEEP_ALIVE_S"] = INTERVAL_S

if __name__ == "__main__":
    main()
