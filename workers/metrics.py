"""Metrics of a worker. Names that begin with `gen_ai` follow OpenTelemetry's conventions for GenAI."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from gateway.streams.metrics import REGISTRY

RUNNING: Final = Gauge("tokenwire_worker_responses", "Responses that this worker generates.", registry=REGISTRY)
CONCURRENCY: Final = Gauge(
    "tokenwire_worker_concurrency",
    "Maximum number of responses that this worker generates at the same time.",
    registry=REGISTRY,
)
ATTEMPTS: Final = Counter(
    "tokenwire_attempts",
    "Attempts started: the first at a response, or a take-over from another worker.",
    ["kind"],
    registry=REGISTRY,
)
FIRST_ATTEMPTS: Final = ATTEMPTS.labels("first")
TAKE_OVERS: Final = ATTEMPTS.labels("take_over")
FENCES: Final = Counter(
    "tokenwire_fences",
    "Attempts stopped because the response ended elsewhere or another worker took it over, by detection: "
    "append, renewal, control.",
    ["noticed"],
    registry=REGISTRY,
)
ENDED: Final = Counter(
    "tokenwire_responses_ended", "Responses that this worker ended, by reason.", ["reason"], registry=REGISTRY
)
QUEUE_WAIT: Final = Histogram(
    "tokenwire_queue_wait_seconds",
    "From queueing a job to its first attempt: how long it waited for a worker.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
    registry=REGISTRY,
)
APPENDED: Final = Counter("tokenwire_entries_appended", "Log entries appended.", registry=REGISTRY)
APPENDS: Final = Counter("tokenwire_appends", "Appends that carried them.", registry=REGISTRY)
BREAKER_OPENINGS: Final = Counter(
    "tokenwire_target_pauses",
    "Times that the circuit breaker of a target opened, because its calls failed in a row.",
    ["gen_ai_provider_name", "gen_ai_request_model"],
    registry=REGISTRY,
)
SWITCHES: Final = Counter(
    "tokenwire_target_switches",
    "Answers that went on at another target after a failed call, by whether text had been shown.",
    ["shown"],
    registry=REGISTRY,
)
ABANDONED: Final = Gauge(
    "tokenwire_generators_abandoned",
    "Generators that ignored a stop and still run: each takes memory and CPU until the worker restarts.",
    registry=REGISTRY,
)
PROVIDER_WAITS: Final = Counter(
    "tokenwire_provider_waits",
    "Retries of provider calls that failed before the first token, by error.",
    ["error_type"],
    registry=REGISTRY,
)

_MODEL: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
DURATION: Final = Histogram(
    "gen_ai_client_operation_duration_seconds",
    "Duration of a provider call, to its last byte; error_type is empty if it succeeded.",
    [*_MODEL, "error_type"],
    buckets=(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68),
    registry=REGISTRY,
)
FIRST_CHUNK: Final = Histogram(
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    "From a provider call to its first token.",
    _MODEL,
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    registry=REGISTRY,
)
TOKENS: Final = Histogram(
    "gen_ai_client_token_usage",
    "Tokens of a call as counted by the provider; gen_ai_token_type is input or output.",
    [*_MODEL, "gen_ai_token_type"],
    buckets=tuple(4**power for power in range(13)),
    registry=REGISTRY,
)

MAX_CODES: Final = 64
"""Error codes that become labels; a generator may raise any number of them, and each label stays in memory."""

_codes: Final[set[str]] = set()


def code_label(code: str) -> str:
    """Return an error code as a label, `other` once there are `MAX_CODES`."""
    if code not in _codes:
        if len(_codes) >= MAX_CODES:
            return "other"
        _codes.add(code)
    return code
