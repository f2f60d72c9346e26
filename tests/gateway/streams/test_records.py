"""What processes say of themselves, as it is stored and read."""

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
WORKERS = st.builds(
    *(Worker, st.text(), SECONDS, SECONDS, COUNT, COUNT, COUNT, st.tuples(st.text()), st.tuples(WORKING), st.booleans())
)
GATEWAYS = st.builds(
    *(Gateway, st.text(), SECONDS, SECONDS, COUNT, COUNT, COUNT, COUNT, COUNT, SECONDS, SECONDS, st.tuples(WATCHED)),
    st.booleans(),
)


@given(WORKERS | GATEWAYS)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert records.decode(records.encode(record)) == record


def test_its_name_says_what_it_is_of() -> None:
    worker = Worker("w1", 1.0, 0.0, 0, 0, 1, (), ())
    assert records.name_of(worker) == "worker:w1"


@pytest.mark.parametrize("data", [b"", b"{}", b'{"kind":"oracle"}', b"\xff", b"[" * 5000])
def test_what_is_no_record_is_none(data: bytes) -> None:
    assert records.decode(data) is None
