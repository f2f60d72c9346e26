"""Streams that are made from valid ones are read as their oracle says; see `tests.provider_fuzz` for the long form."""

from __future__ import annotations

import random

import pytest

from tests.provider_fuzz import make, read, run

STREAMS = 400


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    # Loading the machine's certificates takes longer than a test, and no test uses TLS.
    monkeypatch.setenv("SSL_CERT_DIR", "/")


async def test_streams_are_read_as_the_oracle_says() -> None:
    assert await run(range(STREAMS)) == []


def test_streams_have_every_end_and_both_apis() -> None:
    made = [make(random.Random(seed)) for seed in range(STREAMS)]
    assert {stream.api for stream in made} == {"openai", "anthropic"}
    ends = {stream.end for stream in made}
    assert ends >= {"complete", "length", "filtered", "refused"}
    assert ends >= {"provider_incomplete", "provider_stopped", "provider_overloaded"}
    assert {stream.breaks for stream in made} == {True, False}


async def test_oracle_finds_an_answer_that_was_cut_off() -> None:
    stream = next(each for each in map(make, map(random.Random, range(STREAMS))) if each.end == "complete")
    stream.chunks, stream.breaks = [b": begins\n\n"], True
    _, _, end = await read(stream)
    assert end == "provider_incomplete"
