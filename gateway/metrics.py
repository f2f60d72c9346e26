"""What a gateway counts. What happens for every token is counted as plain numbers (`hub.Tally`) and taken over once a
second.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

from gateway.streams.metrics import REGISTRY, Histogram

CONNECTIONS: Final = Gauge("tokenwire_connections", "Open sockets and event streams.", ["kind"], registry=REGISTRY)
WEBSOCKETS: Final = CONNECTIONS.labels("websocket")
EVENT_STREAMS: Final = CONNECTIONS.labels("sse")
VIEWERS: Final = Gauge("tokenwire_viewers", "Viewers: a socket counts once a conversation.", registry=REGISTRY)
BEHIND: Final = Gauge("tokenwire_viewers_behind", "Viewers that can not take more at the moment.", registry=REGISTRY)
ROOMS: Final = Gauge("tokenwire_rooms", "Conversations held in memory.", registry=REGISTRY)
OPEN_LOGS: Final = Gauge("tokenwire_open_logs", "Response logs without an end held in memory.", registry=REGISTRY)
LEAVING: Final = Gauge("tokenwire_leaving", "1 while this gateway is leaving.", registry=REGISTRY)

MESSAGES: Final = Counter("tokenwire_feed_messages", "Messages received from the store's channels.", registry=REGISTRY)
RECEIVED: Final = Counter(
    "tokenwire_entries_received", "Log entries taken in; one of text holds a token or several.", registry=REGISTRY
)
DELIVERED: Final = Counter(
    "tokenwire_entries_delivered", "Log entries given to viewers, counted once a viewer.", registry=REGISTRY
)
FRAMES: Final = Counter("tokenwire_frames", "Frames given to viewers, counted once a viewer.", registry=REGISTRY)
ADDED_DELAY: Final = Histogram(
    "tokenwire_added_delay_seconds",
    "From the arrival of what was published to the last of its frames being written, a flush.",
    (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
FIRST_TOKEN: Final = Histogram(
    "tokenwire_time_to_first_token_seconds",
    "From a submit at this gateway to the first text of its answer being written to viewers here.",
    (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)

SUBMITS: Final = Counter(
    "tokenwire_submits",
    "Messages (send) and retries, by outcome: accepted, duplicate, or the error's code.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
STOPS: Final = Counter("tokenwire_stops", "Responses ended by a client's stop.", ["reason"], registry=REGISTRY)
WATCHES: Final = Counter(
    "tokenwire_watches",
    "Watches begun: new, resumed from a cursor, or with one that could not be continued (lost, unknown).",
    ["outcome"],
    registry=REGISTRY,
)
REPLAYED: Final = Counter(
    "tokenwire_replayed_entries", "Log entries that came before a resumed viewer did.", registry=REGISTRY
)
REFUSED: Final = Counter("tokenwire_refused", "Connections closed, by close code.", ["code"], registry=REGISTRY)

GAPS: Final = Counter(
    "tokenwire_gaps", "Publishes that did not follow on the copy of their log, which was then read.", registry=REGISTRY
)
REPAIRS: Final = Counter("tokenwire_repairs", "Logs found behind only by comparing with the store.", registry=REGISTRY)
READS: Final = Counter("tokenwire_log_reads", "Logs read whole from the store.", ["log"], registry=REGISTRY)
SUBSCRIPTIONS: Final = Counter("tokenwire_subscriptions", "Times the subscription was made anew.", registry=REGISTRY)

QUEUE: Final = Gauge(
    "tokenwire_queue_jobs",
    "Responses of the whole fleet: waiting for a worker, running, or behind another of their conversation.",
    ["state"],
    registry=REGISTRY,
)
QUEUE_LAG: Final = Gauge(
    "tokenwire_queue_lag_seconds",
    "For how long the oldest waiting response has waited for a worker.",
    registry=REGISTRY,
)
FLEET: Final = Gauge(
    "tokenwire_fleet_processes",
    "Gateways and workers of the whole fleet that gave a sign of life of late.",
    ["kind"],
    registry=REGISTRY,
)
