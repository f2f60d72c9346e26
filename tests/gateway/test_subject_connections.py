"""Connections of each subject: the limit from both sides, and who has none."""

from __future__ import annotations

from gateway.auth import ANONYMOUS, Identity
from gateway.subject_connections import SubjectConnections

ANN, BOB = Identity("ann", 0.0, ()), Identity("bob", 0.0, ())
LIMIT = 3


def opened(connections: SubjectConnections, identity: Identity, times: int) -> int:
    """Return how many of so many connections are accepted."""
    return sum(connections.open(identity) for _ in range(times))


def test_subject_has_its_limit_and_others_are_served() -> None:
    connections = SubjectConnections(LIMIT)
    assert opened(connections, ANN, 10) == LIMIT
    # Another token of the same subject counts for it.
    assert not connections.open(Identity("ann", 1.0, ("c1",)))
    assert opened(connections, BOB, 10) == LIMIT


def test_closed_connection_makes_room_for_one() -> None:
    connections = SubjectConnections(LIMIT)
    opened(connections, ANN, LIMIT)
    connections.close(ANN)
    assert opened(connections, ANN, 2) == 1
    for _ in range(LIMIT):
        connections.close(ANN)
    assert opened(connections, ANN, 10) == LIMIT


def test_zero_is_no_limit() -> None:
    connections = SubjectConnections(0)
    assert opened(connections, ANN, 1000) == 1000
    connections.close(ANN)


def test_without_authentication_the_limit_of_the_address_holds() -> None:
    connections = SubjectConnections(1)
    assert opened(connections, ANONYMOUS, 1000) == 1000
    connections.close(ANONYMOUS)
