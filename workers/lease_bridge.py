"""Decides when the leases of a blocked worker are renewed, and encodes what it and its lease process send each other.

Lines of JSON. To the process: Start, then Hold and Drop for each change, and an empty line as a sign of life. From it:
Lost and Failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from gateway.streams.liveness import renewal_interval_s
from gateway.streams.queued_jobs import Job

if TYPE_CHECKING:
    from collections.abc import Iterable

SIGNS_PER_LEASE: Final = 10
"""Signs of life of a worker in one lease: few enough to cost nothing, and the first renewal comes early enough."""

MISSED_SIGNS: Final = 2
MAX_BLOCKED_S: Final = 120.0
"""Seconds for which the leases of a blocked worker are renewed; then other workers take its answers over."""

SIGN: Final = b"\n"


class Start(msgspec.Struct, frozen=True, array_like=True, tag="start"):
    """The first message: the address of the store and its retention, the worker and its process id."""

    store: str
    log_s: float
    conversation_s: float
    submission_s: float
    consumer: str
    parent: int
    lease_s: float
    max_blocked_s: float


class Hold(msgspec.Struct, frozen=True, array_like=True, tag="hold"):
    """The worker holds this job. `instructions`: the id of the stored instructions that it needs."""

    id: str
    response: str
    conversation: str
    instructions: str | None = None

    @property
    def job(self) -> Job:
        """The job as the streams have it."""
        return Job(self.id, self.response, self.conversation)


class Drop(msgspec.Struct, frozen=True, array_like=True, tag="drop"):
    """The worker does not hold this job any more."""

    id: str


class Lost(msgspec.Struct, frozen=True, array_like=True, tag="lost"):
    """A renewal of this job had another result than `held`."""

    id: str
    result: str


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """Renewals failed, or the process: the type of the exception, and for a bug the code locations."""

    error: str
    where: str | None = None


Request: TypeAlias = Start | Hold | Drop
Report: TypeAlias = Lost | Failed

_requests: Final[msgspec.json.Decoder[Start | Hold | Drop]] = msgspec.json.Decoder(Start | Hold | Drop)
_reports: Final[msgspec.json.Decoder[Lost | Failed]] = msgspec.json.Decoder(Lost | Failed)


def encode(message: Request | Report) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode(message) + b"\n"


class Lines:
    """The lines of a pipe, which arrive in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes) -> list[bytes]:
        """Return the lines that are whole now, without their ends."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        return whole


def report(line: bytes) -> Report:
    """Decode a line of the process. Raises msgspec.ValidationError, DecodeError."""
    return _reports.decode(line)


def request(line: bytes) -> Request | None:
    """Decode a line of the worker; None is a sign of life. Raises msgspec.ValidationError, DecodeError."""
    return _requests.decode(line) if line else None


class Told:
    """The jobs that the process knows from its worker."""

    def __init__(self) -> None:
        self._known: dict[str, Hold] = {}

    def hold(self, new: Iterable[Hold]) -> bytes:
        """Return the messages about jobs that the worker has acquired."""
        return b"".join(self._changed(new))

    def changes(self, held: Iterable[Hold]) -> bytes:
        """Return the messages after which the process knows exactly these jobs; without a change none."""
        now = {each.id: each for each in held}
        dropped = [id_ for id_ in self._known if id_ not in now]
        for id_ in dropped:
            del self._known[id_]
        return b"".join([*(encode(Drop(id_)) for id_ in dropped), *self._changed(now.values())])

    def _changed(self, held: Iterable[Hold]) -> list[bytes]:
        changed = [each for each in held if self._known.get(each.id) != each]
        for each in changed:
            self._known[each.id] = each
        return [encode(each) for each in changed]


class LeaseBridge:
    """The jobs of one worker, and when their leases are renewed in its place. Times are of any monotonic clock."""

    def __init__(self, lease_s: float, max_blocked_s: float, now: float) -> None:
        self._lease_s = lease_s
        self._max_blocked_s = max_blocked_s
        self._held: dict[str, Hold] = {}
        self._signed_at = now
        self._due_at = now
        self.sign(now)

    @property
    def held(self) -> list[Hold]:
        """The jobs whose leases are renewed."""
        return list(self._held.values())

    def apply(self, message: Hold | Drop) -> None:
        """Apply what the worker tells about a job."""
        if isinstance(message, Hold):
            self._held[message.id] = message
        else:
            self.forget(message.id)

    def forget(self, id_: str) -> None:
        """Renew this job no more."""
        self._held.pop(id_, None)

    def sign(self, now: float) -> None:
        """Record that the worker runs: it renews its leases itself."""
        self._signed_at = now
        self._due_at = now + MISSED_SIGNS * self._lease_s / SIGNS_PER_LEASE

    def is_due(self, now: float) -> bool:
        """Tell whether the leases have to be renewed now: the worker is blocked, and not for too long."""
        return self._due_at <= now < self._signed_at + self._max_blocked_s

    def renewing(self, now: float) -> None:
        """Record that a renewal begins."""
        self._due_at = now + renewal_interval_s(self._lease_s)

    def wait_s(self, now: float) -> float:
        """Return the seconds after which the next renewal may be due."""
        pause_s = self._due_at - now
        return pause_s if pause_s > 0 else self._lease_s / SIGNS_PER_LEASE
