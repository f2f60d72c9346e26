"""`tokenwire top`: the lines for a fleet at any terminal size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.operations.fleet import survey
from gateway.operations.top import lines, seconds, size
from gateway.streams.records import Gateway, Queue, Watched, Worker, Working


def working(response: str, conversation: str) -> Working:
    return Working(
        response=response,
        conversation=conversation,
        model="default",
        attempt=1,
        age=2.5,
        entries=9,
        size=12_345,
        rate=40.4,
    )


def worker(
    name: str,
    age: float,
    memory: int,
    models: tuple[str, ...],
    responses: tuple[Working, ...] = (),
    *,
    leaving: bool = False,
) -> Worker:
    return Worker(
        name=name,
        age=age,
        cpu=0.5,
        memory=memory,
        running=1,
        concurrency=300,
        models=models,
        responses=responses,
        leaving=leaving,
    )


FLEET = survey(
    [
        Gateway(
            name="g1",
            age=3700.0,
            cpu=0.25,
            memory=80_000_000,
            connections=12,
            viewers=14,
            behind=1,
            open_logs=2,
            received=40.0,
            delivered=400.0,
            responses=(Watched("r00aaaaaaaaaaaaaaaa", "c1", "running", 1, 13, 1, 7),),
        ),
        worker("w1", 59.0, 90_000_000, ("default",), leaving=True),
        worker("w2", 200_000.0, 1_500_000_000, ("default", "fast"), (working("r00aaaaaaaaaaaaaaaa", "c1"),)),
    ],
    Queue(3, 1, 2, 61.0),
    0.0,
)


def test_a_wide_terminal_shows_every_column() -> None:
    assert lines(FLEET, "12:00:00", 200, 50) == [
        "Tokenwire 12:00:00   1 gateway   2 workers   1 running   3 waiting, the oldest 1m01   2 blocked",
        "",
        "GATEWAY    UP  CPU  MEMORY  CONNECTED  VIEWERS  LAGGING  LOGS  IN/s  OUT/s",
        "g1       1h01  25%     80M         12       14        1     2    40    400",
        "",
        "WORKER            UP  CPU  MEMORY  RUNNING  TEXT/s  MODELS",
        "w1 (draining)  59.0s  50%     90M    1/300       0  default",
        "w2              2d07  50%    1.5G    1/300      40  default; fast",
        "",
        "RESPONSE             STATE     AGE  TRY  ENTRIES  TEXT  TEXT/s  VIEWERS  LAGGING  LAG  WORKER  CONVERSATION",
        "r00aaaaaaaaaaaaaaaa  running  2.5s    1        9   12k      40       13        1    7  w2      c1",
    ]


@given(st.integers(20, 200), st.integers(1, 30))
def test_lines_fit_every_terminal_size(width: int, height: int) -> None:
    shown = lines(FLEET, "12:00:00", width, height)
    assert len(shown) <= height
    assert all(len(line) <= width for line in shown)


def test_responses_that_do_not_fit_are_counted() -> None:
    responses = tuple(working(f"r00{index:016}", "c1") for index in range(50))
    fleet = survey([worker("w1", 1.0, 0, ("m",), responses)], Queue(0, 50), 0.0)
    shown = lines(fleet, "12:00:00", 120, 20)
    assert len(shown) <= 20
    assert shown[-1] == f"and {50 - sum(line.startswith('r00') for line in shown)} more"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0.04, "0.0s"), (59.9, "59.9s"), (60, "1m00"), (3600, "1h00"), (200_000, "2d07")]
)
def test_a_duration_has_at_most_two_units(value: float | None, shown: str) -> None:
    assert seconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (999, "999"), (1000, "1k"), (2.5e6, "2M"), (3.2e9, "3.2G")])
def test_a_size_is_in_its_largest_unit(value: float | None, shown: str) -> None:
    assert size(value) == shown


def test_80_columns_show_long_names_without_cutting_a_line() -> None:
    host = "gateway-7d9f8b6c5d-x2x4z-1234-a1b2c3"
    responses = (working("r00aaaaaaaaaaaaaaaa", "support-chat-of-a-customer-0123456789"),)
    models = ("default", "demo", "fast", "openai", "anthropic")
    fleet = survey([worker(f"w{host}", 59.0, 90_000_000, models, responses)], Queue(3, 1, 2, 61.0), 0.0)
    shown = lines(fleet, "12:00:00", 80, 24)
    assert max(map(len, shown)) <= 80
    header = next(line for line in shown if line.startswith("RESPONSE"))
    assert header.split() == ["RESPONSE", "STATE", "AGE", "VIEWERS", "LAGGING", "WORKER"]
    assert "x2x4z-1234-a1b2c3" in "\n".join(shown)
    assert "CONVERSATION" in "\n".join(lines(fleet, "12:00:00", 160, 24))
