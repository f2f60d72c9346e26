"""What this process counts, in the Prometheus text format."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

REGISTRY: Final = CollectorRegistry()

CONNECTIONS: Final = Gauge("tokenwire_connections", "Open sockets and event streams.", ["kind"], registry=REGISTRY)
WEBSOCKETS: Final = CONNECTIONS.labels("websocket")
EVENT_STREAMS: Final = CONNECTIONS.labels("sse")
ROOMS: Final = Gauge("tokenwire_rooms", "Conversations held in memory.", registry=REGISTRY)
MESSAGES: Final = Counter("tokenwire_feed_messages", "Messages received from the store's channels.", registry=REGISTRY)
READS: Final = Counter("tokenwire_log_reads", "Logs read whole from the store.", ["log"], registry=REGISTRY)
REPAIRS: Final = Counter("tokenwire_repairs", "Entries found only by comparing with the store.", registry=REGISTRY)
SUBSCRIPTIONS: Final = Counter("tokenwire_subscriptions", "Times the subscription was made anew.", registry=REGISTRY)
REFUSED: Final = Counter("tokenwire_refused", "Connections closed, by close code.", ["code"], registry=REGISTRY)
