"""Prometheus metrics of a gateway. What changes with every token is counted in `hub.Tally` and added once a second."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

from gateway.streams.metrics import REGISTRY, Histogram

CONNECTIONS: Final = Gauge("tokenwire_connections", "Open sockets and event streams.", ["kind"], registry=REGISTRY)
WEBSOCKETS: Final = CONNECTIONS.labels("websocket")
EVENT_STREAMS: Final = CONNECTIONS.labels("sse")
VIEWERS: Final = Gauge("tokenwire_viewers", "Viewers; a socket counts once per conversation.", registry=REGISTRY)
LAGGING_VIEWERS: Final = Gauge(
    "tokenwire_viewers_behind", "Lagging viewers: writes to them are paused (backpressure).", registry=REGISTRY
)
ROOMS: Final = Gauge("tokenwire_rooms", "Conversations held in memory.", registry=REGISTRY)
HELD: Final = Gauge("tokenwire_replica_bytes", "Estimated memory of the logs held here.", registry=REGISTRY)
MEMORY_REFUSALS: Final = Counter(
    "tokenwire_memory_refusals", "Watches refused because TOKENWIRE_MEMORY is used up.", registry=REGISTRY
)
WATCHES_ENDED: Final = Counter(
    "tokenwire_watches_ended", "Watches ended because their subject holds too much memory.", registry=REGISTRY
)
OPEN_LOGS: Final = Gauge("tokenwire_open_logs", "Response logs without an end held in memory.", registry=REGISTRY)
SHUTTING_DOWN: Final = Gauge("tokenwire_leaving", "1 during the graceful shutdown of this gateway.", registry=REGISTRY)

MESSAGES: Final = Counter("tokenwire_feed_messages", "Messages received from the store's channels.", registry=REGISTRY)
RECEIVED: Final = Counter(
    "tokenwire_entries_received", "Log entries received; a text entry holds one or more tokens.", registry=REGISTRY
)
DELIVERED: Final = Counter(
    "tokenwire_entries_delivered", "Log entries sent to viewers, counted once per viewer.", registry=REGISTRY
)
FRAMES: Final = Counter("tokenwire_frames", "Frames sent to viewers, counted once per viewer.", registry=REGISTRY)
ADDED_DELAY: Final = Histogram(
    "tokenwire_added_delay_seconds",
    "Time from the receipt of entries until all frames of the flush were written.",
    (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
FIRST_TOKEN: Final = Histogram(
    "tokenwire_time_to_first_token_seconds",
    "Time from a submit at this gateway until the first text of its answer was written to viewers here.",
    (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)

SUBMITS: Final = Counter(
    "tokenwire_submits",
    "Messages (send) and retries, by outcome: accepted, duplicate, or the error code.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
OVERDUE: Final = Counter(
    "tokenwire_overdue_responses", "Responses that this gateway ended because no worker took them.", registry=REGISTRY
)
STOPS: Final = Counter("tokenwire_stops", "Responses ended by a client's stop.", ["reason"], registry=REGISTRY)
WATCHES: Final = Counter(
    "tokenwire_watches",
    "Watches: new, resumed from a cursor, or with a cursor that could not be resumed (lost, unknown, behind).",
    ["outcome"],
    registry=REGISTRY,
)
REPLAYED: Final = Counter(
    "tokenwire_replayed_entries", "Log entries that resumed viewers had missed.", registry=REGISTRY
)
CLOSED: Final = Counter(
    "tokenwire_refused", "Connections closed by the gateway, by close code.", ["code"], registry=REGISTRY
)
TOKENS_REJECTED: Final = Counter(
    "tokenwire_tokens_rejected", "Rejected tokens, by what was wrong.", ["problem"], registry=REGISTRY
)

GAPS: Final = Counter(
    "tokenwire_gaps",
    "Publishes that did not follow the tail of their replica; the log was read instead.",
    registry=REGISTRY,
)
REPAIRS: Final = Counter("tokenwire_repairs", "Replicas that reconciliation found to differ.", registry=REGISTRY)
READS: Final = Counter("tokenwire_log_reads", "Whole logs read from the store.", ["log"], registry=REGISTRY)
SUBSCRIPTIONS: Final = Counter("tokenwire_subscriptions", "Subscriptions opened.", registry=REGISTRY)

QUEUE: Final = Gauge(
    "tokenwire_queue_jobs",
    "Open responses of the fleet: waiting for a worker, running, or behind another one of their conversation.",
    ["state"],
    registry=REGISTRY,
)
QUEUE_LAG: Final = Gauge(
    "tokenwire_queue_lag_seconds",
    "Time for which the oldest waiting response has waited for a worker.",
    registry=REGISTRY,
)
FLEET: Final = Gauge(
    "tokenwire_fleet_processes",
    "Gateways and workers of the fleet that sent a heartbeat recently.",
    ["kind"],
    registry=REGISTRY,
)
