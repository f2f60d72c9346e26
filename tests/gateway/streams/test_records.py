"""Heartbeat records: encoding and decoding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams import records
from gateway.streams.records import Gateway, Record, Watched, Worker, Working

SECONDS = st.floats(0, 1e9)
COUNT = st.integers(0, 1 << 53)
WORKING = st.builds(Working, attempt=COUNT, age=SECONDS, entries=COUNT, size=COUNT, rate=SECONDS)
WATCHED = st.builds(Watched, attempt=COUNT, viewers=COUNT, behind=COUNT, lag=COUNT)
PROCESS = {"name": st.text(), "age": SECONDS, "cpu": SECONDS, "memory": COUNT, "leaving": st.booleans()}
WORKERS = st.builds(
    Worker,
    **PROCESS,
    running=COUNT,
    concurrency=COUNT,
    models=st.tuples(st.text()),
    responses=st.tuples(WORKING),
)
GATEWAYS = st.builds(
    Gateway,
    **PROCESS,
    connections=COUNT,
    viewers=COUNT,
    behind=COUNT,
    open_logs=COUNT,
    received=SECONDS,
    delivered=SECONDS,
    responses=st.tuples(WATCHED),
)


@given(WORKERS | GATEWAYS)
def test_records_survive_a_round_trip(record: Record) -> None:
    assert records.decode(records.encode(record)) == record


def test_name_contains_kind_and_process() -> None:
    worker = Worker(name="w1", age=1.0, cpu=0.0, memory=0, running=0, concurrency=1, models=(), responses=())
    assert records.name_of(worker) == "worker:w1"


@pytest.mark.parametrize("data", [b"", b"{}", b'{"kind":"oracle"}', b"\xff", b"[" * 5000])
def test_other_bytes_decode_as_none(data: bytes) -> None:
    assert records.decode(data) is None
