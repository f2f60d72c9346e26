"""Protections, each taken away in a child process: what the checker must then find shows that it can.

Nothing of this can be reached by a setting of the product.
"""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


def count_on_a_signal() -> None:
    """No protection: SIGUSR1 lets the process say what it holds, for the soak."""
    from gateway.streams.store import store

    initialize = store.Store.__init__

    def noted(self: store.Store, *arguments: Any, **options: Any) -> None:
        initialize(self, *arguments, **options)

        def say() -> None:
            pool: Any = self.client.connection_pool
            counts = {
                "tasks": len(asyncio.all_tasks()),
                "in_use": len(pool._in_use_connections),
                "idle": len(pool._available_connections),
            }
            print(f"CENSUS {json.dumps(counts)}", flush=True)

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, say)

    store.Store.__init__ = noted  # type: ignore[method-assign]


def _rewrite(script: str, what: bytes, by: bytes) -> None:
    """Change a script on its way to the store."""
    from gateway.streams.store import store

    read = store._source

    def rewritten(name: str) -> bytes:
        source = read(name)
        assert name != script or what in source, f"{script} has no {what!r} any more"
        return source.replace(what, by) if name == script else source

    store._source = rewritten


CONDITION: Final = b"if last[1] ~= ARGV[2] then return last[1] end"


def append_whatever_the_log_ends_with() -> None:
    """A tail that a failover lost is not noticed, and stays a hole."""
    _rewrite("append", CONDITION, b"")


def append_behind_whoever_wrote_last() -> None:
    """A worker that lost its lease writes on, behind the one that took over."""
    renumbered = b"""if last[1] ~= ARGV[2] then
      local attempt, seq = string.match(last[1], '(%d+)-(%d+)')
      ARGV[3] = string.format('%s-%.0f', attempt, seq + 1)
    end"""
    _rewrite("append", CONDITION, renumbered)


def forget_submit_keys() -> None:
    """The same submit twice is two messages."""
    _rewrite("submit", b"if known[1] then", b"if false then")


def renew_no_lease() -> None:
    """A worker that lives is taken for dead."""
    from workers.pool import Pool

    async def sleep(_: Any) -> None:
        await asyncio.Event().wait()

    Pool._keep_leases = sleep  # type: ignore[method-assign, assignment]


def take_nothing_over() -> None:
    """The jobs of a dead worker are nobody's."""
    from gateway.streams import jobs

    take = jobs.take

    async def take_new(
        store: Any, consumer: str, partitions: Any, room: int, lease: float | None, known_for: float = 0.0
    ) -> Any:
        return await take(store, consumer, partitions, room, None)

    jobs.take = take_new


def compare_nothing() -> None:
    """What a gateway did not hear, it never learns."""
    from gateway.feed.feed import Feed

    async def sleep(_: Any, partition: int) -> None:
        await asyncio.Event().wait()

    Feed._compare = sleep  # type: ignore[method-assign, assignment]


def see_no_gaps() -> None:
    """What is published is taken for what comes next."""
    from gateway import response_replica
    from gateway.replica import Outcome

    def fresh(tail: Any, has: Any, previous: Any, entries: Any) -> Any:
        return [each for each in entries if tail is None or each[0].seq > tail.seq] or Outcome.KNOWN

    vars(response_replica)["fresh"] = fresh
    response_replica.ResponseReplica.hear = _hear  # type: ignore[method-assign]


def _hear(self: Any, part: Any) -> Any:
    from gateway.replica import Outcome
    from gateway.streams import log_entries
    from gateway.streams.log_entries import LogId

    self.heard = True
    first = log_entries.parse_log_id(part.first)
    if first is None or not part.values:
        return Outcome.GAP
    return self.extend(None, [(LogId(first.attempt, first.seq + n), value) for n, value in enumerate(part.values)])


def take_every_number_for_the_same() -> None:
    """A cursor is its number alone: one that was issued twice is not told apart."""
    from gateway.response_replica import ResponseReplica

    def has(self: Any, cursor: Any) -> bool:
        return self.tail is not None and 1 <= cursor.seq <= self.tail.seq

    ResponseReplica.has = has  # type: ignore[method-assign]


ALL: Final[dict[str, Callable[[], None]]] = {
    "census": count_on_a_signal,
    "condition of an append": append_whatever_the_log_ends_with,
    "fence": append_behind_whoever_wrote_last,
    "submit keys": forget_submit_keys,
    "lease renewal": renew_no_lease,
    "take-over": take_nothing_over,
    "comparison": compare_nothing,
    "gap detection": see_no_gaps,
    "nonce": take_every_number_for_the_same,
}
