"""Memory that each subject holds by its watches and by the HTTP bodies that are sent to it.

One token must not fill a gateway for all clients.

A core module.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

SUBJECT_SHARE: Final = 1 / 8
"""Share of TOKENWIRE_MEMORY that one subject may hold: the conversations that it watches, and bodies on their way."""

BODIES_SHARE: Final = 1 / 4
"""The bodies on their way to all clients may hold so much, beside TOKENWIRE_MEMORY: they are copies of logs."""

TOO_MUCH_SENT: Final = "The answers that are sent to you hold too much memory: read them first."

TOO_MUCH_WATCHED: Final = "The conversations that you watch hold too much memory: unwatch some."


class Watches:
    """The conversations that each subject watches, on all of its sockets and event streams, and its HTTP bodies."""

    __slots__ = ("_bodies", "_bodies_bytes", "_max_bodies_bytes", "_max_bytes", "_watched")

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of all conversations in memory."""
        self._max_bytes = int(max_bytes * SUBJECT_SHARE)
        self._max_bodies_bytes = int(max_bytes * BODIES_SHARE)
        self._bodies: Counter[str] = Counter()
        """Bytes of the bodies that are sent to each subject."""
        self._bodies_bytes = 0
        self._watched: dict[str, dict[str, tuple[int, int]]] = {}
        """Of each subject and conversation: the viewers, and the bytes when it was watched last."""

    def allows(self, subject: str | None, conversation: str) -> bool:
        """Tell whether a subject may watch a conversation: one that it watches already, its first, or within the limit.

        A subject of None, and the only conversation of a subject, have no limit.
        """
        watched = self._watched.get(subject) if subject is not None else None
        if not watched or conversation in watched:
            return True
        return self._held(subject) < self._max_bytes

    def hold(self, subject: str | None, size: int) -> Literal["too_many", "overloaded"] | None:
        """Count a body of so many bytes until `release`, or return why it may not be sent and count nothing.

        The first body of a subject that holds nothing may be larger than its share.
        """
        if self._bodies_bytes >= self._max_bodies_bytes:
            return "overloaded"
        if subject is not None:
            held = self._held(subject)
            if held and held + size > self._max_bytes:
                return "too_many"
            self._bodies[subject] += size
        self._bodies_bytes += size
        return None

    def release(self, subject: str | None, size: int) -> None:
        """Stop to count a body."""
        self._bodies_bytes -= size
        if subject is not None:
            self._bodies[subject] -= size
            if not self._bodies[subject]:
                del self._bodies[subject]

    def _held(self, subject: str | None) -> int:
        watched = self._watched.get(subject, {}) if subject is not None else {}
        return sum(size for _, size in watched.values()) + self._bodies.get(subject or "", 0)

    def add(self, subject: str | None, conversation: str, size: int) -> None:
        """Count a viewer of a conversation that holds so many bytes, until `remove`."""
        if subject is not None:
            watched = self._watched.setdefault(subject, {})
            viewers, _ = watched.get(conversation, (0, 0))
            watched[conversation] = viewers + 1, size

    def remove(self, subject: str | None, conversation: str) -> None:
        """Stop to count a viewer."""
        if subject is None:
            return
        watched = self._watched[subject]
        viewers, size = watched[conversation]
        if viewers > 1:
            watched[conversation] = viewers - 1, size
        else:
            del watched[conversation]
            if not watched:
                del self._watched[subject]
