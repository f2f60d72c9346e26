"""Memory that the watches of each subject hold, so that one token cannot fill a gateway for all clients.

A core module.
"""

from __future__ import annotations

from typing import Final

SUBJECT_SHARE: Final = 1 / 8
"""Share of TOKENWIRE_MEMORY that the conversations may hold that one subject watches."""

TOO_MUCH_WATCHED: Final = "The conversations that you watch hold too much memory: unwatch some."


class Watches:
    """The conversations that each subject watches, on all of its sockets and event streams."""

    __slots__ = ("_max_bytes", "_watched")

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of all conversations in memory."""
        self._max_bytes = int(max_bytes * SUBJECT_SHARE)
        self._watched: dict[str, dict[str, tuple[int, int]]] = {}
        """Of each subject and conversation: the viewers, and the bytes when it was watched last."""

    def allows(self, subject: str | None, conversation: str) -> bool:
        """Tell whether a subject may watch a conversation: one that it watches already, its first, or within the limit.

        A subject of None, and the only conversation of a subject, have no limit.
        """
        watched = self._watched.get(subject) if subject is not None else None
        if not watched or conversation in watched:
            return True
        return sum(size for _, size in watched.values()) < self._max_bytes

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
