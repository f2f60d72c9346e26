"""What the fleet does, from what its processes say of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.hub import Hub
from gateway.operations.fleet import Fleet, survey, watched
from gateway.response_replica import ResponseReplica
from gateway.room import Position, Room
from gateway.streams import log_entries
from gateway.streams.log_entries import NONCES, End, HistoryId, LogId, Queued, Start
from gateway.streams.records import MAX_RESPONSES, Gateway, Queue, Record, Watched, Worker, Working

if TYPE_CHECKING:
    from gateway.frame_batch import FrameBatch

A, B = "r00aaaaaaaaaaaaaaaa", "r00bbbbbbbbbbbbbbbb"


def gateway(name: str, *responses: Watched) -> Gateway:
    return Gateway(
        name=name,
        age=1.0,
        cpu=0.0,
        memory=0,
        connections=2,
        viewers=2,
        behind=0,
        open_logs=len(responses),
        received=0.0,
        delivered=0.0,
        responses=responses,
    )


def worker(name: str, *responses: Working) -> Worker:
    return Worker(
        name=name,
        age=1.0,
        cpu=0.0,
        memory=0,
        running=len(responses),
        concurrency=300,
        models=("default",),
        responses=responses,
    )


def working(response: str, attempt: int = 1, age: float = 1.0, rate: float = 10.0) -> Working:
    return Working(
        response=response,
        conversation="c1",
        model="default",
        attempt=attempt,
        age=age,
        entries=5,
        size=50,
        rate=rate,
    )


def surveyed(*records: Record) -> Fleet:
    return survey(records, Queue(), 0.0)


def test_viewers_of_all_gateways_join_one_response() -> None:
    fleet = surveyed(
        gateway("g1", Watched(A, "c1", "running", 1, 3, 1, 9)),
        gateway("g2", Watched(A, "c1", "running", 1, 2, 0, 0)),
        worker("w1", working(A)),
    )
    (row,) = fleet.responses
    assert (row.viewers, row.behind, row.lag, row.gateways) == (5, 1, 9, 2)
    assert (row.worker, row.state, row.age, row.rate) == ("w1", "running", 1.0, 10.0)
    assert [process.name for process in fleet.gateways + fleet.workers] == ["g1", "g2", "w1"]
    assert fleet.workers[0].rate == 10.0


def test_orphaned_responses_come_first_and_queued_last() -> None:
    queued = "r00cccccccccccccccc"
    fleet = surveyed(
        worker("w1", working(A)),
        gateway("g1", Watched(B, "c2", "queued", 0, 1, 0, 0), Watched(A, "c1", "waiting", 1, 1, 0, 0)),
        gateway("g2", Watched(B, "c2", "running", 1, 1, 0, 0), Watched(queued, "c3", "queued", 0, 1, 0, 0)),
    )
    assert [(row.response, row.worker, row.state) for row in fleet.responses] == [
        (B, None, "running"),
        (A, "w1", "waiting"),
        (queued, None, "queued"),
    ]


def test_lagging_responses_come_before_older_ones() -> None:
    names = [f"r00{number:016}" for number in range(3)]
    fleet = surveyed(
        worker("w1", working(names[0], age=1.0), working(names[1], age=9.0), working(names[2], age=2.0)),
        gateway("g1", Watched(names[2], "c1", "running", 1, 1, 1, 4)),
    )
    assert [row.response for row in fleet.responses] == [names[2], names[1], names[0]]


def test_the_later_attempt_wins_between_two_workers() -> None:
    for records in ((worker("w1", working(A, 1)), worker("w2", working(A, 2))), (worker("w2", working(A, 2)),)):
        assert [row.worker for row in surveyed(*records).responses] == ["w2"]
    reverse = surveyed(worker("w2", working(A, 2)), worker("w1", working(A, 1)))
    assert [row.worker for row in reverse.responses] == ["w2"]


def test_the_state_of_an_older_attempt_is_ignored() -> None:
    fleet = surveyed(gateway("g1", Watched(A, "c1", "waiting", 1, 1, 0, 0)), worker("w2", working(A, 2)))
    assert [(row.state, row.attempt) for row in fleet.responses] == [("running", 2)]


class Screen:
    """A viewer."""

    direct_write = None

    def send(self, burst: FrameBatch) -> None:
        pass


QUEUED = (LogId(1, 1), log_entries.encode(log_entries.QUEUED, Queued("c1", "m1", "default")))
STARTED = (LogId(NONCES, 2), log_entries.encode(log_entries.START, Start("default")))
TEXT = (LogId(NONCES, 3), log_entries.TEXT + b"Hello")
ENDED = (LogId(NONCES, 4), log_entries.encode(log_entries.END, End("complete", retryable=False)))


def room_with(hub: Hub, name: str, response: str, *entries: tuple[LogId, bytes]) -> Room:
    room = hub.open(name)
    room.responses[response] = replica = ResponseReplica(response)
    if entries:
        replica.extend(None, entries)
    return room


def test_a_gateway_reports_viewers_and_lag_of_a_response() -> None:
    hub = Hub()
    room = room_with(hub, "c1", A, QUEUED)
    turns = HistoryId(0, 0)
    screens = [Screen() for _ in range(3)]
    for screen in screens:
        hub.subscribe(room, screen, Position(turns, ((A, None),)))
    hub.flush()
    hub.pause(screens[2])
    room.responses[A].extend(QUEUED[0], [STARTED, TEXT])
    assert watched([room]) == (Watched(A, "c1", "running", 1, 3, 1, 2),)


def test_a_viewer_without_a_cursor_lacks_every_entry() -> None:
    hub = Hub()
    room = room_with(hub, "c1", A, QUEUED, STARTED)
    room.lagging[Screen()] = Position(None, ((A, None), (B, None)))
    hub.subscribe(room, Screen(), Position(None, ((B, None),)))
    assert watched([room]) == (Watched(A, "c1", "running", 1, 1, 1, 2),)


def test_an_ended_or_missing_log_is_not_open() -> None:
    hub = Hub()
    rooms = [room_with(hub, "c1", A, QUEUED, STARTED, TEXT, ENDED), room_with(hub, "c2", B)]
    assert watched(rooms) == ()


def test_a_report_has_a_maximum_of_responses() -> None:
    hub = Hub()
    rooms = [room_with(hub, f"c{number}", f"r00{number:016}", QUEUED) for number in range(MAX_RESPONSES + 2)]
    assert len(watched(rooms)) == MAX_RESPONSES
