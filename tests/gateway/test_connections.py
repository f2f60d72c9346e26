"""The connections of a process: limits from both sides, reserved places, and which connection makes room."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.connections import MAX_PER_ADDRESS, MAX_RESERVED, MIN_SILENT_S, Connections, Limit

LATER = 2 * MIN_SILENT_S


def opened(connections: Connections[str], count: int, address: str | None = "10.0.0.1", now: float = 0.0) -> list[str]:
    names = [f"{address} {now} {number}" for number in range(count)]
    for name in names:
        assert connections.open(name, address, now) is None
    return names


def test_connection_beyond_the_total_gets_a_reserved_place() -> None:
    connections = Connections[str](3)
    for name in opened(connections, 3):
        assert connections.beyond(name) is None
        connections.busy(name)
    assert connections.open("late", "10.0.0.2", LATER) is None
    assert connections.beyond("late") is Limit.TOTAL
    assert len(connections) == 4
    connections.close("late")
    connections.close("late")
    assert len(connections) == 3


@pytest.mark.parametrize(("address", "neighbour"), [("10.0.0.1", "10.0.0.1"), ("2001:db8::1", "2001:db8::2")])
def test_connection_beyond_its_address_limit_gets_a_reserved_place(address: str, neighbour: str) -> None:
    connections = Connections[str](1000)
    names = opened(connections, MAX_PER_ADDRESS, address)
    assert connections.open("late", neighbour, LATER) is None
    assert connections.beyond("late") is Limit.ADDRESS
    assert connections.open("other", "10.9.9.9", LATER) is None
    assert connections.beyond("other") is None
    connections.close(names[0])
    assert connections.open("next", neighbour, LATER) is None
    assert connections.beyond("next") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", None])
def test_loopback_and_proxies_have_no_address_limit(address: str | None) -> None:
    connections = Connections[str](2 * MAX_PER_ADDRESS)
    assert all(connections.beyond(name) is None for name in opened(connections, 2 * MAX_PER_ADDRESS, address))
    limited = Connections[str](100, 5)
    opened(limited, 5, "127.0.0.1")
    limited.open("late", "127.0.0.1", 0.0)
    assert limited.beyond("late") is Limit.ADDRESS


@pytest.mark.parametrize("address", ["127.evil", "", "unknown"])
def test_text_that_is_no_address_has_the_limit_of_one(address: str) -> None:
    connections = Connections[str](1000)
    opened(connections, MAX_PER_ADDRESS, address)
    connections.open("late", address, 0.0)
    assert connections.beyond("late") is Limit.ADDRESS


def test_oldest_silent_connection_makes_room() -> None:
    connections = Connections[str](3)
    first, second, third = opened(connections, 3)
    connections.busy(first)
    assert connections.open("a", None, MIN_SILENT_S / 2) is None
    assert connections.beyond("a") is Limit.TOTAL
    assert connections.open("b", None, MIN_SILENT_S) == second
    assert connections.beyond("b") is None
    connections.busy("b")
    connections.silent(first, MIN_SILENT_S)
    assert connections.open("c", None, LATER) == third
    connections.busy("c")
    assert connections.open("d", None, LATER) == first
    connections.busy("d")
    assert connections.open("e", None, 2 * LATER) is None
    assert connections.beyond("e") is Limit.TOTAL


def test_reserved_places_are_bounded_and_the_oldest_silent_one_makes_room() -> None:
    connections = Connections[str](1)
    connections.busy(*opened(connections, 1))
    reserved = opened(connections, MAX_RESERVED, now=LATER)
    assert len(connections) == 1 + MAX_RESERVED
    connections.busy(reserved[0])
    assert connections.open("late", None, LATER) == reserved[1]
    for name in [*reserved[2:], "late"]:
        connections.busy(name)
    assert connections.open("too late", None, LATER) == "too late"
    assert connections.beyond("too late") is None
    connections.silent(reserved[0], LATER)
    assert connections.open("again", None, LATER) == reserved[0]
    connections.silent("unknown", LATER)
    assert len(connections) == 1 + MAX_RESERVED


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 30), st.sampled_from(["10.0.0.1", "10.0.0.2", None])), max_size=200
    )
)
def test_counts_hold_in_any_sequence(steps: list[tuple[int, int, str | None]]) -> None:
    """Compared with a set of open connections: no limit is passed, nothing is counted twice or for ever."""
    connections = Connections[int](8, 5)
    inside: dict[int, str | None] = {}
    for now, (action, number, address) in enumerate(steps):
        if action == 0 and number not in inside:
            victim = connections.open(number, address, float(now))
            inside[number] = address
            if victim is not None:
                del inside[victim]
        elif action == 1 and number in inside:
            connections.busy(number)
        elif action == 2 and number in inside:
            connections.silent(number, float(now))
        elif action == 3:
            connections.close(number)
            inside.pop(number, None)
        assert len(connections) == len(inside) <= 8 + MAX_RESERVED
        counted = [each for each in inside if connections.beyond(each) is None]
        assert len(counted) <= 8
        assert max(Counter(inside[each] for each in counted if inside[each] is not None).values(), default=0) <= 5
    for number in list(inside):
        connections.close(number)
    assert len(connections) == 0
