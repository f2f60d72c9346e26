"""Memory that each subject holds by its watches and by the HTTP bodies that are sent to it.

One token must not fill a gateway for all clients.

A core module.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


SUBJECT_SHARE: Final = 1 / 8
"""Share of TOKENWIRE_MEMORY that one subject may hold: the conversations that it watches, and bodies on their way."""

BODIES_SHARE: Final = 1 / 4
"""The bodies on their way to all clients may hold so much, beside TOKENWIRE_MEMORY: they are copies of logs."""

TOO_MUCH_SENT: Final = "The answers that are sent to you hold too much memory: read them first."

TOO_MUCH_WATCHED: Final = "The conversations that you watch hold too much memory: unwatch some."


class Watcher(Protocol):
    """A viewer of a subject."""

    def end_watch(self, conversation: str) -> None:
        """End the watch of a conversation, because the subject holds too much memory, and call `Watches.remove`."""


@dataclass(slots=True)
class _Watched:
    size: int
    """Bytes of the conversation, as of the last watch or `measure`."""
    watchers: list[Watcher] = field(default_factory=list)


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
        self._watched: dict[str, dict[str, _Watched]] = {}
        """Of each subject, by conversation."""

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
        return sum(each.size for each in watched.values()) + self._bodies.get(subject or "", 0)

    def add(self, subject: str | None, conversation: str, size: int, watcher: Watcher) -> None:
        """Count a viewer of a conversation that holds so many bytes, until `remove`."""
        if subject is not None:
            watched = self._watched.setdefault(subject, {}).setdefault(conversation, _Watched(size))
            watched.size = size
            watched.watchers.append(watcher)

    def remove(self, subject: str | None, conversation: str, watcher: Watcher) -> None:
        """Stop to count a viewer."""
        if subject is None:
            return
        watched = self._watched[subject]
        watched[conversation].watchers.remove(watcher)
        if not watched[conversation].watchers:
            del watched[conversation]
            if not watched:
                del self._watched[subject]

    def measure(self, size_of: Callable[[str], int]) -> None:
        """Update the sizes of the conversations: they grow after they were watched."""
        for watched in self._watched.values():
            for conversation, each in watched.items():
                each.size = size_of(conversation)

    def excess(self) -> list[tuple[Watcher, str]]:
        """Return the largest watches of each subject beyond its share, to be ended; its smallest one stays.

        To be called when the memory is short.
        """
        found = []
        for subject, watched in self._watched.items():
            held = self._held(subject)
            by_size = sorted(watched, key=lambda name: watched[name].size, reverse=True)
            for conversation in by_size[:-1]:
                if held <= self._max_bytes:
                    break
                held -= watched[conversation].size
                found += [(watcher, conversation) for watcher in watched[conversation].watchers]
        return found
